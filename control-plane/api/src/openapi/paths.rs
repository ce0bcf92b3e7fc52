//! The paths of a document: every operation of a kind, its subresources included.

use serde_json::{Map, Value, json};

use super::schemas::{DELETE_OPTIONS, PATCH, STATUS, list_schema, reference};
use crate::managed::APPLY_MEDIA_TYPE;
use crate::patch::PatchKind;
use crate::resource::{Resource, Subresource};

/// Adds all paths of a kind.
pub(super) fn add(resource: &Resource, paths: &mut Map<String, Value>) {
    let root = super::document_path(resource);
    let plural = resource.plural;
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("/{root}{scope}/{plural}");
    let item = format!("{collection}/{{name}}");
    if !resource.stored {
        let path = json!({
            "post": create(resource), "parameters": path_parameters(resource, false),
        });
        paths.insert(collection, path);
        return;
    }
    if resource.namespaced {
        let mut all = Map::new();
        all.insert("get".to_owned(), list(resource, "ForAllNamespaces"));
        all.insert("parameters".to_owned(), list_parameters());
        paths.insert(format!("/{root}/{plural}"), Value::Object(all));
    }
    paths.insert(collection, collection_path(resource));
    paths.insert(item.clone(), item_path(resource, "", resource.schema));
    if resource.status {
        paths.insert(format!("{item}/status"), item_path(resource, "Status", resource.schema));
    }
    // A log is no object.
    for sub in resource.subresources.iter().filter(|sub| sub.name != "log") {
        paths.insert(format!("{item}/{}", sub.name), subresource_path(resource, sub));
    }
}

fn subresource_path(resource: &Resource, sub: &Subresource) -> Value {
    let (first, rest) = sub.name.split_at(1);
    let suffix = format!("{}{rest}", first.to_uppercase());
    let schema = sub.schema(resource);
    if sub.verbs.contains(&"create") {
        let (group, version) = sub.group_version(resource);
        let mut post = posted(resource, &suffix, &schema);
        post["x-kubernetes-group-version-kind"] =
            json!({ "group": group, "kind": sub.kind, "version": version });
        return json!({ "post": post, "parameters": path_parameters(resource, true) });
    }
    let mut path = item_path(resource, &suffix, &schema);
    if let Some(path) = path.as_object_mut() {
        for (verb, method) in [("get", "get"), ("update", "put"), ("patch", "patch")] {
            if !sub.verbs.contains(&verb) {
                path.remove(method);
            }
        }
    }
    path
}

fn parameter(name: &str, kind: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "query", "description": description,
        "schema": { "type": kind, "uniqueItems": true },
    })
}

fn path_parameters(resource: &Resource, named: bool) -> Value {
    let path = |name: &str, description: &str| {
        json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": { "type": "string", "uniqueItems": true },
        })
    };
    let mut parameters = Vec::new();
    if named {
        parameters.push(path("name", "The name of the object."));
    }
    if resource.namespaced {
        parameters.push(path("namespace", "The namespace of the object."));
    }
    Value::Array(parameters)
}

fn list_parameters() -> Value {
    json!([
        parameter("allowWatchBookmarks", "boolean", "Sends bookmarks in a watch."),
        parameter("continue", "string", "Goes on with a list that was cut."),
        parameter("fieldSelector", "string", "Selects by fields."),
        parameter("labelSelector", "string", "Selects by labels."),
        parameter("limit", "integer", "How many items to send at most."),
        parameter("resourceVersion", "string", "Which version to read."),
        parameter("resourceVersionMatch", "string", "How resourceVersion is meant."),
        parameter("sendInitialEvents", "boolean", "Starts a watch with what there is."),
        parameter("timeoutSeconds", "integer", "How long a watch lasts."),
        parameter("watch", "boolean", "Watches for changes instead of listing."),
    ])
}

/// What every write takes. Clients look for these to know what the server can do.
fn write_parameters() -> Vec<Value> {
    vec![
        parameter("dryRun", "string", "All: the request is checked, but nothing is changed."),
        parameter("fieldManager", "string", "Who makes the change."),
        parameter(
            "fieldValidation",
            "string",
            "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.",
        ),
    ]
}

fn content(schema: &str) -> Value {
    json!({ "application/json": { "schema": reference(schema) } })
}

fn response(schema: &str) -> Value {
    json!({ "description": "OK", "content": content(schema) })
}

/// An operation with what all have in common.
fn operation(resource: &Resource, verb: &str, action: &str, suffix: &str) -> Map<String, Value> {
    let (group, version) = (resource.group, resource.version);
    let scope = if resource.namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
    let group_name = group.split('.').next().unwrap_or_default();
    let group_name = if group_name.is_empty() { "core" } else { group_name };
    let mut title: Vec<String> = Vec::new();
    for part in [group_name, version] {
        let (first, rest) = part.split_at(1);
        title.push(format!("{}{rest}", first.to_uppercase()));
    }
    let title = title.concat();
    let id = format!("{verb}{title}{scope}{}{suffix}", resource.kind);
    let kind = json!({ "group": group, "kind": resource.kind, "version": version });
    let operation = json!({
        "operationId": id,
        "description": format!("{verb} {}", resource.plural),
        "tags": [format!("{group_name}_{version}")],
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
    });
    match operation {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn with(mut operation: Map<String, Value>, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        operation.insert((*name).to_owned(), value.clone());
    }
    Value::Object(operation)
}

fn list(resource: &Resource, suffix: &str) -> Value {
    let operation = operation(resource, "list", "list", suffix);
    with(operation, &[("responses", json!({ "200": response(&list_schema(resource)) }))])
}

fn create(resource: &Resource) -> Value {
    posted(resource, "", resource.schema)
}

fn posted(resource: &Resource, suffix: &str, schema: &str) -> Value {
    let created = json!({
        "200": response(schema), "201": response(schema), "202": response(schema),
    });
    with(
        operation(resource, "create", "post", suffix),
        &[
            ("parameters", json!(write_parameters())),
            (
                "requestBody",
                json!({ "content": { "*/*": { "schema": reference(schema) } }, "required": true }),
            ),
            ("responses", created),
        ],
    )
}

fn collection_path(resource: &Resource) -> Value {
    let mut path = Map::new();
    let mut get = list(resource, "");
    get["parameters"] = list_parameters();
    path.insert("get".to_owned(), get);
    path.insert("post".to_owned(), create(resource));
    if resource.allows("deletecollection") {
        let delete = with(
            operation(resource, "deleteCollection", "deletecollection", ""),
            &[
                ("parameters", list_parameters()),
                (
                    "requestBody",
                    json!({ "content": { "*/*": { "schema": reference(DELETE_OPTIONS) } } }),
                ),
                ("responses", json!({ "200": response(STATUS) })),
            ],
        );
        path.insert("delete".to_owned(), delete);
    }
    path.insert("parameters".to_owned(), path_parameters(resource, false));
    Value::Object(path)
}

fn item_path(resource: &Resource, suffix: &str, schema: &str) -> Value {
    let mut path = Map::new();
    let ok = json!({ "200": response(schema) });
    let written = json!({ "200": response(schema), "201": response(schema) });
    let get = with(operation(resource, "read", "get", suffix), &[("responses", ok)]);
    path.insert("get".to_owned(), get);
    let put = with(
        operation(resource, "replace", "put", suffix),
        &[
            ("parameters", json!(write_parameters())),
            (
                "requestBody",
                json!({ "content": { "*/*": { "schema": reference(schema) } }, "required": true }),
            ),
            ("responses", written.clone()),
        ],
    );
    path.insert("put".to_owned(), put);
    let media = PatchKind::MEDIA_TYPES.iter().chain([&APPLY_MEDIA_TYPE]);
    let bodies: Map<String, Value> =
        media.map(|one| ((*one).to_owned(), json!({ "schema": reference(PATCH) }))).collect();
    let mut parameters = write_parameters();
    parameters.push(parameter("force", "boolean", "Takes fields over from other managers."));
    let patch = with(
        operation(resource, "patch", "patch", suffix),
        &[
            ("parameters", json!(parameters)),
            ("requestBody", json!({ "content": bodies, "required": true })),
            ("responses", written),
        ],
    );
    path.insert("patch".to_owned(), patch);
    if suffix.is_empty() {
        let delete = with(
            operation(resource, "delete", "delete", suffix),
            &[
                (
                    "parameters",
                    json!([
                        parameter("dryRun", "string", "All: nothing is changed."),
                        parameter(
                            "gracePeriodSeconds",
                            "integer",
                            "How long the object may take to end."
                        ),
                        parameter(
                            "propagationPolicy",
                            "string",
                            "Orphan, Background or Foreground."
                        ),
                    ]),
                ),
                (
                    "requestBody",
                    json!({ "content": { "*/*": { "schema": reference(DELETE_OPTIONS) } } }),
                ),
                ("responses", json!({ "200": response(STATUS), "202": response(STATUS) })),
            ],
        );
        path.insert("delete".to_owned(), delete);
    }
    path.insert("parameters".to_owned(), path_parameters(resource, true));
    Value::Object(path)
}
