//! Pods: what is changed of one that is accepted, and what is said of it.

mod containers;
mod environment;
mod mounts;
mod names;
mod parts;
mod probes;
mod projected;
mod requirements;
mod scheduling;
mod security;
mod templates;
mod updates;
mod volumes;
mod windows;

use serde_json::{Value, json};

use super::kind::{Kind, starts};

/// The tables, to be counted.
pub(super) const ALL: &[&[fn()]] = &[
    containers::ALL,
    environment::ALL,
    mounts::ALL,
    names::ALL,
    parts::ALL,
    probes::ALL,
    projected::ALL,
    requirements::ALL,
    scheduling::ALL,
    security::ALL,
    templates::ALL,
    updates::ALL,
    volumes::ALL,
    windows::ALL,
];

/// A change and the problems that it makes, each from the place of the change on.
type Row<'a> = (Value, &'a [&'a str]);

fn kind() -> Kind {
    let base = json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    Kind::new("v1", "Pod", base)
}

/// Tries new pods. `place` puts the change where `at` says.
fn tries(at: &str, place: impl Fn(&Value) -> Value, rows: &[Row<'_>]) {
    let kind = kind();
    assert_eq!(kind.problems(&kind.created(&json!({})), None), [""; 0]);
    for (change, expected) in rows {
        let change = place(change);
        let got = kind.problems(&kind.created(&change), None);
        let expected: Vec<String> = expected.iter().map(|one| format!("{at}{one}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        starts(&got, &expected, &change);
    }
}

/// What is changed of the spec.
fn in_spec(rows: &[Row<'_>]) {
    tries("spec", |change| json!({"spec": change}), rows);
}

/// The container with what is changed of it.
fn container(change: &Value) -> Value {
    let mut container = json!({"name": "c", "image": "i:1"});
    json_patch::merge(&mut container, change);
    container
}

/// What is changed of the only container.
fn in_container(rows: &[Row<'_>]) {
    let place = |change: &Value| json!({"spec": {"containers": [container(change)]}});
    tries("spec.containers[0]", place, rows);
}

/// What is changed of a container that runs before the others.
fn in_init_container(rows: &[Row<'_>]) {
    let place = |change: &Value| {
        let mut own = json!({"name": "first"});
        json_patch::merge(&mut own, change);
        json!({"spec": {"initContainers": [container(&own)]}})
    };
    tries("spec.initContainers[0]", place, rows);
}

/// What a volume is beside its name, which is `v`.
fn in_volume(rows: &[Row<'_>]) {
    let place = |change: &Value| {
        let mut volume = json!({"name": "v"});
        json_patch::merge(&mut volume, change);
        json!({"spec": {"volumes": [volume]}})
    };
    tries("spec.volumes[0]", place, rows);
}
