//! Manifests as people write them: each is accepted as it is.
//!
//! They are in `manifests/`, in the shapes of the concept pages of the Kubernetes documentation,
//! and in the project's `examples/`.

use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::object::{self, Creation};
use crate::resource::{Resource, find_kind};
use crate::schema;

/// The manifests in the files of a directory, each with the name of its file.
fn manifests(directory: &str) -> Vec<(String, Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut files: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
        let text = fs::read_to_string(file).unwrap();
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            all.push((name, Value::deserialize(document).unwrap()));
        }
    }
    all
}

/// As the server makes it of a manifest.
fn created(resource: &Resource, manifest: &Value) -> Value {
    let mut object = manifest.clone();
    (resource.decode)(&object).unwrap_or_else(|error| panic!("{error}\n{manifest:#}"));
    let unknown = schema::graph().normalize(resource.schema, &mut object);
    assert_eq!(unknown, [""; 0], "{manifest:#}");
    let creation = Creation { uid: "u", timestamp: "2026-01-01T00:00:00Z", name_suffix: "abcde" };
    object::prepare_for_create(resource, &mut object, &creation);
    if resource.namespaced && object::namespace(&object).is_empty() {
        object::set_metadata(&mut object, "namespace", "default");
    }
    (resource.apply_defaults)(&mut object);
    // Admission gives every pod an account.
    if resource.kind == "Pod" && object["spec"]["serviceAccountName"].is_null() {
        object["spec"]["serviceAccountName"] = json!("default");
    }
    object
}

fn accepted(directory: &str) -> usize {
    let all = manifests(directory);
    for (file, manifest) in &all {
        let text = |field: &str| manifest[field].as_str().unwrap_or_default();
        let resource = find_kind(text("apiVersion"), text("kind"))
            .unwrap_or_else(|| panic!("{file}: {} is not served", text("kind")));
        let object = created(resource, manifest);
        let what = format!("{file}: {} {}", resource.kind, object::name(&object));
        let problems = |old: Option<&Value>| -> Vec<String> {
            (resource.validate)(&object, old).iter().map(ToString::to_string).collect()
        };
        assert_eq!(problems(None), [""; 0], "{what}");
        assert_eq!(problems(Some(&object)), [""; 0], "{what}, written again");
    }
    all.len()
}

#[test]
fn documented_manifests_are_accepted() {
    let count = accepted("src/manifests");
    println!("{count} manifests are accepted");
    assert!(count >= 60, "{count}");
}

#[test]
fn examples_of_the_project_are_accepted() {
    assert!(accepted("../../examples") >= 5);
}

/// The JSON pointers to all values within `value`.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    let mut below = |key: &str, value: &Value| {
        let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        pointers(value, &at, all);
        all.push(at);
    };
    match value {
        Value::Array(list) => {
            for (index, one) in list.iter().enumerate() {
                below(&index.to_string(), one);
            }
        }
        Value::Object(map) => {
            for (key, one) in map {
                below(key, one);
            }
        }
        _ => {}
    }
}

/// The object with something else, or nothing, where `pointer` points.
fn broken(whole: &Value, pointer: &str) -> Vec<Value> {
    let others = [json!(null), json!(-7), json!("?"), json!([7]), json!({"a": 7})];
    let with = |value: &Value| {
        let mut object = whole.clone();
        *object.pointer_mut(pointer).unwrap() = value.clone();
        object
    };
    let mut all: Vec<Value> = others.iter().map(with).collect();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut without = whole.clone();
    if let Some(map) = without.pointer_mut(parent).unwrap().as_object_mut() {
        map.remove(&key.replace("~1", "/").replace("~0", "~"));
        all.push(without);
    }
    all
}

#[test]
fn no_broken_manifest_panics() {
    let mut tried = 0;
    for (_, manifest) in manifests("src/manifests") {
        let text = |field: &str| manifest[field].as_str().unwrap();
        let resource = find_kind(text("apiVersion"), text("kind")).unwrap();
        let whole = created(resource, &manifest);
        let mut all = Vec::new();
        pointers(&whole, "", &mut all);
        for mut object in all.iter().flat_map(|pointer| broken(&whole, pointer)) {
            let _ = (resource.validate)(&object, None);
            let _ = (resource.validate)(&object, Some(&whole));
            let _ = (resource.validate)(&whole, Some(&object));
            let mut kept = whole.clone();
            (resource.carry_over)(&mut kept, &object);
            (resource.carry_over)(&mut object, &whole);
            (resource.initialize)(&mut object);
            (resource.apply_defaults)(&mut object);
            let _ = (resource.validate)(&object, None);
            tried += 1;
        }
    }
    assert!(tried > 10_000, "{tried}");
}
