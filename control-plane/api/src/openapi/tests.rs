use serde_json::json;

use super::*;
use crate::resource::find;

fn parsed(path: &str) -> Value {
    serde_json::from_str(&document(path).unwrap().json).unwrap()
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => found.push(target.clone()),
                    value => references(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|one| references(one, found)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves() {
    for path in documents().keys() {
        let document = parsed(path);
        let mut all = Vec::new();
        references(&document, &mut all);
        assert!(!all.is_empty());
        for target in all {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{path}: {target}");
        }
    }
}

#[test]
fn index_names_every_group_version_with_its_hash() {
    let index = index();
    let paths = index["paths"].as_object().unwrap();
    let expected = [
        "api/v1",
        "apis/apps/v1",
        "apis/authentication.k8s.io/v1",
        "apis/authorization.k8s.io/v1",
        "apis/autoscaling/v1",
        "apis/autoscaling/v2",
        "apis/batch/v1",
        "apis/coordination.k8s.io/v1",
        "apis/discovery.k8s.io/v1",
        "apis/events.k8s.io/v1",
        "apis/networking.k8s.io/v1",
        "apis/node.k8s.io/v1",
        "apis/policy/v1",
        "apis/scheduling.k8s.io/v1",
        "apis/storage.k8s.io/v1",
    ];
    assert_eq!(paths.keys().collect::<Vec<_>>(), expected);
    let hash = &document("api/v1").unwrap().hash;
    assert_eq!(paths["api/v1"]["serverRelativeURL"], format!("/openapi/v3/api/v1?hash={hash}"));
    assert!(document("apis/batch/v2").is_none());
}

#[test]
fn patch_operations_say_what_clients_look_for() {
    let document = parsed("apis/apps/v1");
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"));
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
}

#[test]
fn what_is_not_stored_is_posted_and_nothing_else() {
    let document = parsed("apis/authorization.k8s.io/v1");
    let paths = document["paths"].as_object().unwrap();
    let root = "/apis/authorization.k8s.io/v1";
    let expected = [
        format!("{root}/namespaces/{{namespace}}/localsubjectaccessreviews"),
        format!("{root}/selfsubjectaccessreviews"),
        format!("{root}/selfsubjectrulesreviews"),
        format!("{root}/subjectaccessreviews"),
    ];
    assert_eq!(paths.keys().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    for (path, operations) in paths {
        let keys: Vec<&String> = operations.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["parameters", "post"], "{path}");
    }
    let local = &paths[&expected[0]]["post"];
    assert_eq!(local["operationId"], "createAuthorizationV1NamespacedLocalSubjectAccessReview");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(schemas.contains_key("io.k8s.api.authorization.v1.SubjectAccessReview"));
    assert!(!schemas.contains_key("io.k8s.api.authorization.v1.SubjectAccessReviewList"));
}

#[test]
fn subresources_have_their_verbs_and_what_they_take() {
    let document = parsed("api/v1");
    let item = "/api/v1/namespaces/{namespace}/pods/{name}";
    for (subresource, keys, id) in [
        ("ephemeralcontainers", &["get", "parameters", "patch", "put"][..], ""),
        ("resize", &["get", "parameters", "patch", "put"], ""),
        ("eviction", &["parameters", "post"], "createCoreV1NamespacedPodEviction"),
        ("binding", &["parameters", "post"], "createCoreV1NamespacedPodBinding"),
    ] {
        let path = &document["paths"][format!("{item}/{subresource}")];
        let got: Vec<&String> = path.as_object().unwrap().keys().collect();
        assert_eq!(got, keys, "{subresource}");
        assert!(id.is_empty() || path["post"]["operationId"] == id, "{subresource}");
    }
    assert!(document["paths"][format!("{item}/log")].is_null());
    let post = &document["paths"][format!("{item}/eviction")]["post"];
    let kind = json!({"group": "policy", "kind": "Eviction", "version": "v1"});
    assert_eq!(post["x-kubernetes-group-version-kind"], kind);
    let schema = &post["requestBody"]["content"]["*/*"]["schema"]["$ref"];
    let name = schema.as_str().unwrap().rsplit('/').next().unwrap();
    assert_eq!(document["components"]["schemas"][name]["x-kubernetes-group-version-kind"][0], kind);
    let bindings = &document["paths"]["/api/v1/namespaces/{namespace}/bindings"];
    assert_eq!(bindings["post"]["operationId"], "createCoreV1NamespacedBinding");
}

#[test]
fn schemas_carry_the_facts() {
    let document = parsed("api/v1");
    let schemas = &document["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
    let spec = &pod["properties"]["spec"];
    assert_eq!(spec["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}]));
    assert!(spec["description"].is_string());
    let quantity = &schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert!(quantity["oneOf"].is_array());
}

#[test]
fn unknown_fields_are_named() {
    let resource = find("apps", "v1", "deployments").unwrap();
    let mut object =
        json!({"spec": {"foo": 1, "template": {"spec": {"containers": [{"imag": "x"}]}}}});
    let messages = normalize(resource, &mut object);
    assert_eq!(
        messages,
        ["unknown field \"spec.foo\"", "unknown field \"spec.template.spec.containers[0].imag\""]
    );
    assert_eq!(object, json!({"spec": {"template": {"spec": {"containers": [{}]}}}}));
}
