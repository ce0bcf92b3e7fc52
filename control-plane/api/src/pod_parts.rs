//! The parts of a pod that change through subresources of their own while it runs.
//!
//! Guarantees: a write to a part changes nothing else; what else it would change is dropped or
//! refused, as Kubernetes does. A change raises the generation.

use serde_json::{Value, json};

use crate::object;
use crate::validation::{self, FieldError};

/// What such a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPart {
    /// Containers that somebody adds to look into a running pod.
    EphemeralContainers,
    /// What its containers may use, and how a change of that is put into effect.
    Resources,
}

const OF_A_RESIZE: [&str; 2] = ["resources", "resizePolicy"];

/// Makes of what a client wants, with defaults, the old pod with the part changed.
pub fn keep_only(part: PodPart, new: &mut Value, old: &Value) {
    let wanted = new["spec"].take();
    let version = object::resource_version(new).to_owned();
    *new = old.clone();
    object::set_metadata(new, "resourceVersion", &version);
    match part {
        PodPart::EphemeralContainers => {
            object::copy(&mut new["spec"], &wanted, "ephemeralContainers");
        }
        PodPart::Resources => resize(&mut new["spec"], wanted),
    }
    if new["spec"] != old["spec"] {
        let next = object::generation(old).saturating_add(1);
        object::metadata_mut(new).insert("generation".to_owned(), json!(next));
    }
}

/// Containers that are not those of the pod are left for the validation to refuse.
fn resize(spec: &mut Value, mut wanted: Value) {
    let lists = ["containers", "initContainers"];
    let names = |spec: &Value| -> Vec<Vec<Value>> {
        let of = |list: &str| spec[list].as_array().into_iter().flatten();
        lists.iter().map(|list| of(list).map(|one| one["name"].clone()).collect()).collect()
    };
    if names(spec) != names(&wanted) {
        *spec = wanted;
        return;
    }
    if wanted["resources"].is_object() || spec["resources"].is_object() {
        spec["resources"] = wanted["resources"].take();
    }
    for list in lists {
        let olds = spec.get_mut(list).and_then(Value::as_array_mut);
        let (Some(olds), Some(news)) = (olds, wanted[list].as_array()) else { continue };
        for (old, new) in olds.iter_mut().zip(news) {
            for field in OF_A_RESIZE {
                object::copy(old, new, field);
            }
        }
    }
}

/// Checks a pod that [`keep_only`] made.
pub fn validate(part: PodPart, new: &Value, old: &Value) -> Vec<FieldError> {
    match part {
        PodPart::EphemeralContainers => validation::ephemeral_containers(new, old),
        PodPart::Resources => validation::resize(new, old),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "p", "generation": 1, "labels": { "a": "1" } },
            "spec": {
                "nodeName": "n",
                "containers": [{ "name": "c", "image": "i", "resources": {} }],
            },
            "status": { "phase": "Running" },
        })
    }

    #[test]
    fn only_the_part_changes_and_is_counted() {
        let debugger = json!([{ "name": "debug", "image": "tools" }]);
        let limits = json!({ "limits": { "cpu": "1" } });
        let change = |path: &str, value: Value| {
            let mut pod = pod();
            *pod.pointer_mut(path).unwrap() = value;
            pod
        };
        let mut debugged = pod();
        debugged["spec"]["ephemeralContainers"] = debugger.clone();
        debugged["spec"]["nodeName"] = json!("other");
        debugged["metadata"]["labels"] = json!({});
        debugged["status"] = json!({});
        let with_debugger = |value: &Value| value["spec"]["ephemeralContainers"] == debugger;
        let resized = change("/spec/containers/0/resources", limits.clone());
        let is_resized = |value: &Value| value["spec"]["containers"][0]["resources"] == limits;
        let image = change("/spec/containers/0/image", json!("j"));
        use PodPart::{EphemeralContainers, Resources};
        for (part, new, debugs, resizes, generation) in [
            (EphemeralContainers, &debugged, true, false, 2),
            (Resources, &debugged, false, false, 1),
            (Resources, &resized, false, true, 2),
            (EphemeralContainers, &resized, false, false, 1),
            (Resources, &image, false, false, 1),
        ] {
            let mut kept = new.clone();
            keep_only(part, &mut kept, &pod());
            assert_eq!((with_debugger(&kept), is_resized(&kept)), (debugs, resizes), "{new}");
            assert_eq!(kept["metadata"]["generation"], generation, "{new}");
            assert_eq!(kept["spec"]["nodeName"], "n");
            assert_eq!(kept["spec"]["containers"][0]["image"], "i");
            assert_eq!(kept["metadata"]["labels"], json!({ "a": "1" }));
            assert_eq!(kept["status"], json!({ "phase": "Running" }));
        }
    }
}
