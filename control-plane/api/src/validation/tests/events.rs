//! Events, in both of their versions.

use serde_json::{Value, json};

use super::kind::Kind;

const TIME: &str = "2026-01-01T00:00:00.000000Z";
const NO_NAMESPACE: &str =
    "involvedObject.namespace: Invalid value: \"\": does not match event.namespace";

fn reported() -> Value {
    json!({
        "eventTime": TIME, "reportingController": "example.com/c", "reportingInstance": "c-1",
        "action": "Done", "reason": "Done", "type": "Normal",
        "regarding": {"kind": "Pod", "namespace": "d", "name": "p"},
    })
}

#[test]
fn of_the_core_group() {
    let kind = Kind::new("v1", "Event", json!({"involvedObject": {"namespace": "d"}}));
    let newer = json!({"eventTime": TIME, "reportingComponent": "c", "reportingInstance": "i",
        "action": "A", "reason": "R"});
    let with = |field: &str, value: Value| {
        let mut event = newer.clone();
        event[field] = value;
        event
    };
    kind.creates(&[
        (json!({"type": "Odd", "count": 7, "message": "m".repeat(2000)}), vec![]),
        (json!({"metadata": {"name": "A_b"}}), vec![]),
        (json!({"metadata": {"name": "a/b"}}), vec!["metadata.name: Invalid value: \"a/b\": may"]),
        (json!({"involvedObject": {"namespace": null}}), vec![NO_NAMESPACE]),
        (
            json!({"involvedObject": {"namespace": "e"}}),
            vec!["involvedObject.namespace: Invalid value: \"e\": does not match event.namespace"],
        ),
        (
            json!({"involvedObject": {"namespace": null}, "metadata": {"namespace": "default"}}),
            vec![],
        ),
        (newer.clone(), vec![]),
        (with("involvedObject", json!({"namespace": "e"})), vec![]),
        (with("involvedObject", json!({"namespace": null})), vec![NO_NAMESPACE]),
        (
            json!({"eventTime": TIME}),
            vec![
                "reportingComponent: Required value",
                "reportingComponent: Invalid value: \"\": name part must be non-empty",
                "reportingComponent: Invalid value: \"\": name part must consist of",
                "reportingInstance: Required value",
                "action: Required value",
                "reason: Required value",
            ],
        ),
        (
            with("message", json!("m".repeat(1025))),
            vec!["message: Invalid value: \"\": can have at most 1024 characters"],
        ),
    ]);
    kind.updates(&[(json!({"reason": "A"}), json!({"reason": "B", "count": 9}), vec![])]);
}

#[test]
fn of_the_newer_group() {
    let kind = Kind::new("events.k8s.io/v1", "Event", reported());
    let long = |length: usize| "x".repeat(length);
    kind.creates(&[
        (json!({"type": "Warning", "note": long(1024), "reason": long(128)}), vec![]),
        (json!({"series": {"count": 2, "lastObservedTime": TIME}, "deprecatedCount": 0}), vec![]),
        (json!({"regarding": null}), vec![NO_NAMESPACE]),
        (json!({"regarding": null, "metadata": {"namespace": "kube-system"}}), vec![]),
        (
            json!({"reportingController": null}),
            vec![
                "reportingController: Required value",
                "reportingController: Invalid value: \"\": name part must be non-empty",
                "reportingController: Invalid value: \"\": name part must consist of",
            ],
        ),
        (
            json!({"reportingController": "a/b/c"}),
            vec!["reportingController: Invalid value: \"a/b/c\": a qualified name must consist"],
        ),
        (json!({"reportingInstance": null}), vec!["reportingInstance: Required value"]),
        (
            json!({"reportingInstance": long(129)}),
            vec!["reportingInstance: Invalid value: \"\": can have at most 128 characters"],
        ),
        (json!({"action": null}), vec!["action: Required value"]),
        (
            json!({"action": long(129)}),
            vec!["action: Invalid value: \"\": can have at most 128 characters"],
        ),
        (json!({"reason": null}), vec!["reason: Required value"]),
        (
            json!({"reason": long(129)}),
            vec!["reason: Invalid value: \"\": can have at most 128 characters"],
        ),
        (
            json!({"note": long(1025)}),
            vec!["message: Invalid value: \"\": can have at most 1024 characters"],
        ),
        (
            json!({"eventTime": null, "reportingController": null, "action": null}),
            vec!["eventTime: Required value"],
        ),
        (json!({"type": null}), vec!["type: Invalid value: \"\": has invalid value: "]),
        (json!({"type": "Odd"}), vec!["type: Invalid value: \"\": has invalid value: Odd"]),
        (
            json!({"series": {}}),
            vec![
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
            ],
        ),
        (
            json!({"deprecatedFirstTimestamp": TIME, "deprecatedLastTimestamp": TIME,
                "deprecatedCount": 1, "deprecatedSource": {"host": "h"}}),
            vec![
                "firstTimestamp: Invalid value: \"\": needs to be unset",
                "lastTimestamp: Invalid value: \"\": needs to be unset",
                "count: Invalid value: \"\": needs to be unset",
                "source: Invalid value: \"\": needs to be unset",
            ],
        ),
        (json!({"metadata": {"name": "A"}}), vec!["metadata.name: Invalid value: \"A\""]),
    ]);
}

#[test]
fn what_an_update_of_the_newer_group_may_change() {
    let kind = Kind::new("events.k8s.io/v1", "Event", reported());
    let series = |count: i64| json!({"series": {"count": count, "lastObservedTime": TIME}});
    let fixed = |field: &str, value: Value, name: &'static str| {
        (json!({}), json!({ field: value }), vec![name])
    };
    let about = json!({"kind": "Pod", "namespace": "d", "name": "q"});
    kind.updates(&[
        (json!({}), json!({"metadata": {"labels": {"a": "b"}}}), vec![]),
        (json!({"metadata": {"name": "A_b"}}), json!({"metadata": {"labels": {}}}), vec![]),
        (json!({}), series(2), vec![]),
        (series(2), series(3), vec![]),
        (json!({}), series(1), vec!["series.count: Invalid value: \"\": should be at least 2"]),
        (series(1), json!({"metadata": {"labels": {"a": "b"}}}), vec![]),
        (json!({}), json!({"eventTime": "2026-01-01T00:00:00.0000009Z"}), vec![]),
        (json!({}), json!({"deprecatedCount": 0, "note": "", "deprecatedSource": {}}), vec![]),
        fixed("eventTime", json!("2026-01-01T00:00:00.000001Z"), "eventTime: Invalid value: "),
        fixed("regarding", about.clone(), "involvedObject: Invalid value: "),
        fixed("reason", json!("B"), "reason: Invalid value: \"B\": field is immutable"),
        fixed("note", json!("n"), "message: Invalid value: \"n\": field is immutable"),
        fixed("deprecatedSource", json!({"host": "h"}), "source: Invalid value: "),
        fixed("deprecatedFirstTimestamp", json!(TIME), "firstTimestamp: Invalid value: "),
        fixed("deprecatedLastTimestamp", json!(TIME), "lastTimestamp: Invalid value: "),
        fixed("deprecatedCount", json!(1), "count: Invalid value: 1: field is immutable"),
        fixed("type", json!("Odd"), "type: Invalid value: \"Odd\": field is immutable"),
        fixed("action", json!("B"), "action: Invalid value: \"B\": field is immutable"),
        fixed("related", about, "related: Invalid value: "),
        fixed("reportingInstance", json!("j"), "reportingInstance: Invalid value: \"j\": field"),
        fixed(
            "reportingController",
            json!("d"),
            "reportingController: Invalid value: \"d\": field",
        ),
    ]);
}
