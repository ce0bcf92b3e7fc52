//! Containers: their names, images and ports, and what each of the three lists asks for.

use serde_json::{Value, json};

use super::{in_container, in_init_container, in_spec, tries};

pub(super) const ALL: &[fn()] = &[
    lists,
    names_and_images,
    ports,
    ports_of_the_host,
    restarts,
    init_containers,
    containers_for_a_look_inside,
];

#[test]
fn lists() {
    let (a, b) = (json!({"name": "a", "image": "i"}), json!({"name": "b", "image": "i"}));
    in_spec(&[
        (json!({"containers": [a, b]}), &[]),
        (json!({"containers": null}), &[".containers: Required value"]),
        (json!({"containers": []}), &[".containers: Required value"]),
        (json!({"containers": [a, b, a]}), &[".containers[2].name: Duplicate value: \"a\""]),
        (
            json!({"containers": [a], "initContainers": [b, a]}),
            &[".initContainers[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"containers": [a], "initContainers": [b, b]}),
            &[".initContainers[1].name: Duplicate value: \"b\""],
        ),
        (
            json!({"containers": [{"image": "i"}, {"image": "i"}]}),
            &[
                ".containers[0].name: Required value",
                ".containers[1].name: Required value",
                ".containers[1].name: Duplicate value: \"\"",
            ],
        ),
    ]);
}

#[test]
fn names_and_images() {
    let long = "x".repeat(64);
    in_container(&[
        (json!({"name": "a-1", "image": "registry.example.com:5000/team/i@sha256:0"}), &[]),
        (json!({"name": null}), &[".name: Required value"]),
        (json!({"name": "A_b"}), &[".name: Invalid value: \"A_b\": a lowercase RFC 1123 label"]),
        (json!({"name": "-a"}), &[".name: Invalid value: \"-a\": a lowercase RFC 1123 label"]),
        (json!({"name": "a.b"}), &[".name: Invalid value: \"a.b\": must not contain dots"]),
        (
            json!({"name": long}),
            &[&format!(".name: Invalid value: \"{long}\": must be no more than 63 bytes")],
        ),
        (json!({"image": null}), &[".image: Required value"]),
        (json!({"image": ""}), &[".image: Required value"]),
        (
            json!({"image": " i"}),
            &[".image: Invalid value: \" i\": must not have leading or trailing whitespace"],
        ),
        (
            json!({"image": "i\n"}),
            &[".image: Invalid value: \"i\\n\": must not have leading or trailing whitespace"],
        ),
        (
            json!({"imagePullPolicy": "Maybe"}),
            &[".imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \
                 \"IfNotPresent\", \"Never\""],
        ),
        (json!({"terminationMessagePolicy": "FallbackToLogsOnError"}), &[]),
        (
            json!({"terminationMessagePolicy": "Logs"}),
            &[".terminationMessagePolicy: Unsupported value: \"Logs\": supported values: \
                 \"File\", \"FallbackToLogsOnError\""],
        ),
    ]);
}

#[test]
fn ports() {
    let place = |port: &Value| {
        json!({"spec": {"containers": [{"name": "c", "image": "i",
        "ports": [port]}]}})
    };
    tries(
        "spec.containers[0].ports[0]",
        place,
        &[
            (json!({"containerPort": 80, "name": "http", "protocol": "UDP"}), &[]),
            (json!({}), &[".containerPort: Required value"]),
            (json!({"containerPort": 0}), &[".containerPort: Required value"]),
            (
                json!({"containerPort": 65_536}),
                &[".containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive"],
            ),
            (
                json!({"containerPort": -1}),
                &[".containerPort: Invalid value: -1: must be between 1 and 65535, inclusive"],
            ),
            (
                json!({"containerPort": 80, "hostPort": 70_000}),
                &[".hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
            ),
            (
                json!({"containerPort": 80, "protocol": "ICMP"}),
                &[".protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \
                 \"UDP\""],
            ),
            (
                json!({"containerPort": 80, "protocol": "tcp"}),
                &[".protocol: Unsupported value: \"tcp\""],
            ),
            (
                json!({"containerPort": 80, "name": "a-much-too-long-name"}),
                &[".name: Invalid value: \"a-much-too-long-name\": must be no more than 15 bytes"],
            ),
            (
                json!({"containerPort": 80, "name": "Http_"}),
                &[".name: Invalid value: \"Http_\": must contain only alpha-numeric characters \
                 (a-z, 0-9), and hyphens (-)"],
            ),
            (
                json!({"containerPort": 80, "name": "80"}),
                &[".name: Invalid value: \"80\": must contain at least one letter (a-z)"],
            ),
            (
                json!({"containerPort": 80, "name": "a--b"}),
                &[".name: Invalid value: \"a--b\": must not contain consecutive hyphens"],
            ),
            (
                json!({"containerPort": 80, "name": "-a"}),
                &[".name: Invalid value: \"-a\": must not begin or end with a hyphen"],
            ),
        ],
    );
    in_container(&[(
        json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
        &[".ports[1].name: Duplicate value: \"a\""],
    )]);
}

#[test]
fn ports_of_the_host() {
    let port = |number: i64| json!({"containerPort": 80, "hostPort": number});
    let with = |name: &str, ports: Value| json!({"name": name, "image": "i", "ports": ports});
    in_spec(&[
        (json!({"containers": [with("a", json!([port(1)])), with("b", json!([port(2)]))]}), &[]),
        (
            json!({"containers": [with("a", json!([port(1)])), with("b", json!([port(1)]))]}),
            &[".containers[1].ports[0].hostPort: Duplicate value: \"TCP//1\""],
        ),
        (
            json!({"containers": [with("a", json!([
                {"containerPort": 80, "hostPort": 1, "hostIP": "10.0.0.1"},
                {"containerPort": 81, "hostPort": 1, "hostIP": "10.0.0.1"}]))]}),
            &[".containers[0].ports[1].hostPort: Duplicate value: \"TCP/10.0.0.1/1\""],
        ),
        (
            json!({"containers": [with("a", json!([port(1),
                {"containerPort": 80, "hostPort": 1, "protocol": "UDP"}]))]}),
            &[],
        ),
        // Those before the others run one after the other.
        (
            json!({"initContainers": [with("a", json!([port(1)])), with("b", json!([port(1)]))]}),
            &[],
        ),
        (
            json!({"initContainers": [with("a", json!([port(1), port(1)]))]}),
            &[".initContainers[0].ports[1].hostPort: Duplicate value: \"TCP//1\""],
        ),
        (
            json!({"hostNetwork": true, "containers": [with("a", json!([{"containerPort": 80}]))]}),
            &[],
        ),
        (
            json!({"hostNetwork": true, "containers": [with("a", json!([port(81)]))]}),
            &[".containers[0].ports[0].hostPort: Invalid value: 81: must match \
                 `containerPort` when `hostNetwork` is true"],
        ),
    ]);
}

#[test]
fn restarts() {
    let rule = |change: Value| {
        let mut rule = json!({"action": "Restart",
            "exitCodes": {"operator": "In", "values": [42]}});
        json_patch::merge(&mut rule, &change);
        json!({"restartPolicy": "Never", "restartPolicyRules": [rule]})
    };
    let one = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}});
    in_container(&[
        (json!({"restartPolicy": "OnFailure"}), &[]),
        (rule(json!({})), &[]),
        (rule(json!({"action": "RestartAllContainers"})), &[]),
        (
            json!({"restartPolicy": "Sometimes"}),
            &[".restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                 \"Never\", \"OnFailure\""],
        ),
        (
            json!({"restartPolicyRules": [one]}),
            &[".restartPolicy: Required value: must specify restartPolicy when restart rules \
                 are used"],
        ),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": vec![one; 21]}),
            &[".restartPolicyRules: Too many: 21: must have at most 20 items"],
        ),
        (
            rule(json!({"action": "Stop"})),
            &[".restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \
                 \"Restart\", \"RestartAllContainers\""],
        ),
        (
            rule(json!({"exitCodes": null})),
            &[".restartPolicyRules[0].exitCodes: Required value: must be specified"],
        ),
        (
            rule(json!({"exitCodes": {"operator": "Like"}})),
            &[".restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Like\": \
                 supported values: \"In\", \"NotIn\""],
        ),
        (
            rule(json!({"exitCodes": {"values": (0..256).collect::<Vec<_>>()}})),
            &[".restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 \
                 items"],
        ),
    ]);
}

#[test]
fn init_containers() {
    let probe = json!({"exec": {"command": ["true"]}});
    let only = "may not be set for init containers without restartPolicy=Always";
    in_init_container(&[
        (
            json!({"restartPolicy": "Always", "livenessProbe": probe, "readinessProbe": probe,
            "startupProbe": probe, "lifecycle": {"preStop": probe}}),
            &[],
        ),
        (json!({"livenessProbe": probe}), &[&format!(".livenessProbe: Forbidden: {only}")]),
        (json!({"readinessProbe": probe}), &[&format!(".readinessProbe: Forbidden: {only}")]),
        (json!({"startupProbe": probe}), &[&format!(".startupProbe: Forbidden: {only}")]),
        (json!({"lifecycle": {"preStop": probe}}), &[&format!(".lifecycle: Forbidden: {only}")]),
        (
            json!({"restartPolicy": "Often"}),
            &[".restartPolicy: Unsupported value: \"Often\": supported values: \"Always\""],
        ),
        (
            json!({"restartPolicyRules": [{"action": "Restart"}]}),
            &[".restartPolicy: Required value: must specify restartPolicy"],
        ),
        (
            json!({"restartPolicy": "Always", "livenessProbe": {}}),
            &[".livenessProbe: Required value: must specify a handler type"],
        ),
        (json!({"image": ""}), &[".image: Required value"]),
        (json!({"image": "i "}), &[".image: Invalid value: \"i \": must not have leading"]),
        (
            json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy":
                "RestartContainer"}]}),
            &[".resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be \
                 set to 'RestartContainer' for non-sidecar initContainers"],
        ),
        (
            json!({"restartPolicy": "Always", "resizePolicy": [{"resourceName": "cpu",
                "restartPolicy": "RestartContainer"}]}),
            &[],
        ),
    ]);
}

#[test]
fn containers_for_a_look_inside() {
    let created = ".ephemeralContainers: Forbidden: cannot be set on create";
    let never = "Forbidden: cannot be set for an Ephemeral Container";
    let row = |change: Value| {
        let mut look = json!({"name": "look", "image": "i"});
        json_patch::merge(&mut look, &change);
        json!({"ephemeralContainers": [look], "volumes": [{"name": "v"}]})
    };
    let probe = json!({"tcpSocket": {"port": 1}});
    let at = ".ephemeralContainers[0]";
    in_spec(&[
        (row(json!({"targetContainerName": "c"})), &[created]),
        (row(json!({"name": "c"})), &[&format!("{at}.name: Duplicate value: \"c\""), created]),
        (
            row(json!({"targetContainerName": "other"})),
            &[&format!("{at}.targetContainerName: Not found: \"other\""), created],
        ),
        (
            row(json!({"ports": [{"containerPort": 80}]})),
            &[&format!("{at}.ports: {never}"), created],
        ),
        (
            row(json!({"resources": {"limits": {"cpu": "1"}}})),
            &[&format!("{at}.resources: {never}"), created],
        ),
        (
            row(json!({"restartPolicy": "Always"})),
            &[&format!("{at}.restartPolicy: {never}"), created],
        ),
        (row(json!({"livenessProbe": probe})), &[&format!("{at}.livenessProbe: {never}"), created]),
        (
            row(json!({"readinessProbe": probe})),
            &[&format!("{at}.readinessProbe: {never}"), created],
        ),
        (row(json!({"startupProbe": probe})), &[&format!("{at}.startupProbe: {never}"), created]),
        (
            row(json!({"lifecycle": {"preStop": probe}})),
            &[&format!("{at}.lifecycle: {never}"), created],
        ),
        (
            row(json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a"}]})),
            &[&format!("{at}.volumeMounts[0].subPath: {never}"), created],
        ),
        (
            row(json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "a"}]})),
            &[&format!("{at}.volumeMounts[0].subPathExpr: {never}"), created],
        ),
    ]);
}
