//! In which form the client wants its answer.
//!
//! The entries of the `Accept` header are tried in the order of their `q`, those without wildcards
//! first and else as they stand; the first that can be served wins. A client that names no encoding
//! gets JSON.

use super::protobuf;
use super::query::Query;
use bowline_api::status::Status;
use bowline_api::table::IncludeObject;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderValue};
use std::cmp::Ordering;

/// The media type of the aggregated discovery documents.
pub(super) const AGGREGATED_DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => protobuf::MEDIA_TYPE,
        }
    }
}

/// The encodings that an answer can have, the one for those who do not mind first.
pub(super) struct Offer(&'static [Encoding]);

impl Offer {
    /// Documents that are no objects.
    pub(super) const TEXT: Self = Self(&[Encoding::Json, Encoding::Yaml]);
    /// What has a protobuf message.
    pub(super) const ALL: Self = Self(&[Encoding::Json, Encoding::Yaml, Encoding::Protobuf]);

    /// One object or a list of a kind, or a stream of its changes. There are no streams in YAML.
    pub(super) fn of(version: &str, kind: &str, stream: bool) -> Self {
        match (protobuf::has(version, kind), stream) {
            (true, false) => Self::ALL,
            (true, true) => Self(&[Encoding::Json, Encoding::Protobuf]),
            (false, false) => Self::TEXT,
            (false, true) => Self(&[Encoding::Json]),
        }
    }
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
    /// How much it is wanted, from 0, not at all, to 1.
    quality: f32,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> =
            parts.filter_map(|parameter| parameter.split_once('=')).collect();
        let quality = parameters.iter().find(|(key, _)| *key == "q");
        let quality = quality.and_then(|(_, q)| q.parse().ok()).unwrap_or(1.0);
        Self { essence, parameters, quality }
    }

    fn parameter(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// The one that is wanted more first.
    fn order(&self, other: &Self) -> Ordering {
        let wildcards = |media: &Self| media.essence.matches('*').count();
        let quality = other.quality.partial_cmp(&self.quality).unwrap_or(Ordering::Equal);
        quality.then_with(|| wildcards(self).cmp(&wildcards(other)))
    }

    fn names(&self, encoding: Encoding) -> bool {
        matches!(self.essence, "*/*" | "application/*" | "")
            || self.essence.eq_ignore_ascii_case(encoding.media_type())
    }

    /// What it makes of the objects; `None` for what is not made in this encoding.
    fn shape(&self, encoding: Encoding, include: IncludeObject) -> Option<Shape> {
        match self.parameter("stream") {
            "" => {}
            "watch" if encoding != Encoding::Yaml => {}
            _ => return None,
        }
        let meta = self.parameter("g") == "meta.k8s.io" && self.parameter("v") == "v1";
        match self.parameter("as") {
            "" => Some(Shape::Full),
            "Table" if meta && encoding != Encoding::Protobuf => Some(Shape::Table(include)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => Some(Shape::Metadata),
            _ => None,
        }
    }

    fn form(&self, offer: &Offer, include: IncludeObject) -> Option<Form> {
        offer.0.iter().filter(|encoding| self.names(**encoding)).find_map(|encoding| {
            Some(Form { encoding: *encoding, shape: self.shape(*encoding, include)? })
        })
    }
}

/// What the client accepts, the most wanted first.
fn accepted<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<Media<'a>> {
    let texts = values.into_iter().filter_map(|value| value.to_str().ok());
    let media = texts.flat_map(|text| text.split(',')).map(Media::parse);
    let mut media: Vec<Media<'_>> = media.filter(|media| media.quality > 0.0).collect();
    media.sort_by(Media::order);
    media
}

/// The form of the answer.
pub(super) fn form(headers: &HeaderMap, query: &Query, offer: &Offer) -> Result<Form, Status> {
    let include = match query.get("includeObject") {
        "None" => IncludeObject::None,
        "Object" => IncludeObject::Object,
        _ => IncludeObject::Metadata,
    };
    if !headers.contains_key(ACCEPT) {
        return Ok(Form::JSON);
    }
    accepted(headers.get_all(ACCEPT))
        .iter()
        .find_map(|media| media.form(offer, include))
        .ok_or_else(|| {
            let offered: Vec<&str> = offer.0.iter().map(|encoding| encoding.media_type()).collect();
            Status::not_acceptable(&offered)
        })
}

/// The encoding of a failure by the `Accept` headers, whatever form the answer was to have. It is
/// told in any case.
pub(super) fn of_status(accept: &[HeaderValue]) -> Encoding {
    let accepted = accepted(accept);
    let mut forms = accepted.iter().filter_map(|m| m.form(&Offer::ALL, IncludeObject::None));
    let full = forms.find(|form| form.shape == Shape::Full);
    full.map_or(Encoding::Json, |form| form.encoding)
}

/// Whether the client names this media type.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    accepted(headers.get_all(ACCEPT)).iter().any(|media| media.essence == media_type)
}

/// Whether the client takes compressed answers.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = accepted(headers.get_all(ACCEPT_ENCODING));
    accepted.iter().any(|coding| coding.essence.eq_ignore_ascii_case("gzip"))
}

/// Whether the client prefers the aggregated discovery document.
pub(super) fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    accepted(headers.get_all(ACCEPT))
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

    const PB: &str = "application/vnd.kubernetes.protobuf";
    const META: &str = "g=meta.k8s.io;v=v1";

    #[test]
    fn the_first_form_that_can_be_served_wins() {
        let form_of = |encoding, shape| Some(Form { encoding, shape });
        let table = Shape::Table(IncludeObject::Metadata);
        let json = form_of(Encoding::Json, Shape::Full);
        let yaml = form_of(Encoding::Yaml, Shape::Full);
        let protobuf = form_of(Encoding::Protobuf, Shape::Full);
        let metadata = |encoding| form_of(encoding, Shape::Metadata);
        let cases = [
            ("application/json".to_owned(), json),
            ("*/*".to_owned(), json),
            ("application/*".to_owned(), json),
            (String::new(), json),
            (PB.to_owned(), protobuf),
            (PB.to_uppercase(), protobuf),
            (format!("{PB};stream=watch"), protobuf),
            (format!("{PB};stream=other"), None),
            (format!("{PB},application/json"), protobuf),
            (format!("application/json,{PB}"), json),
            (format!("application/json;q=0.8, {PB};q=0.9"), protobuf),
            (format!("application/json;q=0.8, {PB};q=0.9, application/yaml"), yaml),
            (format!("*/*, {PB}"), protobuf),
            (format!("application/*, */*, {PB};q=0.5"), json),
            (format!("{PB};q=0, application/json;q=0.1"), json),
            ("application/json;q=0".to_owned(), None),
            ("text/html, image/png;q=0.9, */*;q=0.1".to_owned(), json),
            ("text/html".to_owned(), None),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1\
                 ;g=meta.k8s.io,application/json"
                    .to_owned(),
                form_of(Encoding::Json, table),
            ),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io".to_owned(), None),
            (format!("{PB};as=Table;{META}"), None),
            (
                format!("{PB};as=Table;{META},application/json;as=Table;{META}"),
                form_of(Encoding::Json, table),
            ),
            (
                format!("application/json;as=PartialObjectMetadataList;{META}"),
                metadata(Encoding::Json),
            ),
            (
                format!("{PB};as=PartialObjectMetadata;{META},application/json"),
                metadata(Encoding::Protobuf),
            ),
            (format!("{PB};as=Other;{META}"), None),
            ("application/yaml".to_owned(), yaml),
        ];
        for (accept, expected) in cases {
            let form = form(&headers(&accept), &Query::default(), &Offer::ALL);
            assert_eq!(form.ok(), expected, "{accept}");
        }
        let none = form(&HeaderMap::new(), &Query::default(), &Offer::ALL);
        assert_eq!(none.unwrap(), Form::JSON);
    }

    #[test]
    fn only_what_is_offered_is_served() {
        let both = format!("{PB},application/yaml,application/json;q=0.5");
        let of = |kind, stream| {
            let offer = Offer::of("v1", kind, stream);
            let chosen = |accept: &str| form(&headers(accept), &Query::default(), &offer);
            (
                chosen(&both).unwrap().encoding,
                chosen(PB).is_ok(),
                chosen("application/yaml").is_ok(),
            )
        };
        assert_eq!(of("Pod", false), (Encoding::Protobuf, true, true));
        assert_eq!(of("Pod", true), (Encoding::Protobuf, true, false));
        assert_eq!(of("Absent", false), (Encoding::Yaml, false, true));
        assert_eq!(of("Absent", true), (Encoding::Json, false, false));
        let refused = form(&headers("text/html"), &Query::default(), &Offer::ALL).unwrap_err();
        assert_eq!(
            refused.message,
            "only the following media types are accepted: application/json, application/yaml, \
             application/vnd.kubernetes.protobuf"
        );
    }

    #[test]
    fn failures_are_told_in_any_case() {
        for (accept, expected) in [
            (PB.to_owned(), Encoding::Protobuf),
            (format!("{PB},application/json"), Encoding::Protobuf),
            ("application/yaml".to_owned(), Encoding::Yaml),
            (format!("{PB};as=PartialObjectMetadata;{META}"), Encoding::Json),
            (format!("{PB};as=PartialObjectMetadata;{META},{PB}"), Encoding::Protobuf),
            ("text/html".to_owned(), Encoding::Json),
        ] {
            assert_eq!(of_status(&[accept.parse().unwrap()]), expected, "{accept}");
        }
        assert_eq!(of_status(&[]), Encoding::Json);
    }

    #[test]
    fn aggregated_discovery_is_for_those_who_ask() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                       application/json";
        assert!(wants_aggregated_discovery(&headers(kubectl)));
        assert!(!wants_aggregated_discovery(&headers("application/json")));
    }

    #[test]
    fn gzip_is_for_who_takes_it() {
        for (accept, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5, br", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("*", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, accept.parse().unwrap())]);
            assert_eq!(accepts_gzip(&headers), expected, "{accept}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
