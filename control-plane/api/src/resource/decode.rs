//! The typed check of an object: every field has the JSON type that the kind gives it.

use k8s_openapi::Resource as TypedResource;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::schema;

/// A field whose JSON type does not fit the kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} in version \"{version}\" cannot be handled as a {kind}: {path}: {message}")]
pub struct DecodeError {
    pub kind: &'static str,
    pub version: &'static str,
    /// Such as `spec.containers[0].ports[0].containerPort`.
    pub path: String,
    pub message: String,
}

/// Checks `object` against the type `T`, its quantities included.
pub(crate) fn decode<T>(object: &Value) -> Result<(), DecodeError>
where
    T: TypedResource + DeserializeOwned + JsonSchema,
{
    let failed = |path: String, message: String| DecodeError {
        kind: T::KIND,
        version: T::VERSION,
        path,
        message,
    };
    serde_path_to_error::deserialize::<_, T>(object)
        .map_err(|error| failed(error.path().to_string(), error.inner().to_string()))?;
    schema::graph()
        .check_quantities(&T::schema_name(), object)
        .map_err(|(path, error)| failed(path, error.to_string()))
}
