//! One table for each part of the rules.

use super::*;

#[test]
fn applies_of_one_manager() {
    check(vec![
        row(
            "an apply makes the object and has what it says",
            MAP,
            [Apply("a", json!({"data": {"k": "1"}, "metadata": {"labels": {"l": "x"}}}))],
            json!({"data": {"k": "1"}, "metadata": {"labels": {"l": "x"}}}),
            &["a Apply: .data.k .metadata.labels.l"],
        ),
        row(
            "the same again changes nothing",
            MAP,
            [Apply("a", data(&[("k", "1")])), Apply("a", data(&[("k", "1")]))],
            data(&[("k", "1")]),
            &["a Apply: .data.k"],
        ),
        row(
            "a new value replaces the old one",
            MAP,
            [Apply("a", data(&[("k", "1")])), Apply("a", data(&[("k", "2")]))],
            data(&[("k", "2")]),
            &["a Apply: .data.k"],
        ),
        row(
            "what is not applied any more goes away",
            MAP,
            [Apply("a", data(&[("k", "1"), ("l", "1")])), Apply("a", data(&[("k", "1")]))],
            data(&[("k", "1")]),
            &["a Apply: .data.k"],
        ),
        row(
            "so does the map around it",
            MAP,
            [
                Apply("a", json!({"data": {"k": "1"}, "metadata": {"labels": {"l": "x"}}})),
                Apply("a", data(&[("k", "1")])),
            ],
            data(&[("k", "1")]),
            &["a Apply: .data.k"],
        ),
        row(
            "who applies nothing any more is no manager",
            MAP,
            [Apply("a", data(&[("k", "1")])), Apply("a", json!({}))],
            json!({}),
            &[],
        ),
        row(
            "an empty map is somebody's",
            MAP,
            [Apply("a", json!({"data": {}}))],
            json!({"data": {}}),
            &["a Apply: .data"],
        ),
        row(
            "null takes a scalar away and keeps the field",
            DEPLOYMENT,
            [
                Apply("a", json!({"spec": {"replicas": 3, "paused": true}})),
                Apply("a", json!({"spec": {"replicas": null, "paused": true}})),
            ],
            json!({"spec": {"paused": true}}),
            &["a Apply: .spec.paused .spec.replicas"],
        ),
        row(
            "null leaves a map as it is",
            MAP,
            [Update("u", data(&[("k", "1")])), Apply("a", json!({"data": null}))],
            data(&[("k", "1")]),
            &["a Apply: .data", "u Update: .data .data.k"],
        ),
    ]);
}

#[test]
fn applies_of_several_managers() {
    check(vec![
        row(
            "two managers have fields of their own",
            MAP,
            [Apply("a", data(&[("k", "1")])), Apply("b", data(&[("l", "2")]))],
            data(&[("k", "1"), ("l", "2")]),
            &["a Apply: .data.k", "b Apply: .data.l"],
        ),
        row(
            "two who agree share a field",
            MAP,
            [Apply("a", data(&[("k", "1")])), Apply("b", data(&[("k", "1")]))],
            data(&[("k", "1")]),
            &["a Apply: .data.k", "b Apply: .data.k"],
        ),
        row(
            "a shared field stays when one of them leaves it",
            MAP,
            [
                Apply("a", data(&[("k", "1")])),
                Apply("b", data(&[("k", "1"), ("l", "1")])),
                Apply("b", data(&[("l", "1")])),
            ],
            data(&[("k", "1"), ("l", "1")]),
            &["a Apply: .data.k", "b Apply: .data.l"],
        ),
        row(
            "and goes away with the last one",
            MAP,
            [
                Apply("a", data(&[("k", "1"), ("m", "1")])),
                Apply("b", data(&[("k", "1"), ("l", "1")])),
                Apply("b", data(&[("l", "1")])),
                Apply("a", data(&[("m", "1")])),
            ],
            data(&[("l", "1"), ("m", "1")]),
            &["b Apply: .data.l", "a Apply: .data.m"],
        ),
        refused(
            "another value is a conflict",
            MAP,
            [Apply("a", data(&[("k", "1")])), Apply("b", data(&[("k", "2")]))],
            "Apply failed with 1 conflict: conflict with \"a\": .data.k",
        ),
        refused(
            "all conflicts are told, by manager",
            MAP,
            [
                Apply("b", data(&[("k", "1"), ("l", "1")])),
                Update("a", data(&[("m", "1")])),
                Apply("c", data(&[("k", "2"), ("l", "2"), ("m", "2")])),
            ],
            "Apply failed with 3 conflicts: conflicts with \"a\" using v1:\n- .data.m\n\
             conflicts with \"b\":\n- .data.k\n- .data.l",
        ),
        refused(
            "who shared a field may not change it alone",
            MAP,
            [
                Apply("a", data(&[("k", "1")])),
                Apply("b", data(&[("k", "1")])),
                Apply("a", data(&[("k", "2")])),
            ],
            "Apply failed with 1 conflict: conflict with \"b\": .data.k",
        ),
        row(
            "force takes the field",
            MAP,
            [Apply("a", data(&[("k", "1"), ("l", "1")])), Force("b", data(&[("k", "2")]))],
            data(&[("k", "2"), ("l", "1")]),
            &["a Apply: .data.l", "b Apply: .data.k"],
        ),
        row(
            "and with it the last field of the other",
            MAP,
            [Apply("a", data(&[("k", "1")])), Force("b", data(&[("k", "2")]))],
            data(&[("k", "2")]),
            &["b Apply: .data.k"],
        ),
        row(
            "what is left to another does not come back",
            MAP,
            [
                Apply("a", data(&[("k", "1"), ("l", "1")])),
                Force("b", data(&[("k", "2")])),
                Apply("a", data(&[("l", "1")])),
            ],
            data(&[("k", "2"), ("l", "1")]),
            &["a Apply: .data.l", "b Apply: .data.k"],
        ),
    ]);
}

#[test]
fn updates() {
    check(vec![
        row(
            "who makes an object has it",
            MAP,
            [Update("u", json!({"data": {"k": "1"}, "metadata": {"labels": {"l": "x"}}}))],
            json!({"data": {"k": "1"}, "metadata": {"labels": {"l": "x"}}}),
            &["u Update: .data .data.k .metadata.labels .metadata.labels.l"],
        ),
        row(
            "an update has what it changes",
            MAP,
            [
                Update("u", data(&[("k", "1"), ("l", "1")])),
                Update("v", data(&[("l", "2"), ("m", "1")])),
            ],
            data(&[("k", "1"), ("l", "2"), ("m", "1")]),
            &["u Update: .data .data.k", "v Update: .data.l .data.m"],
        ),
        row(
            "an update takes from who applied",
            MAP,
            [Apply("a", data(&[("k", "1"), ("l", "1")])), Update("u", data(&[("k", "2")]))],
            data(&[("k", "2"), ("l", "1")]),
            &["a Apply: .data.l", "u Update: .data.k"],
        ),
        row(
            "also when it has the same name",
            MAP,
            [Apply("a", data(&[("k", "1"), ("l", "1")])), Update("a", data(&[("k", "2")]))],
            data(&[("k", "2"), ("l", "1")]),
            &["a Apply: .data.l", "a Update: .data.k"],
        ),
        row(
            "what an update removes is nobody's",
            MAP,
            [
                Apply("a", data(&[("k", "1"), ("l", "1")])),
                Update("u", json!({"data": {"l": null}})),
            ],
            data(&[("k", "1")]),
            &["a Apply: .data.k"],
        ),
        row(
            "an update that changes nothing has nothing",
            MAP,
            [Apply("a", data(&[("k", "1")])), Update("u", data(&[("k", "1")]))],
            data(&[("k", "1")]),
            &["a Apply: .data.k"],
        ),
        row(
            "a nameless writer is unknown",
            MAP,
            [Update("", data(&[("k", "1")]))],
            data(&[("k", "1")]),
            &["unknown Update: .data .data.k"],
        ),
        refused(
            "an apply conflicts with an update",
            MAP,
            [Update("u", data(&[("k", "1")])), Apply("a", data(&[("k", "2")]))],
            "Apply failed with 1 conflict: conflict with \"u\" using v1: .data.k",
        ),
        row(
            "a field that somebody updated stays when nobody applies it any more",
            MAP,
            [
                Update("u", data(&[("k", "1")])),
                Apply("a", data(&[("k", "1"), ("l", "1")])),
                Apply("a", data(&[("l", "1")])),
            ],
            data(&[("k", "1"), ("l", "1")]),
            &["a Apply: .data.l", "u Update: .data .data.k"],
        ),
        row(
            "eleven updaters are too many",
            MAP,
            (0..11)
                .map(|n| {
                    const NAMES: [&str; 11] =
                        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
                    Update(NAMES[n], data(&[(NAMES[n], "1")]))
                })
                .collect::<Vec<_>>(),
            data(&[
                ("a", "1"),
                ("b", "1"),
                ("c", "1"),
                ("d", "1"),
                ("e", "1"),
                ("f", "1"),
                ("g", "1"),
                ("h", "1"),
                ("i", "1"),
                ("j", "1"),
                ("k", "1"),
            ]),
            &[
                "ancient-changes Update: .data .data.a .data.b",
                "c Update: .data.c",
                "d Update: .data.d",
                "e Update: .data.e",
                "f Update: .data.f",
                "g Update: .data.g",
                "h Update: .data.h",
                "i Update: .data.i",
                "j Update: .data.j",
                "k Update: .data.k",
            ],
        ),
    ]);
}

#[test]
fn lists() {
    let two = containers(&[("c", "i:1"), ("d", "i:1")]);
    const C: &str = "a Apply: .spec.template.spec.containers[name=\"c\"] \
                     .spec.template.spec.containers[name=\"c\"].image \
                     .spec.template.spec.containers[name=\"c\"].name";
    const D: &str = "b Apply: .spec.template.spec.containers[name=\"d\"] \
                     .spec.template.spec.containers[name=\"d\"].image \
                     .spec.template.spec.containers[name=\"d\"].name";
    check(vec![
        row(
            "items with keys are merged",
            DEPLOYMENT,
            [Apply("a", containers(&[("c", "i:1")])), Apply("b", containers(&[("d", "i:1")]))],
            two.clone(),
            &[C, D],
        ),
        row(
            "an item that is not applied any more goes away",
            DEPLOYMENT,
            [Apply("a", two.clone()), Apply("a", containers(&[("c", "i:1")]))],
            containers(&[("c", "i:1")]),
            &[C],
        ),
        row(
            "an item to which another adds a field stays, without the fields of the first",
            DEPLOYMENT,
            [
                Apply("a", two),
                Apply(
                    "b",
                    json!({"spec": {"template": {"spec": {"containers": [
                        {"name": "d", "tty": true}]}}}}),
                ),
                Apply("a", containers(&[("c", "i:1")])),
            ],
            json!({"spec": {"template": {"spec": {"containers": [
                {"name": "c", "image": "i:1"}, {"name": "d", "tty": true}]}}}}),
            &[
                "b Apply: .spec.template.spec.containers[name=\"d\"] \
                 .spec.template.spec.containers[name=\"d\"].name \
                 .spec.template.spec.containers[name=\"d\"].tty",
                C,
            ],
        ),
        row(
            "items come in the order of the last configuration, with others between them",
            DEPLOYMENT,
            [
                Apply("a", containers(&[("c", "i:1"), ("e", "i:1")])),
                Apply("b", containers(&[("d", "i:1")])),
                Force("a", containers(&[("e", "i:1"), ("c", "i:1")])),
            ],
            containers(&[("e", "i:1"), ("d", "i:1"), ("c", "i:1")]),
            &[
                D,
                "a Apply: .spec.template.spec.containers[name=\"c\"] \
                 .spec.template.spec.containers[name=\"e\"] \
                 .spec.template.spec.containers[name=\"c\"].image \
                 .spec.template.spec.containers[name=\"c\"].name \
                 .spec.template.spec.containers[name=\"e\"].image \
                 .spec.template.spec.containers[name=\"e\"].name",
            ],
        ),
        row(
            "a key that is left out has its default",
            SERVICE,
            [
                Apply("a", json!({"spec": {"ports": [{"port": 80, "name": "x"}]}})),
                Apply(
                    "b",
                    json!({"spec": {"ports": [{"port": 80, "protocol": "TCP",
                        "targetPort": 8080}]}}),
                ),
            ],
            json!({"spec": {"ports": [{"name": "x", "port": 80, "protocol": "TCP",
                "targetPort": 8080}]}}),
            &[
                "a Apply: .spec.ports[port=80,protocol=\"TCP\"] \
                 .spec.ports[port=80,protocol=\"TCP\"].name \
                 .spec.ports[port=80,protocol=\"TCP\"].port",
                "b Apply: .spec.ports[port=80,protocol=\"TCP\"] \
                 .spec.ports[port=80,protocol=\"TCP\"].port \
                 .spec.ports[port=80,protocol=\"TCP\"].protocol \
                 .spec.ports[port=80,protocol=\"TCP\"].targetPort",
            ],
        ),
        row(
            "items of a set are somebody's one by one",
            MAP,
            [
                Apply("a", json!({"metadata": {"finalizers": ["x/a", "x/b"]}})),
                Apply("b", json!({"metadata": {"finalizers": ["x/b", "x/c"]}})),
                Apply("a", json!({"metadata": {"finalizers": ["x/a"]}})),
            ],
            json!({"metadata": {"finalizers": ["x/a", "x/b", "x/c"]}}),
            &[
                "b Apply: .metadata.finalizers[=\"x/b\"] .metadata.finalizers[=\"x/c\"]",
                "a Apply: .metadata.finalizers[=\"x/a\"]",
            ],
        ),
        refused(
            "an atomic list is one field",
            POD,
            [
                Apply("a", json!({"spec": {"tolerations": [{"key": "a"}]}})),
                Apply("b", json!({"spec": {"tolerations": [{"key": "b"}]}})),
            ],
            "Apply failed with 1 conflict: conflict with \"a\": .spec.tolerations",
        ),
        row(
            "and is replaced as a whole",
            POD,
            [
                Apply("a", json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}})),
                Force("b", json!({"spec": {"tolerations": [{"key": "c"}]}})),
            ],
            json!({"spec": {"tolerations": [{"key": "c"}]}}),
            &["b Apply: .spec.tolerations"],
        ),
        refused(
            "so is an atomic map",
            SERVICE,
            [
                Apply("a", json!({"spec": {"selector": {"a": "1"}}})),
                Apply("b", json!({"spec": {"selector": {"b": "1"}}})),
            ],
            "Apply failed with 1 conflict: conflict with \"a\": .spec.selector",
        ),
        refused(
            "and an atomic object",
            DEPLOYMENT,
            [
                Apply("a", json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}})),
                Apply("b", json!({"spec": {"selector": {"matchLabels": {"b": "1"}}}})),
            ],
            "Apply failed with 1 conflict: conflict with \"a\": .spec.selector",
        ),
        row(
            "items of an atomic type are one field each",
            MAP,
            [Apply(
                "a",
                json!({"metadata": {"ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}),
            )],
            json!({"metadata": {"ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}),
            &["a Apply: .metadata.ownerReferences[uid=\"u\"]"],
        ),
        row(
            "duplicates of an update are had together",
            POD,
            [Update(
                "u",
                json!({"spec": {"containers": [{"name": "c", "env": [
                    {"name": "E", "value": "1"}, {"name": "E", "value": "2"}]}]}}),
            )],
            json!({"spec": {"containers": [{"name": "c", "env": [
                {"name": "E", "value": "1"}, {"name": "E", "value": "2"}]}]}}),
            &["u Update: .spec.containers[name=\"c\"] .spec.containers[name=\"c\"].env \
               .spec.containers[name=\"c\"].name .spec.containers[name=\"c\"].env[name=\"E\"]"],
        ),
    ]);
}

#[test]
fn what_is_nobodys() {
    check(vec![
        row(
            "metadata that the server sets",
            MAP,
            [Apply(
                "a",
                json!({"metadata": {"namespace": "d", "uid": "u", "resourceVersion": "1",
                    "generation": 1, "creationTimestamp": null, "selfLink": "/x",
                    "annotations": {"a": "1"}}}),
            )],
            json!({"metadata": {"namespace": "d", "uid": "u", "resourceVersion": "1",
                "generation": 1, "selfLink": "/x", "annotations": {"a": "1"}}}),
            &["a Apply: .metadata.annotations.a"],
        ),
        row(
            "the status, for who writes the object",
            DEPLOYMENT,
            [
                Update("u", json!({"spec": {"paused": true}, "status": {"replicas": 1}})),
                Apply("a", json!({"spec": {"replicas": 1}, "status": {"replicas": 1}})),
            ],
            json!({"spec": {"paused": true, "replicas": 1}, "status": {"replicas": 1}}),
            &["a Apply: .spec.replicas", "u Update: .spec.paused"],
        ),
        row(
            "everything else, for who writes the status",
            DEPLOYMENT,
            [
                Update("u", json!({"spec": {"paused": true}})),
                UpdateStatus("s", json!({"spec": {"paused": false}, "status": {"replicas": 1}})),
            ],
            json!({"spec": {"paused": false}, "status": {"replicas": 1}}),
            &["u Update: .spec.paused", "s Update/status: .status.replicas"],
        ),
        row(
            "an applied status is had apart",
            DEPLOYMENT,
            [
                Apply("a", json!({"spec": {"replicas": 1}})),
                ApplyStatus("a", json!({"status": {"replicas": 1}})),
            ],
            json!({"spec": {"replicas": 1}, "status": {"replicas": 1}}),
            &["a Apply: .spec.replicas", "a Apply/status: .status.replicas"],
        ),
        refused(
            "a status conflicts as everything does",
            DEPLOYMENT,
            [
                Apply("a", json!({"spec": {"replicas": 1}})),
                UpdateStatus("s", json!({"status": {"replicas": 1}})),
                ApplyStatus("a", json!({"status": {"replicas": 2}})),
            ],
            "Apply failed with 1 conflict: conflict with \"s\" with subresource \"status\" using \
             apps/v1: .status.replicas",
        ),
        row(
            "defaults that come after an apply",
            SERVICE,
            [
                Apply("a", json!({"spec": {"ports": [{"port": 80}]}})),
                Unnoted(json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1"}})),
                Apply("a", json!({"spec": {"ports": [{"port": 80}]}})),
            ],
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1",
                "ports": [{"port": 80}]}}),
            &["a Apply: .spec.ports[port=80,protocol=\"TCP\"] \
               .spec.ports[port=80,protocol=\"TCP\"].port"],
        ),
        row(
            "a default goes away with the item that it is in",
            SERVICE,
            [
                Apply("a", json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}})),
                Unnoted(json!({"spec": {"ports": [
                    {"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}})),
                Apply("a", json!({"spec": {"ports": [{"port": 81}]}})),
            ],
            json!({"spec": {"ports": [{"port": 81, "protocol": "TCP"}]}}),
            &["a Apply: .spec.ports[port=81,protocol=\"TCP\"] \
               .spec.ports[port=81,protocol=\"TCP\"].port"],
        ),
    ]);
}

#[test]
fn what_came_before() {
    let annotated = |last: &str, k: &str| {
        json!({"data": {"k": k}, "metadata": {"annotations": {LAST_APPLIED: format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"x\"}},\
              \"data\":{{\"k\":\"{last}\"}}}}\n")}}})
    };
    let renewed = |k: &str| {
        json!({"data": {"k": k}, "metadata": {"annotations": {LAST_APPLIED: format!(
            "{{\"apiVersion\":\"v1\",\"data\":{{\"k\":\"{k}\"}},\"kind\":\"ConfigMap\",\
              \"metadata\":{{\"name\":\"x\"}}}}\n")}}})
    };
    check(vec![
        row(
            "an object without entries was somebody's before the first apply",
            MAP,
            [Unnoted(data(&[("k", "1")])), Apply("a", data(&[("l", "1")]))],
            data(&[("k", "1"), ("l", "1")]),
            &["a Apply: .data.l", "before-first-apply Update: .data .data.k"],
        ),
        refused(
            "who may be in conflict",
            MAP,
            [Unnoted(data(&[("k", "1")])), Apply("a", data(&[("k", "2")]))],
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.k",
        ),
        row(
            "without entries an update notes nobody",
            MAP,
            [Unnoted(data(&[("k", "1")])), Update("u", data(&[("k", "2")]))],
            data(&[("k", "2")]),
            &[],
        ),
        row(
            "kubectl takes over what it applied without the server, and keeps its note up to date",
            MAP,
            [
                Update("kubectl-client-side-apply", annotated("1", "1")),
                Apply("kubectl", data(&[("k", "2")])),
            ],
            renewed("2"),
            &[
                "kubectl Apply: .data.k",
                "kubectl-client-side-apply Update: .data .metadata.annotations \
                 .metadata.annotations.kubectl.kubernetes.io/last-applied-configuration",
            ],
        ),
        refused(
            "but not what somebody has changed since",
            MAP,
            [
                Update("kubectl-client-side-apply", annotated("1", "1")),
                Update("u", data(&[("k", "3")])),
                Apply("kubectl", data(&[("k", "2")])),
            ],
            "Apply failed with 1 conflict: conflict with \"u\" using v1: .data.k",
        ),
        refused(
            "and nobody else does",
            MAP,
            [
                Update("kubectl-client-side-apply", annotated("1", "1")),
                Apply("a", data(&[("k", "2")])),
            ],
            "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: \
             .data.k",
        ),
    ]);
}

#[test]
fn entries_that_clients_write() {
    let with =
        |entries: Value, k: &str| json!({"data": {"k": k}, "metadata": {"managedFields": entries}});
    let entry = |manager: &str, fields: Value| {
        json!([{"manager": manager, "operation": "Apply", "apiVersion": "v1",
            "time": "2025-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields}])
    };
    let made = || Apply("a", data(&[("k", "1")]));
    let one = || data(&[("k", "1")]);
    check(vec![
        row(
            "an empty list forgets all",
            MAP,
            [made(), Replace("u", with(json!([]), "1"))],
            one(),
            &[],
        ),
        row(
            "one empty entry forgets all",
            MAP,
            [made(), Update("u", json!({"metadata": {"managedFields": [{}]}}))],
            one(),
            &[],
        ),
        row("none keeps all", MAP, [made(), Replace("u", one())], one(), &["a Apply: .data.k"]),
        row(
            "others take their place",
            MAP,
            [made(), Replace("u", with(entry("b", json!({"f:data": {"f:k": {}}})), "1"))],
            one(),
            &["b Apply: .data.k"],
        ),
        row(
            "and the writer has what it changes beside",
            MAP,
            [made(), Replace("u", with(entry("b", json!({"f:data": {"f:k": {}}})), "2"))],
            data(&[("k", "2")]),
            &["u Update: .data.k"],
        ),
        row(
            "what is no entry keeps all",
            MAP,
            [made(), Replace("u", with(json!([{"manager": "b", "operation": "Other"}]), "1"))],
            one(),
            &["a Apply: .data.k"],
        ),
        row(
            "so do fields that are none",
            MAP,
            [made(), Replace("u", with(entry("b", json!({"k:nonsense": {}})), "1"))],
            one(),
            &["a Apply: .data.k"],
        ),
        row(
            "through a subresource nobody writes entries",
            MAP,
            [made(), UpdateStatus("u", json!({"metadata": {"managedFields": []}}))],
            one(),
            &["a Apply: .data.k"],
        ),
        row(
            "an entry of another version goes away",
            MAP,
            [
                made(),
                Unnoted(json!({"metadata": {"managedFields": [
                    {"manager": "old", "operation": "Apply", "apiVersion": "v0",
                     "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}}]}})),
                Apply("b", data(&[("k", "2")])),
            ],
            data(&[("k", "2")]),
            &["b Apply: .data.k"],
        ),
    ]);
}

#[test]
fn configurations_that_do_not_fit() {
    let failed = "failed to create typed patch object (/x; apps/v1, Kind=Deployment): ";
    let cases = [
        (DEPLOYMENT, json!({"spec": {"foo": 1}}), "spec.foo: field not declared in schema"),
        (
            DEPLOYMENT,
            containers(&[("c", "i:1"), ("c", "i:2")]),
            "spec.template.spec.containers: duplicate entries for key [name=\"c\"]",
        ),
        (
            DEPLOYMENT,
            json!({"spec": {"template": {"spec": {"containers": [{"image": "i"}]}}}}),
            "spec.template.spec.containers: element 0: associative list with keys has an element \
             that omits all key fields [\"name\"] (and doesn't have default values for any key \
             fields)",
        ),
    ];
    for (kind, part, expected) in cases {
        let error = run(kind, &[Apply("a", part)]).unwrap_err();
        assert_eq!(error, ApplyFailed::Untyped(format!("{failed}.{expected}")));
    }
    let error = run(DEPLOYMENT, &[Apply("a", json!({"spec": {"replicas": "x"}}))]).unwrap_err();
    let ApplyFailed::Untyped(message) = error else { panic!("{error:?}") };
    assert!(message.starts_with(&format!("{failed}.spec.replicas: ")), "{message}");

    let malformed = [
        (json!({"kind": "Pod"}), "invalid object type: /v1, Kind=Pod"),
        (json!({"apiVersion": "apps/v1"}), "invalid object type: apps/v1, Kind=ConfigMap"),
        (json!({"metadata": {"managedFields": []}}), "metadata.managedFields must be nil"),
    ];
    for (part, expected) in malformed {
        let error = run(MAP, &[Apply("a", part)]).unwrap_err();
        assert_eq!(error, ApplyFailed::Malformed(expected.to_owned()));
    }
    // Both conflicts and their fields are told apart.
    let error = run(MAP, &[Apply("a", data(&[("k", "1")])), Apply("b", data(&[("k", "2")]))]);
    let Err(ApplyFailed::Conflicts(conflicts)) = error else { panic!("{error:?}") };
    assert_eq!((&*conflicts[0].manager, &*conflicts[0].field), ("\"a\"", ".data.k"));
}

#[test]
fn times_change_only_with_something_else() {
    let time = |steps: &[Step], index: usize| {
        let object = run(MAP, steps).unwrap();
        object["metadata"]["managedFields"][index]["time"].as_str().unwrap().to_owned()
    };
    let first = || Apply("a", data(&[("k", "1")]));
    assert_eq!(time(&[first()], 0), "2026-01-01T00:00:00Z");
    assert_eq!(time(&[first(), first()], 0), "2026-01-01T00:00:00Z");
    assert_eq!(time(&[first(), Update("u", data(&[("k", "1")]))], 0), "2026-01-01T00:00:00Z");
    assert_eq!(time(&[first(), Apply("a", data(&[("k", "2")]))], 0), "2026-01-01T00:01:00Z");
    // Who joins is noted then; who was there before is not noted again.
    let joined = [first(), Apply("b", data(&[("k", "1")]))];
    assert_eq!(
        (time(&joined, 0), time(&joined, 1)),
        ("2026-01-01T00:00:00Z".to_owned(), "2026-01-01T00:01:00Z".to_owned(),)
    );
    let updates = [
        Update("u", data(&[("k", "1")])),
        Update("u", data(&[("k", "2")])),
        Update("u", data(&[("k", "2")])),
    ];
    assert_eq!(time(&updates, 0), "2026-01-01T00:01:00Z");
    // To lose a field is no write of one's own.
    let lost = [Update("u", data(&[("k", "1"), ("l", "1")])), Update("v", data(&[("l", "2")]))];
    assert_eq!(time(&lost, 0), "2026-01-01T00:00:00Z");
}

/// Entries as Kubernetes 1.36 writes them for the same requests.
#[test]
fn entries_on_the_wire() {
    let pod = json!({
        "metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]},
    });
    let mut new = named(POD, &pod);
    (resource(POD).apply_defaults)(&mut new);
    let writer = Writer { manager: "kubectl-create", subresource: "", now: "2026-01-01T00:00:00Z" };
    update(resource(POD), None, &mut new, &writer);
    assert_eq!(
        new["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create",
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {
                        "k:{\"name\":\"c\"}": {
                            ".": {},
                            "f:image": {},
                            "f:imagePullPolicy": {},
                            "f:name": {},
                            "f:ports": {
                                ".": {},
                                "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                    ".": {},
                                    "f:containerPort": {},
                                    "f:protocol": {},
                                },
                            },
                            "f:resources": {},
                            "f:terminationMessagePath": {},
                            "f:terminationMessagePolicy": {},
                        },
                    },
                    "f:dnsPolicy": {},
                    "f:enableServiceLinks": {},
                    "f:restartPolicy": {},
                    "f:schedulerName": {},
                    "f:securityContext": {},
                    "f:terminationGracePeriodSeconds": {},
                },
            },
        }])
    );
    let node = run(
        NODE,
        &[UpdateStatus(
            "agent",
            json!({"status": {"conditions": [
        {"type": "Ready", "status": "True"}]}}),
        )],
    );
    assert_eq!(
        node.unwrap()["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:status": {"f:conditions": {
            ".": {},
            "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}},
        }}})
    );
    let secret = run(SECRET, &[Apply("a", json!({"stringData": {"a": "b"}}))]).unwrap();
    assert_eq!(managers(&secret), ["a Apply: .stringData.a"]);
}
