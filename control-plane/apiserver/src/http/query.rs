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

    /// The parameter's value, `""` when absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// `true` and `1` are true; absent, `false` and `0` are false.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Status> {
        match self.get(name) {
            "" | "false" | "0" => Ok(false),
            "true" | "1" => Ok(true),
            other => {
                Err(Status::bad_request(format!("{name}: {other:?} is neither true nor false")))
            }
        }
    }

    /// A whole number that is not negative.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("{name}: {text:?} is not a number"))),
        }
    }
}
