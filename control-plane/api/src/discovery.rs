//! Discovery documents, made from the resource table.
//!
//! Guarantees: what is announced is what [`RESOURCES`] holds, groups and versions in its order.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::resource::{RESOURCES, Resource, Subresource};

const SCALE_KIND: (&str, &str, &str) = ("autoscaling", "v1", "Scale");
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// `/api`. `server_address` is the `host:port` that clients reach the server at.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            { "clientCIDR": "0.0.0.0/0", "serverAddress": server_address },
        ],
    })
}

/// The named groups, each with its versions.
fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in RESOURCES.iter().filter(|resource| !resource.group.is_empty()) {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            Some((_, versions)) if versions.contains(&resource.version) => {}
            Some((_, versions)) => versions.push(resource.version),
            None => groups.push((resource.group, vec![resource.version])),
        }
    }
    groups
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| {
        json!({ "groupVersion": format!("{group}/{version}"),
        "version": version })
    };
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({ "name": group, "versions": all, "preferredVersion": all[0] })
}

/// `/apis`.
pub fn group_list() -> Value {
    let groups: Vec<Value> =
        groups().iter().map(|(group, versions)| group_value(group, versions)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/<group>`.
pub fn group(group: &str) -> Option<Value> {
    let (name, versions) = groups().into_iter().find(|(name, _)| *name == group)?;
    let mut value = group_value(name, &versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

fn of_version(group: &str, version: &str) -> Vec<&'static Resource> {
    RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect()
}

/// A subresource as discovery shows it: its name, `(group, version, kind)`, verbs.
type Shown = (&'static str, (&'static str, &'static str, &'static str), &'static [&'static str]);

fn subresources(resource: &Resource) -> Vec<Shown> {
    let own = (resource.group, resource.version, resource.kind);
    let mut all: Vec<Shown> = Vec::new();
    if resource.status {
        all.push(("status", own, STATUS_VERBS));
    }
    if resource.scale.is_some() {
        all.push(("scale", SCALE_KIND, STATUS_VERBS));
    }
    for sub @ Subresource { name, kind, verbs, .. } in resource.subresources {
        let (group, version) = sub.group_version(resource);
        all.push((name, (group, version, kind), verbs));
    }
    all.sort_by_key(|(name, ..)| *name);
    all
}

/// What clients compare to know whether a kind is stored in another version than before, and that
/// two versions are one kind.
fn storage_version_hash(resource: &Resource) -> String {
    let (group, version) = resource.stored_as();
    let digest = Sha256::digest(format!("{group}/{version}/{}", resource.kind));
    STANDARD.encode(&digest[..8])
}

/// `/api/v1` or `/apis/<group>/<version>`.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let resources = of_version(group, version);
    let first = resources.first()?;
    let mut all = Vec::new();
    for resource in &resources {
        let mut value = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
            "storageVersionHash": storage_version_hash(resource),
        });
        if !resource.short_names.is_empty() {
            value["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            value["categories"] = json!(resource.categories);
        }
        all.push(value);
        for (name, (sub_group, sub_version, kind), verbs) in subresources(resource) {
            let mut value = json!({
                "name": format!("{}/{name}", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind,
                "verbs": verbs,
            });
            if (sub_group, sub_version) != (resource.group, resource.version) {
                value["group"] = json!(sub_group);
                value["version"] = json!(sub_version);
            }
            all.push(value);
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": all,
    }))
}

/// The aggregated discovery document (`apidiscovery.k8s.io/v2`) of `/api` (`core` true) or `/apis`.
pub fn aggregated(core: bool) -> Value {
    let groups = if core { vec![("", vec!["v1"])] } else { groups() };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().map(|version| aggregated_version(group, version)).collect();
            let metadata = if core { json!({}) } else { json!({ "name": group }) };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let resources: Vec<Value> =
        of_version(group, version).into_iter().map(aggregated_resource).collect();
    json!({ "version": version, "freshness": "Current", "resources": resources })
}

fn kind_value((group, version, kind): (&str, &str, &str)) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": kind_value((resource.group, resource.version, resource.kind)),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    let subresources: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|(name, kind, verbs)| {
            json!({ "subresource": name, "responseKind": kind_value(kind), "verbs": verbs })
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = json!(subresources);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_listed_once() {
        let list = group_list();
        let names: Vec<&str> =
            list["groups"].as_array().unwrap().iter().filter_map(|g| g["name"].as_str()).collect();
        let expected = [
            "apps",
            "events.k8s.io",
            "authentication.k8s.io",
            "authorization.k8s.io",
            "autoscaling",
            "batch",
            "policy",
            "scheduling.k8s.io",
            "coordination.k8s.io",
            "node.k8s.io",
            "discovery.k8s.io",
            "networking.k8s.io",
            "storage.k8s.io",
        ];
        assert_eq!(names, expected);
        assert_eq!(group("apps").unwrap()["preferredVersion"]["groupVersion"], "apps/v1");
        let scaling = group("autoscaling").unwrap();
        let versions: Vec<&Value> =
            scaling["versions"].as_array().unwrap().iter().map(|it| &it["version"]).collect();
        assert_eq!(versions, ["v2", "v1"]);
        assert_eq!(scaling["preferredVersion"]["version"], "v2");
        assert!(group("extensions").is_none());
        assert!(group("").is_none());
    }

    #[test]
    fn resources_of_a_version() {
        let list = resource_list("", "v1").unwrap();
        assert_eq!(list["groupVersion"], "v1");
        let find = |name: &str| {
            let mut all = list["resources"].as_array().unwrap().iter();
            all.find(|r| r["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
        };
        assert_eq!(find("pods")["shortNames"], json!(["po"]));
        assert_eq!(find("pods/binding")["kind"], "Binding");
        assert_eq!(find("pods/log")["verbs"], json!(["get"]));
        assert_eq!(find("nodes")["namespaced"], false);
        let scale = find("replicationcontrollers/scale");
        assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
        assert!(
            !find("namespaces")["verbs"].as_array().unwrap().contains(&json!("deletecollection"))
        );
        assert!(resource_list("apps", "v2").is_none());
        let list = resource_list("authorization.k8s.io", "v1").unwrap();
        let names: Vec<&str> = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        let expected = [
            "localsubjectaccessreviews",
            "selfsubjectaccessreviews",
            "selfsubjectrulesreviews",
            "subjectaccessreviews",
        ];
        assert_eq!(names, expected);
        assert_eq!(list["resources"][0]["verbs"], json!(["create"]));
    }

    #[test]
    fn versions_of_a_kind_have_one_hash() {
        let hash = |group: &str, version: &str, plural: &str| {
            let list = resource_list(group, version).unwrap();
            let mut all = list["resources"].as_array().unwrap().iter();
            let found = all.find(|it| it["name"] == plural).unwrap();
            found["storageVersionHash"].as_str().unwrap().to_owned()
        };
        // As other servers have them.
        assert_eq!(hash("", "v1", "pods"), "xPOwRZ+Yhw8=");
        assert_eq!(hash("apps", "v1", "deployments"), "8aSe+NMegvE=");
        assert_eq!(hash("", "v1", "events"), hash("events.k8s.io", "v1", "events"));
        let autoscalers = |version| hash("autoscaling", version, "horizontalpodautoscalers");
        assert_eq!(autoscalers("v1"), autoscalers("v2"));
        assert_ne!(autoscalers("v1"), hash("", "v1", "events"));
    }

    #[test]
    fn aggregated_documents() {
        let core = aggregated(true);
        assert_eq!(core["items"][0]["metadata"], json!({}));
        let apis = aggregated(false);
        assert_eq!(apis["items"][0]["metadata"]["name"], "apps");
        let resources = apis["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let deployments = resources.iter().find(|r| r["resource"] == "deployments").unwrap();
        assert_eq!(deployments["scope"], "Namespaced");
        let subresources: Vec<&str> = deployments["subresources"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|s| s["subresource"].as_str())
            .collect();
        assert_eq!(subresources, ["scale", "status"]);
    }
}
