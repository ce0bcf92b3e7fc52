//! Pods for the one operating system or the other.

use serde_json::{Value, json};

use super::{in_container, in_spec};

pub(super) const ALL: &[fn()] = &[systems, options, user_names, processes_of_the_host];

#[test]
fn systems() {
    let windows = |change: Value| {
        let mut spec = json!({"os": {"name": "windows"}});
        json_patch::merge(&mut spec, &change);
        spec
    };
    let container = |context: Value| {
        windows(json!({"containers": [{"name": "c", "image": "i", "securityContext": context}]}))
    };
    let no = "Forbidden: cannot be set for a windows pod";
    in_spec(&[
        (json!({"os": {"name": "linux"}}), &[]),
        (windows(json!({"securityContext": {"windowsOptions": {"runAsUserName": "u"}}})), &[]),
        (json!({"os": {}}), &[".os.name: Required value"]),
        (
            json!({"os": {"name": "plan9"}}),
            &[".os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
        ),
        (
            json!({"os": {"name": "linux"},
                "securityContext": {"windowsOptions": {"runAsUserName": "u"}}}),
            &[".securityContext.windowsOptions: Forbidden: windows options cannot be set for a \
                 linux pod"],
        ),
        (
            json!({"os": {"name": "linux"}, "containers": [{"name": "c", "image": "i",
                "securityContext": {"windowsOptions": {}}}]}),
            &[".containers[0].securityContext.windowsOptions: Forbidden: windows options cannot"],
        ),
        (windows(json!({"hostPID": true})), &[&format!(".hostPID: {no}")]),
        (windows(json!({"hostIPC": true})), &[&format!(".hostIPC: {no}")]),
        (windows(json!({"hostUsers": true})), &[&format!(".hostUsers: {no}")]),
        (
            windows(json!({"shareProcessNamespace": false})),
            &[&format!(".shareProcessNamespace: {no}")],
        ),
        (
            windows(json!({"securityContext": {"fsGroup": 1}})),
            &[&format!(".securityContext.fsGroup: {no}")],
        ),
        (
            windows(json!({"securityContext": {"runAsUser": 1}})),
            &[&format!(".securityContext.runAsUser: {no}")],
        ),
        (
            windows(json!({"securityContext": {"supplementalGroups": [1]}})),
            &[&format!(".securityContext.supplementalGroups: {no}")],
        ),
        (
            windows(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
            &[&format!(".securityContext.seccompProfile: {no}")],
        ),
        (
            container(json!({"capabilities": {}})),
            &[&format!(".containers[0].securityContext.capabilities: {no}")],
        ),
        (
            container(json!({"privileged": false})),
            &[&format!(".containers[0].securityContext.privileged: {no}")],
        ),
        (
            container(json!({"readOnlyRootFilesystem": true})),
            &[&format!(".containers[0].securityContext.readOnlyRootFilesystem: {no}")],
        ),
        (
            container(json!({"runAsGroup": 1})),
            &[&format!(".containers[0].securityContext.runAsGroup: {no}")],
        ),
    ]);
}

fn with(options: Value) -> Value {
    json!({"securityContext": {"windowsOptions": options}})
}

#[test]
fn options() {
    in_container(&[
        (with(json!({"gmsaCredentialSpecName": "a.b", "gmsaCredentialSpec": "{}"})), &[]),
        (
            with(json!({"gmsaCredentialSpecName": "A"})),
            &[".securityContext.windowsOptions.gmsaCredentialSpecName: Invalid value: \"A\": a \
                 lowercase RFC 1123 subdomain"],
        ),
        (
            with(json!({"gmsaCredentialSpec": ""})),
            &[".securityContext.windowsOptions.gmsaCredentialSpec: Invalid value: \"\": \
                 gmsaCredentialSpec cannot be an empty string"],
        ),
        (
            with(json!({"gmsaCredentialSpec": "x".repeat((64 << 10) + 1)})),
            &[".securityContext.windowsOptions.gmsaCredentialSpec: Invalid value: \"xx"],
        ),
    ]);
}

#[test]
fn user_names() {
    let user = |name: &str| with(json!({"runAsUserName": name}));
    let long = |length: usize| "a".repeat(length);
    let at = ".securityContext.windowsOptions.runAsUserName: Invalid value:";
    in_container(&[
        (user("DOMAIN\\user"), &[]),
        (user("a.example\\user"), &[]),
        (user(""), &[&format!("{at} \"\": runAsUserName cannot be an empty string")]),
        (
            user("a\tb"),
            &[&format!("{at} \"a\\tb\": runAsUserName cannot contain control characters")],
        ),
        (
            user("a\\b\\c"),
            &[&format!(
                "{at} \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash"
            )],
        ),
        (
            user("a|b\\c"),
            &[&format!(
                "{at} \"a|b\\\\c\": runAsUserName's Domain doesn't match the NetBios nor the DNS \
                 format"
            )],
        ),
        (user(&format!("{}\\c", long(256))), &[at, at]),
        (user("a\\"), &[&format!("{at} \"a\\\\\": runAsUserName's User cannot be empty")]),
        (user(&long(105)), &[at]),
        (
            user(". ."),
            &[&format!("{at} \". .\": runAsUserName's User cannot contain only periods or spaces")],
        ),
        (
            user("a@b"),
            &[&format!(
                "{at} \"a@b\": runAsUserName's User cannot contain the following characters: \
                 \"/\\:;|=,+*?<>@[]"
            )],
        ),
    ]);
}

#[test]
fn processes_of_the_host() {
    let own = |flag: bool| with(json!({"hostProcess": flag}));
    let row = |of_pod: Option<bool>, of_containers: &[Option<bool>], host_network: bool| {
        let containers = of_containers.iter().enumerate().map(|(index, flag)| {
            let mut one = json!({"name": format!("c{index}"), "image": "i"});
            json_patch::merge(&mut one, &flag.map_or(json!({}), own));
            one
        });
        let mut spec = json!({"hostNetwork": host_network,
            "containers": containers.collect::<Vec<_>>()});
        json_patch::merge(&mut spec, &of_pod.map_or(json!({}), own));
        spec
    };
    in_spec(&[
        (row(Some(true), &[None, Some(true)], true), &[]),
        (
            row(None, &[Some(true), None], true),
            &[": Invalid value: \"\": If pod contains any hostProcess containers then all \
                 containers must be HostProcess containers"],
        ),
        (
            row(Some(true), &[None], false),
            &[".hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any \
                 hostProcess containers"],
        ),
        (
            row(Some(false), &[Some(true)], true),
            &[".containers[0].securityContext.windowsOptions.hostProcess: Invalid value: true: \
                 pod hostProcess value must be identical if both are specified, was false"],
        ),
    ]);
}
