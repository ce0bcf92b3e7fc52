//! There and back.

use serde_json::{Value, json};

use super::autoscaler::{drop_annotations, has_metrics};
use crate::openapi::normalize;
use crate::resource::{RESOURCES, Resource, find};

const PREFIX: &str = "autoscaling.alpha.kubernetes.io/";

fn autoscalers() -> &'static Resource {
    find("autoscaling", "v1", "horizontalpodautoscalers").unwrap()
}

/// What is stored after a client has sent back what it was shown.
fn there_and_back(resource: &Resource, stored: &Value) -> Value {
    let mut shown = resource.shown(stored).into_owned();
    assert_eq!((resource.decode)(&shown), Ok(()), "{shown}");
    assert_eq!(normalize(resource, &mut shown), [""; 0], "{shown}");
    resource.make_stored(&mut shown);
    shown
}

fn stored(resource: &Resource, mut shown: Value) -> Value {
    resource.make_stored(&mut shown);
    let kind = resource.storage();
    assert_eq!((kind.decode)(&shown), Ok(()), "{shown}");
    assert_eq!(normalize(kind, &mut shown), [""; 0], "{shown}");
    shown
}

#[test]
fn every_version_leads_to_the_one_that_is_stored() {
    let mut converted = 0;
    for resource in RESOURCES.iter().filter(|resource| resource.stored) {
        let kind = resource.storage();
        let (group, version) = resource.stored_as();
        assert_eq!((kind.group, kind.version, kind.kind), (group, version, resource.kind));
        assert!(kind.is_storage(), "{}", resource.kind);
        assert_eq!(resource.is_storage(), std::ptr::eq(kind, resource));
        assert_eq!((kind.plural, kind.namespaced), (resource.plural, resource.namespaced));
        assert_eq!((kind.status, kind.columns), (resource.status, resource.columns));
        let other = kind.in_version(&resource.api_version()).unwrap();
        assert!(std::ptr::eq(other, resource), "{}", resource.kind);
        for shape in [json!(null), json!(1), json!([]), json!({"metadata": 1, "spec": []})] {
            let mut object = resource.shown(&shape).into_owned();
            resource.make_stored(&mut object);
            assert_eq!(object.is_object(), shape.is_object());
        }
        converted += usize::from(!resource.is_storage());
    }
    assert_eq!(converted, 2);
    let pods = find("", "v1", "pods").unwrap();
    assert!(pods.in_version("apps/v1").is_none() && pods.in_version("v2").is_none());
}

#[test]
fn what_is_stored_is_shown_as_it_is() {
    let pods = find("", "v1", "pods").unwrap();
    let pod = json!({"metadata": {"name": "p"}});
    assert!(std::ptr::eq(&*pods.shown(&pod), &pod));
    assert!(std::ptr::eq(&*pods.converted(pods, &pod), &pod));
    let mut same = pod.clone();
    pods.make_stored(&mut same);
    assert_eq!(same, pod);
}

#[test]
fn events_have_other_names() {
    let events = find("events.k8s.io", "v1", "events").unwrap();
    let about = json!({"kind": "Pod", "namespace": "d", "name": "p", "fieldPath": "spec"});
    let time = "2026-01-01T00:00:00Z";
    let series = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"});
    let stored = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "d"},
        "involvedObject": about, "related": about, "reason": "R", "message": "M",
        "type": "Normal", "action": "A", "reportingComponent": "c", "reportingInstance": "i",
        "source": {"component": "s", "host": "h"}, "firstTimestamp": time,
        "lastTimestamp": "2026-01-01T00:00:09Z", "count": 3,
        "eventTime": "2026-01-01T00:00:00.000001Z", "series": series,
    });
    let shown = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "d"},
        "regarding": about, "related": about, "reason": "R", "note": "M",
        "type": "Normal", "action": "A", "reportingController": "c", "reportingInstance": "i",
        "deprecatedSource": {"component": "s", "host": "h"}, "deprecatedFirstTimestamp": time,
        "deprecatedLastTimestamp": "2026-01-01T00:00:09Z", "deprecatedCount": 3,
        "eventTime": "2026-01-01T00:00:00.000001Z", "series": series,
    });
    assert_eq!(*events.shown(&stored), shown);
    assert_eq!(there_and_back(events, &stored), stored);
    let core = find("", "v1", "events").unwrap();
    assert_eq!(*core.converted(events, &stored), shown);
    assert_eq!(*events.converted(core, &shown), stored);
}

/// An autoscaler with everything that one can have.
fn whole() -> Value {
    let about = json!({"apiVersion": "v1", "kind": "Service", "name": "s"});
    let selector = json!({"matchLabels": {"a": "b"}});
    let of = |name: &str| json!({"name": name, "selector": selector});
    let object = |target: Value| {
        json!({"type": "Object", "object": {"describedObject": about, "metric": of("o"),
            "target": target}})
    };
    let external = |target: Value| {
        let external = json!({"metric": of("e"), "target": target});
        json!({"type": "External", "external": external})
    };
    let percent = |value: i64| json!({"type": "Utilization", "averageUtilization": value});
    let average = |value: &str| json!({"type": "AverageValue", "averageValue": value});
    let current = json!({"averageValue": "3", "averageUtilization": 30});
    let policy = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "namespace": "d", "annotations": {"mine": "1"}},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "minReplicas": 2, "maxReplicas": 9,
            "metrics": [
                object(json!({"type": "Value", "value": "5"})),
                object(average("7")),
                {"type": "Pods", "pods": {"metric": of("p"), "target": average("100m")}},
                {"type": "Resource", "resource": {"name": "memory", "target": average("1Gi")}},
                {"type": "Resource", "resource": {"name": "cpu", "target": average("500m")}},
                {"type": "ContainerResource", "containerResource": {"name": "cpu",
                    "container": "c", "target": percent(40)}},
                external(json!({"type": "Value", "value": "8"})),
                external(average("6")),
                {"type": "Resource", "resource": {"name": "cpu", "target": percent(50)}},
            ],
            "behavior": {
                "scaleUp": {"selectPolicy": "Max", "policies": [policy],
                    "stabilizationWindowSeconds": 0, "tolerance": "50m"},
                "scaleDown": {"selectPolicy": "Disabled"},
            },
        },
        "status": {
            "observedGeneration": 3, "lastScaleTime": "2026-01-01T00:00:00Z",
            "currentReplicas": 3, "desiredReplicas": 4,
            "currentMetrics": [
                {"type": "Object", "object": {"describedObject": about, "metric": of("o"),
                    "current": {"value": "5"}}},
                {"type": "Pods", "pods": {"metric": of("p"),
                    "current": {"averageValue": "90m"}}},
                {"type": "ContainerResource", "containerResource": {"name": "cpu",
                    "container": "c", "current": current}},
                {"type": "External", "external": {"metric": of("e"),
                    "current": {"value": "8", "averageValue": "4"}}},
                {"type": "Resource", "resource": {"name": "cpu", "current": current}},
            ],
            "conditions": [{"type": "AbleToScale", "status": "True", "reason": "R",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    })
}

fn kept(shown: &Value, name: &str) -> Value {
    let text = shown["metadata"]["annotations"][format!("{PREFIX}{name}")].as_str();
    serde_json::from_str(text.unwrap_or("null")).unwrap()
}

#[test]
fn what_v1_cannot_say_is_in_annotations() {
    let whole = whole();
    let shown = autoscalers().shown(&whole);
    let spec = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "minReplicas": 2, "maxReplicas": 9, "targetCPUUtilizationPercentage": 50,
    });
    assert_eq!(shown["spec"], spec);
    let status = json!({
        "observedGeneration": 3, "lastScaleTime": "2026-01-01T00:00:00Z",
        "currentReplicas": 3, "desiredReplicas": 4, "currentCPUUtilizationPercentage": 30,
    });
    assert_eq!(shown["status"], status);
    assert_eq!(shown["metadata"]["annotations"].as_object().unwrap().len(), 5);

    let metrics = kept(&shown, "metrics");
    assert_eq!(metrics.as_array().unwrap().len(), 8);
    let about = json!({"apiVersion": "v1", "kind": "Service", "name": "s"});
    let selector = json!({"matchLabels": {"a": "b"}});
    let object = json!({"type": "Object", "object": {"target": about, "metricName": "o",
        "targetValue": "5", "selector": selector}});
    assert_eq!(metrics[0], object);
    let memory = json!({"type": "Resource", "resource": {"name": "memory",
        "targetAverageValue": "1Gi"}});
    assert_eq!(metrics[3], memory);
    let external = json!({"type": "External", "external": {"metricName": "e",
        "metricSelector": selector, "targetValue": "8"}});
    assert_eq!(metrics[6], external);
    let behavior = json!({
        "ScaleUp": {"SelectPolicy": "Max", "StabilizationWindowSeconds": 0, "Tolerance": "50m",
            "Policies": [{"Type": "Pods", "Value": 4, "PeriodSeconds": 15}]},
        "ScaleDown": {"SelectPolicy": "Disabled"},
    });
    assert_eq!(kept(&shown, "behavior"), behavior);
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "currentAverageUtilization": 30, "currentAverageValue": "3"}});
    assert_eq!(kept(&shown, "current-metrics")[4], cpu);
    assert_eq!(kept(&shown, "conditions"), whole["status"]["conditions"]);

    assert_eq!(there_and_back(autoscalers(), &whole), whole);
    // Who says nothing of an annotation says nothing of what it stands for.
    let mut plain = shown.into_owned();
    drop_annotations(&mut plain);
    assert!(!has_metrics(&plain));
    let stored = stored(autoscalers(), plain);
    assert_eq!(stored["spec"]["metrics"], json!([whole["spec"]["metrics"][8]]));
    assert!(stored["spec"]["behavior"].is_null() && stored["status"]["conditions"].is_null());
    let found = json!([{"type": "Resource", "resource": {"name": "cpu",
        "current": {"averageUtilization": 30}}}]);
    assert_eq!(stored["status"]["currentMetrics"], found);
    assert_eq!(stored["metadata"]["annotations"], json!({"mine": "1"}));
}

#[test]
fn the_metric_of_the_cpu_comes_back_as_the_last() {
    let mut object = whole();
    let metrics = object["spec"]["metrics"].as_array_mut().unwrap();
    metrics.rotate_right(1);
    let back = there_and_back(autoscalers(), &object);
    assert_eq!(back, whole());
}

#[test]
fn annotations_that_do_not_fit_have_no_effect() {
    let with = |name: &str, text: &str| {
        stored(
            autoscalers(),
            json!({
                "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "h", "annotations": {format!("{PREFIX}{name}"): text}},
                "spec": {"maxReplicas": 1}, "status": {"currentReplicas": 0},
            }),
        )
    };
    let nothing = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"}, "spec": {"maxReplicas": 1}, "status": {},
    });
    let long = "[".repeat(200);
    let pods =
        |value: &str| format!("[{{\"type\":\"Pods\",\"pods\":{{\"metricName\":\"m\",{value}}}}}]");
    for (name, text) in [
        ("metrics", ""),
        ("metrics", "null"),
        ("metrics", "[]"),
        ("metrics", "{}"),
        ("metrics", "[5]"),
        ("metrics", "[{\"type\":5}]"),
        ("metrics", long.as_str()),
        ("metrics", pods("\"targetAverageValue\":\"much\"").as_str()),
        ("metrics", pods("\"selector\":\"a=b\"").as_str()),
        ("behavior", "[]"),
        ("behavior", "{\"ScaleUp\":{\"SelectPolicy\":1}}"),
        ("behavior", "{\"ScaleUp\":{\"Tolerance\":\"much\"}}"),
        ("current-metrics", "[1]"),
        ("conditions", "{\"type\":\"A\"}"),
        ("conditions", "[{\"type\":1}]"),
    ] {
        assert_eq!(with(name, text), nothing, "{name} {text}");
    }
    // Other spellings do.
    let behavior = "{\"scaleUp\":{\"selectPolicy\":\"Min\",\"tolerance\":null},\"ScaleDown\":null}";
    let expected = json!({"scaleUp": {"selectPolicy": "Min"}});
    assert_eq!(with("behavior", behavior)["spec"]["behavior"], expected);
    let pods = with("metrics", &pods("\"targetAverageValue\":\"0.1\",\"selector\":null"));
    let expected = json!([{"type": "Pods", "pods": {"metric": {"name": "m"},
        "target": {"type": "AverageValue", "averageValue": "100m"}}}]);
    assert_eq!(pods["spec"]["metrics"], expected);
    // Programs that cannot leave the value out.
    let object = "[{\"type\":\"Object\",\"object\":{\"target\":{\"kind\":\"K\",\"name\":\"n\"},\
                  \"metricName\":\"m\",\"targetValue\":\"0\",\"averageValue\":\"1\"}}]";
    let expected = json!({"type": "AverageValue", "averageValue": "1"});
    assert_eq!(with("metrics", object)["spec"]["metrics"][0]["object"]["target"], expected);
}
