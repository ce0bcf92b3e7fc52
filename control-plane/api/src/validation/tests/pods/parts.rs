//! What the subresources of a pod may change.

use serde_json::{Value, json};

use super::super::kind::starts;
use super::kind;
use crate::pod_parts::{PodPart, keep_only, validate};

pub(super) const ALL: &[fn()] =
    &[pods_that_take_neither, resizes_of_init_containers_and_of_whole_pods];

/// A pod with this beside the base, by `change`, through a part; and what is said of that.
type Row = (Value, Value, PodPart, Vec<&'static str>);

fn tries(rows: Vec<Row>) {
    let kind = kind();
    for (old, change, part, expected) in rows {
        let old = kind.created(&old);
        let mut new = old.clone();
        json_patch::merge(&mut new, &change);
        crate::defaults::pod(&mut new);
        keep_only(part, &mut new, &old);
        let got: Vec<String> = validate(part, &new, &old).iter().map(ToString::to_string).collect();
        starts(&got, &expected, &change);
    }
}

fn container(name: &str, resources: &Value) -> Value {
    json!({ "name": name, "image": "i:1", "resources": resources })
}

#[test]
fn pods_that_take_neither() {
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
    let windows = json!({"spec": {"os": {"name": "windows"}}});
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
    let cpu = json!({"requests": {"cpu": "2"}});
    let resized = json!({"spec": {"containers": [container("c", &cpu)]}});
    use PodPart::{EphemeralContainers, Resources};
    tries(vec![
        (json!({}), debugger.clone(), EphemeralContainers, vec![]),
        (windows.clone(), debugger.clone(), EphemeralContainers, vec![]),
        (
            mirror.clone(),
            debugger,
            EphemeralContainers,
            vec![": Forbidden: static pods do not support ephemeral containers"],
        ),
        (mirror, resized.clone(), Resources, vec![": Forbidden: static pods cannot be resized"]),
        (windows, resized, Resources, vec![": Forbidden: windows pods cannot be resized"]),
    ]);
}

#[test]
fn resizes_of_init_containers_and_of_whole_pods() {
    let amounts = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let init = |cpu: &str, more: Value| {
        let mut one = container("a", &amounts(cpu));
        json_patch::merge(&mut one, &more);
        json!({"spec": {"initContainers": [one]}})
    };
    let sidecar = json!({"restartPolicy": "Always"});
    let restarts = json!({
        "restartPolicy": "Always",
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
    });
    let whole = |resources: Value| json!({"spec": {"resources": resources}});
    let twice = json!({"requests": {"cpu": "2", "memory": "2Gi"}});
    let resize = PodPart::Resources;
    tries(vec![
        (init("1", json!({})), init("2", json!({})), resize, vec![]),
        (init("1", sidecar.clone()), init("2", sidecar), resize, vec![]),
        (init("1", restarts.clone()), init("2", restarts.clone()), resize, vec![]),
        (
            init("1", json!({"restartPolicy": "Always"})),
            init("2", restarts),
            resize,
            vec![
                "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or \
                 sidecar containers are mutable",
            ],
        ),
        (
            init("1", json!({})),
            json!({"spec": {"initContainers": null}}),
            resize,
            vec![
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change",
                "spec.initContainers: Forbidden: initContainers may not be added or removed",
            ],
        ),
        (whole(amounts("1")), whole(twice), resize, vec![]),
        (
            whole(amounts("1")),
            whole(json!({"requests": null})),
            resize,
            vec![
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change",
                "spec.resources.requests: Forbidden: pod-level resource requests cannot be removed",
            ],
        ),
        (
            whole(amounts("1")),
            whole(Value::Null),
            resize,
            vec![
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change",
                "spec.resources: Forbidden: pod-level resources cannot be removed",
            ],
        ),
    ]);
}
