//! The parameters of a request.

use axum::extract::Query as Extract;
use bowline_api::status::Status;
use http::Uri;

/// The query string, decoded. Of a parameter that comes twice the first counts.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Result<Self, Status> {
        Extract::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|Extract(pairs)| Self(pairs))
            .map_err(|error| Status::bad_request(format!("the query cannot be read: {error}")))
    }

    /// The parameter's value, `None` when it is not there at all.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The parameter's value, `""` when absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.first(name).unwrap_or_default()
    }

    /// Every value of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Absent, `false` and `0` are false; everything else is true, as everywhere in the ecosystem.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.first(name).is_some_and(|text| text != "0" && !text.eq_ignore_ascii_case("false"))
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_true_unless_they_say_otherwise() {
        for (text, expected) in [
            ("", false),
            ("?watch", true),
            ("?watch=", true),
            ("?watch=1", true),
            ("?watch=yes", true),
            ("?watch=0", false),
            ("?watch=False", false),
            ("?watch=0&watch=1", false),
            ("?match=1", false),
        ] {
            let query = Query::of(&format!("/api/v1/pods{text}").parse().unwrap()).unwrap();
            assert_eq!(query.flag("watch"), expected, "{text}");
        }
    }
}
