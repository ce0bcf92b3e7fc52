//! In which form the client wants its answer.
//!
//! The first acceptable entry of the `Accept` header wins, as clients order them by preference.
//! Protobuf is not served: clients that list JSON too get JSON.

use super::query::Query;
use bowline_api::status::Status;
use bowline_api::table::IncludeObject;
use http::HeaderMap;
use http::header::ACCEPT;

/// The media types that an answer can have.
const OFFERED: [&str; 2] = ["application/json", "application/yaml"];
/// The media type of the aggregated discovery documents.
pub(super) const AGGREGATED_DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Yaml,
}

/// What is made of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// As they are.
    Full,
    /// A `Table`.
    Table(IncludeObject),
    /// Their metadata only.
    Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) encoding: Encoding,
    pub(super) shape: Shape,
}

impl Form {
    pub(super) const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Full };
}

/// One entry of an `Accept` header.
struct Media<'a> {
    essence: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|parameter| parameter.split_once('=')).collect();
        Self { essence, parameters }
    }

    fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    fn encoding(&self) -> Option<Encoding> {
        match self.essence {
            "application/json" | "*/*" | "application/*" | "" => Some(Encoding::Json),
            "application/yaml" => Some(Encoding::Yaml),
            _ => None,
        }
    }

    fn shape(&self, include: IncludeObject) -> Option<Shape> {
        let meta = self.parameter("g") == "meta.k8s.io" && self.parameter("v") == "v1";
        match self.parameter("as") {
            "" => Some(Shape::Full),
            "Table" if meta => Some(Shape::Table(include)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => Some(Shape::Metadata),
            _ => None,
        }
    }
}

fn accepted(headers: &HeaderMap) -> Vec<Media<'_>> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(Media::parse).collect()
}

/// The form of the answer.
pub(super) fn form(headers: &HeaderMap, query: &Query) -> Result<Form, Status> {
    let include = match query.get("includeObject") {
        "None" => IncludeObject::None,
        "Object" => IncludeObject::Object,
        _ => IncludeObject::Metadata,
    };
    let accepted = accepted(headers);
    if accepted.is_empty() {
        return Ok(Form::JSON);
    }
    accepted
        .iter()
        .find_map(|media| Some(Form { encoding: media.encoding()?, shape: media.shape(include)? }))
        .ok_or_else(|| Status::not_acceptable(&OFFERED))
}

/// Whether the client names this media type.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    accepted(headers).iter().any(|media| media.essence == media_type)
}

/// Whether the client prefers the aggregated discovery document.
pub(super) fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    accepted(headers)
        .iter()
        .find(|media| media.essence == "application/json" && media.parameter("v") != "v2beta1")
        .is_some_and(|media| {
            media.parameter("as") == "APIGroupDiscoveryList"
                && media.parameter("g") == "apidiscovery.k8s.io"
                && media.parameter("v") == "v2"
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())])
    }

    #[test]
    fn the_first_form_that_can_be_served_wins() {
        let table = Shape::Table(IncludeObject::Metadata);
        let json = |shape| Some(Form { encoding: Encoding::Json, shape });
        let cases = [
            ("application/json", json(Shape::Full)),
            ("*/*", json(Shape::Full)),
            ("application/vnd.kubernetes.protobuf,application/json", json(Shape::Full)),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1\
                 ;g=meta.k8s.io,application/json",
                json(table),
            ),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", None),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                json(Shape::Metadata),
            ),
            ("application/yaml", Some(Form { encoding: Encoding::Yaml, shape: Shape::Full })),
        ];
        for (accept, expected) in cases {
            assert_eq!(form(&headers(accept), &Query::default()).ok(), expected, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new(), &Query::default()).unwrap(), Form::JSON);
    }

    #[test]
    fn aggregated_discovery_is_for_those_who_ask() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                       application/json";
        assert!(wants_aggregated_discovery(&headers(kubectl)));
        assert!(!wants_aggregated_discovery(&headers("application/json")));
    }
}
