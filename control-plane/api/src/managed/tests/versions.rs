//! Who manages what of an object that is written through two versions.

use super::*;
use crate::resource::find;

const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn autoscalers(version: &str) -> &'static Resource {
    find("autoscaling", version, "horizontalpodautoscalers").unwrap()
}

fn writer(manager: &'static str) -> Writer<'static> {
    Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z" }
}

/// What is stored after somebody has changed what a version shows; anew without a live object.
fn updated(version: &str, live: Option<&Value>, manager: &'static str, change: Value) -> Value {
    let resource = autoscalers(version);
    let none = json!({ "metadata": { "name": "h" } });
    let mut new = live.map_or(none, |live| resource.shown(live).into_owned());
    json_patch::merge(&mut new, &change);
    resource.make_stored(&mut new);
    update(resource, live, &mut new, &writer(manager));
    new
}

fn applied(
    version: &str,
    live: Option<&Value>,
    manager: &'static str,
    spec: Value,
    force: bool,
) -> Result<Value, ApplyFailed> {
    let resource = autoscalers(version);
    let config = json!({
        "apiVersion": resource.api_version(), "kind": resource.kind,
        "metadata": { "name": "h" }, "spec": spec,
    });
    let mut new = apply(resource, live, &config, &writer(manager), force)?;
    resource.make_stored(&mut new);
    Ok(new)
}

/// `manager operation version: path path` of the entries.
fn told(object: &Value) -> Vec<String> {
    let entries = Entries::sent(&object["metadata"]["managedFields"]).unwrap();
    let tell = |entry: &Entry| {
        let Identity { manager, operation, api_version, .. } = &entry.identity;
        let paths: Vec<String> = entry.set().paths().iter().map(|path| path_text(path)).collect();
        format!("{manager} {operation:?} {api_version}: {}", paths.join(" "))
    };
    entries.iter().map(tell).collect()
}

fn cpu(percent: i64) -> Value {
    let target = json!({ "type": "Utilization", "averageUtilization": percent });
    json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }])
}

/// A spec with this beside what every one has.
fn spec(more: Value) -> Value {
    let mut spec = json!({ "scaleTargetRef": { "kind": "D", "name": "d" }, "maxReplicas": 3 });
    json_patch::merge(&mut spec, &more);
    spec
}

#[test]
fn an_entry_loses_what_changes_through_another_version() {
    let first = updated("v2", None, "two", json!({ "spec": spec(json!({ "metrics": cpu(50) })) }));
    let of_two = "two Update autoscaling/v2: .spec.maxReplicas .spec.metrics \
                  .spec.scaleTargetRef.kind .spec.scaleTargetRef.name";
    assert_eq!(told(&first), [of_two]);

    let target = json!({ "spec": { "targetCPUUtilizationPercentage": 60 } });
    let second = updated("v1", Some(&first), "one", target);
    assert_eq!(second["spec"]["metrics"], cpu(60));
    let of_one = "one Update autoscaling/v1: .spec.targetCPUUtilizationPercentage";
    let of_two = of_two.replace(" .spec.metrics", "");
    assert_eq!(told(&second), [of_one, of_two.as_str()]);

    let more = json!({ "spec": { "maxReplicas": 5 } });
    let third = updated("v2", Some(&second), "three", more);
    let of_three = "three Update autoscaling/v2: .spec.maxReplicas";
    let of_two = of_two.replace(" .spec.maxReplicas", "");
    assert_eq!(told(&third), [of_one, of_three, of_two.as_str()]);

    // What changes nothing in one version changes no entry of the other.
    let same = json!({ "spec": { "metrics": cpu(60) } });
    let fourth = updated("v2", Some(&third), "two", same);
    assert_eq!(fourth, third);
    let last = updated("v2", Some(&fourth), "two", json!({ "spec": { "metrics": cpu(70) } }));
    let of_two = of_two.replace(":", ": .spec.metrics");
    assert_eq!(told(&last), [of_three, of_two.as_str()]);
}

#[test]
fn what_is_in_an_annotation_is_a_field_elsewhere() {
    let first = updated("v2", None, "two", json!({ "spec": spec(json!({})) }));
    let up = |policy: &str| json!({ "scaleUp": { "selectPolicy": policy } });
    let annotated = json!({ "metadata": { "annotations": {
        BEHAVIOR: "{\"ScaleUp\":{\"SelectPolicy\":\"Min\"}}" } } });
    let second = updated("v1", Some(&first), "one", annotated);
    assert_eq!(second["spec"]["behavior"], up("Min"));
    assert!(second["metadata"]["annotations"].is_null());
    let of_one = format!(
        "one Update autoscaling/v1: .metadata.annotations .metadata.annotations.{BEHAVIOR}"
    );
    assert_eq!(told(&second)[0], of_one);
    let third = updated("v2", Some(&second), "two", json!({ "spec": { "behavior": up("Max") } }));
    assert_eq!(told(&third)[0], "one Update autoscaling/v1: .metadata.annotations");
    assert!(told(&third)[1].contains(".spec.behavior.scaleUp.selectPolicy"));
}

#[test]
fn applies_conflict_across_versions() {
    let first = applied("v2", None, "two", spec(json!({ "metrics": cpu(50) })), false).unwrap();
    let config = spec(json!({ "targetCPUUtilizationPercentage": 60 }));
    let refused = applied("v1", Some(&first), "one", config.clone(), false).unwrap_err();
    let message = "Apply failed with 1 conflict: conflict with \"two\": .spec.metrics";
    assert_eq!(refused.to_string(), message);
    let forced = applied("v1", Some(&first), "one", config, true).unwrap();
    assert_eq!(forced["spec"], spec(json!({ "metrics": cpu(60) })));
    let expected = [
        "one Apply autoscaling/v1: .spec.maxReplicas .spec.scaleTargetRef \
         .spec.targetCPUUtilizationPercentage",
        "two Apply autoscaling/v2: .spec.maxReplicas .spec.scaleTargetRef.kind \
         .spec.scaleTargetRef.name",
    ];
    assert_eq!(told(&forced), expected);
}

#[test]
fn who_applies_may_go_on_in_another_version() {
    let all = spec(json!({ "minReplicas": 2, "targetCPUUtilizationPercentage": 60 }));
    let first = applied("v1", None, "one", all, false).unwrap();
    assert_eq!(first["spec"], spec(json!({ "minReplicas": 2, "metrics": cpu(60) })));
    let shared = applied("v1", Some(&first), "other", json!({ "minReplicas": 2 }), false).unwrap();
    let of_one = "one Apply autoscaling/v2: .spec.maxReplicas .spec.scaleTargetRef.kind \
                  .spec.scaleTargetRef.name";
    let of_other = "other Apply autoscaling/v1: .spec.minReplicas";
    let table = [
        // What nobody wants any more goes, whatever it is called there.
        (&first, spec(json!({})), vec![of_one]),
        (&shared, spec(json!({ "minReplicas": 2 })), vec![of_one, of_other]),
    ];
    for (live, expected, managers) in table {
        let second = applied("v2", Some(live), "one", spec(json!({})), false).unwrap();
        assert_eq!(second["spec"], expected);
        assert_eq!(told(&second), managers);
    }
}

#[test]
fn entries_in_versions_that_are_not_served_go() {
    let mut first = updated("v2", None, "two", json!({ "spec": spec(json!({})) }));
    let entries = first["metadata"]["managedFields"].as_array_mut().unwrap();
    let mut old = entries[0].clone();
    old["apiVersion"] = json!("autoscaling/v2beta2");
    entries.push(old);
    let second = updated("v1", Some(&first), "one", json!({ "spec": { "maxReplicas": 4 } }));
    let managers = told(&second);
    assert_eq!(managers.len(), 2, "{managers:?}");
    assert!(managers.iter().all(|told| !told.contains("v2beta2")), "{managers:?}");
}
