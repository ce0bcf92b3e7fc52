//! OpenAPI v3 documents, and the check for unknown fields, from the types' schemas.
//!
//! Guarantees: one document per group version, made on first use and kept; its hash changes when
//! its content does. Does not: publish OpenAPI v2.

mod paths;
mod schemas;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::resource::{RESOURCES, Resource};
use crate::schema::graph;

/// One group version's document.
pub struct Document {
    /// Of the content; part of the URL, so that clients may keep what they have.
    pub hash: String,
    pub json: String,
}

/// `api/v1` or `apis/apps/v1`.
fn document_path(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("api/{}", resource.version)
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

fn documents() -> &'static BTreeMap<String, Document> {
    static DOCUMENTS: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let mut documents = BTreeMap::new();
        for resource in RESOURCES {
            documents.entry(document_path(resource)).or_insert_with(|| {
                let json = render(resource.group, resource.version).to_string();
                let digest = Sha256::digest(json.as_bytes());
                let hash = digest.iter().map(|byte| format!("{byte:02X}")).collect();
                Document { hash, json }
            });
        }
        documents
    })
}

fn render(group: &str, version: &str) -> Value {
    let chosen = || RESOURCES.iter().filter(|r| r.group == group && r.version == version);
    let mut paths = Map::new();
    for resource in chosen() {
        paths::add(resource, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "bowline" },
        "paths": paths,
        "components": { "schemas": schemas::components(group, version, chosen()) },
    })
}

/// The document of `api/v1`, `apis/apps/v1` and so on.
pub fn document(path: &str) -> Option<&'static Document> {
    documents().get(path.trim_matches('/'))
}

/// The document at `/openapi/v3`.
pub fn index() -> Value {
    let paths: Map<String, Value> = documents()
        .iter()
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path.clone(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// Makes an object what decoding it into its type and encoding it again would make it: fields that
/// the kind does not have and nulls are dropped, quantities are put in canonical form. Returns a
/// message per dropped field, `unknown field "spec.foo"`, for strict validation and warnings.
pub fn normalize(resource: &Resource, object: &mut Value) -> Vec<String> {
    let unknown = graph().normalize(resource.schema, object);
    unknown.into_iter().map(|path| format!("unknown field {path:?}")).collect()
}

#[cfg(test)]
mod tests;
