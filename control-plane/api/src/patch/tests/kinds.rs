//! Lists of volumes, storage drivers, quotas and networking.

use serde_json::{Value, json};

use crate::patch::{PatchKind, apply};
use crate::resource::find;

#[test]
fn lists_merge_or_are_replaced() {
    let list = |items: &Value, path: &str| {
        let fields: Vec<&str> = path.split('/').collect();
        fields.iter().rev().fold(items.clone(), |inner, field| json!({ *field: inner }))
    };
    let conditions = |status: &str| json!({"type": "A", "status": status});
    // What is there, the patch, and what becomes of them.
    let table = [
        (
            "storage.k8s.io",
            "csinodes",
            "spec/drivers",
            json!([{"name": "a", "nodeID": "1"}, {"name": "b", "nodeID": "2"}]),
            json!([{"name": "b", "topologyKeys": ["zone"]}]),
            json!([{"name": "a", "nodeID": "1"},
                {"name": "b", "nodeID": "2", "topologyKeys": ["zone"]}]),
        ),
        (
            "",
            "persistentvolumeclaims",
            "status/conditions",
            json!([{"type": "B", "status": "True"}, conditions("True")]),
            json!([conditions("False")]),
            json!([{"type": "B", "status": "True"}, conditions("False")]),
        ),
        (
            "networking.k8s.io",
            "servicecidrs",
            "status/conditions",
            json!([conditions("True")]),
            json!([{"type": "B", "status": "True"}]),
            json!([conditions("True"), {"type": "B", "status": "True"}]),
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            "spec/volumeLifecycleModes",
            json!(["Persistent"]),
            json!(["Ephemeral"]),
            json!(["Ephemeral"]),
        ),
        (
            "networking.k8s.io",
            "ingresses",
            "spec/rules",
            json!([{"host": "a"}]),
            json!([{"host": "b"}]),
            json!([{"host": "b"}]),
        ),
        ("", "resourcequotas", "spec/scopes", json!(["A"]), json!(["B"]), json!(["B"])),
    ];
    for (group, plural, path, before, patch, after) in table {
        let resource = find(group, "v1", plural).unwrap();
        let (document, patch) = (list(&before, path), list(&patch, path));
        let got = apply(PatchKind::Strategic, resource, &document, &patch).unwrap();
        assert_eq!(got, list(&after, path), "{plural}");
    }
}
