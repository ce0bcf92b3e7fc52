//! Why the look at one object failed; the queue retries it.

use kube::core::Status;

/// A step of a controller that the API refused or that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("{act} {object}: {}", cause(source))]
pub(crate) struct SyncFailed {
    act: &'static str,
    object: String,
    source: kube::Error,
}

impl SyncFailed {
    /// The failure comes from an outdated view of the object; the retry sees the newer one.
    pub(crate) fn is_stale(&self) -> bool {
        status(&self.source).is_some_and(|status| status.code == 409)
    }

    pub(crate) fn status(&self) -> Option<&Status> {
        status(&self.source)
    }

    /// The API's own words, without the act.
    pub(crate) fn cause(&self) -> String {
        cause(&self.source)
    }
}

fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

fn cause(error: &kube::Error) -> String {
    status(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

/// Says what was being done when an API call failed.
pub(crate) trait Doing<T> {
    fn doing(self, act: &'static str, object: impl std::fmt::Display) -> Result<T, SyncFailed>;
    /// Like `doing`, but an object that is not there is an answer.
    fn if_found(
        self,
        act: &'static str,
        object: impl std::fmt::Display,
    ) -> Result<Option<T>, SyncFailed>;
    /// Like `doing`, for what is made: that somebody else made it, and the watch has not told yet,
    /// is an answer.
    fn unless_made(
        self,
        act: &'static str,
        object: impl std::fmt::Display,
    ) -> Result<Option<T>, SyncFailed>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, act: &'static str, object: impl std::fmt::Display) -> Result<T, SyncFailed> {
        self.map_err(|source| SyncFailed { act, object: object.to_string(), source })
    }

    fn if_found(
        self,
        act: &'static str,
        object: impl std::fmt::Display,
    ) -> Result<Option<T>, SyncFailed> {
        match self {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other.doing(act, object).map(Some),
        }
    }

    fn unless_made(
        self,
        act: &'static str,
        object: impl std::fmt::Display,
    ) -> Result<Option<T>, SyncFailed> {
        match self {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
            other => other.doing(act, object).map(Some),
        }
    }
}
