//! Discovery documents, made from the resource table.

use serde_json::Value;

/// `/api`. `server_address` is the `host:port` that clients reach the server at.
pub fn api_versions(server_address: &str) -> Value {
    let _ = server_address;
    Value::Null
}

/// `/apis`.
pub fn group_list() -> Value {
    Value::Null
}

/// `/apis/<group>`.
pub fn group(group: &str) -> Option<Value> {
    let _ = group;
    None
}

/// `/api/v1` or `/apis/<group>/<version>`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let _ = (group, version);
    None
}

/// The aggregated discovery document (`apidiscovery.k8s.io/v2`) of `/api` (`core` true) or `/apis`.
pub fn aggregated(core: bool) -> Value {
    let _ = core;
    Value::Null
}
