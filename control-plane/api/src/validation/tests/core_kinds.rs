//! Namespaces, nodes, config maps, secrets, accounts, events, endpoints.

use serde_json::{Value, json};

use super::kind::Kind;

pub(super) const ALL: &[fn()] = &[
    namespaces,
    finalizers,
    nodes,
    changes_of_nodes,
    config_maps,
    secrets,
    accounts,
    events,
    endpoints,
    slices,
];

#[test]
fn namespaces() {
    let kind = Kind::new("v1", "Namespace", json!({}));
    kind.creates(&[
        (
            json!({"metadata": {"name": "a.b"}}),
            vec!["metadata.name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            json!({"metadata": {"namespace": "d"}}),
            vec!["metadata.namespace: Forbidden: not allowed on this type"],
        ),
    ]);
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": "Terminating"}});
    kind.updates(&[
        (deleted.clone(), json!({"status": {"conditions": []}}), vec![]),
        (
            deleted,
            json!({"status": {"phase": "Active"}}),
            vec![
                "status.Phase: Invalid value: \"Active\": may only be 'Terminating' if \
                 `deletionTimestamp` is not empty",
            ],
        ),
        (
            json!({}),
            json!({"status": {"phase": "Terminating"}}),
            vec![
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if \
                 `deletionTimestamp` is empty",
            ],
        ),
        (json!({}), json!({"spec": {"finalizers": ["kubernetes", "example.com/a"]}}), vec![]),
        (
            json!({}),
            json!({"spec": {"finalizers": ["mine"]}}),
            vec![
                "spec.finalizers[0]: Invalid value: \"mine\": name is neither a standard \
                 finalizer name nor is it fully qualified",
            ],
        ),
    ]);
}

#[test]
fn finalizers() {
    let with = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    Kind::new("v1", "ConfigMap", json!({})).creates(&[
        (with(json!(["example.com/a", "foregroundDeletion"])), vec![]),
        (
            with(json!(["mine"])),
            vec![
                "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard \
                 finalizer name nor is it fully qualified",
            ],
        ),
        (
            with(json!(["a/b/c"])),
            vec!["metadata.finalizers: Invalid value: \"a/b/c\": a qualified name must consist"],
        ),
        (
            with(json!(["orphan", "foregroundDeletion"])),
            vec![
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: \
                 finalizer foregroundDeletion and orphan cannot be both set",
            ],
        ),
    ]);
}

fn node() -> Kind {
    Kind::new("v1", "Node", json!({}))
}

#[test]
fn nodes() {
    let taint = |taint: Value| json!({"spec": {"taints": [taint]}});
    let capacity = |amounts: Value| json!({"status": {"capacity": amounts}});
    node().creates(&[
        (taint(json!({"key": "a", "value": "b", "effect": "NoExecute"})), vec![]),
        (
            taint(json!({"key": "a", "effect": "Never"})),
            vec![
                "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \
                 \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        ),
        (taint(json!({"key": "a"})), vec!["metadata.taints[0].effect: Required value"]),
        (
            taint(json!({"key": "a b", "effect": "NoExecute"})),
            vec!["metadata.taints[0].key: Invalid value: \"a b\": name part must consist of"],
        ),
        (
            taint(json!({"key": "a", "value": "b c", "effect": "NoExecute"})),
            vec!["metadata.taints[0].value: Invalid value: \"b c\": a valid label must be"],
        ),
        (
            json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"},
                {"key": "a", "effect": "NoExecute", "value": "b"}]}}),
            vec!["metadata.taints[1]: Duplicate value: {"],
        ),
        (capacity(json!({"cpu": "4", "pods": "110", "example.com/gpu": "2"})), vec![]),
        (
            capacity(json!({"cpu": "-1"})),
            vec![
                "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.allocatable.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            json!({"status": {"allocatable": {"pods": "1.5"}}}),
            vec!["status.allocatable.pods: Invalid value: \"1500m\": must be an integer"],
        ),
        (
            json!({"spec": {"podCIDR": "x", "podCIDRs": ["x"]}}),
            vec!["spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value"],
        ),
        (
            json!({"spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24", "fd01::/64"]}}),
            vec![],
        ),
        (
            json!({"spec": {"podCIDR": "10.0.1.0/24",
                "podCIDRs": ["10.0.1.0/24", "10.0.2.0/24"]}}),
            vec![
                "spec.podCIDRs: Invalid value: [\"10.0.1.0/24\",\"10.0.2.0/24\"]: may specify no \
                 more than one CIDR for each IP family",
            ],
        ),
        (
            json!({"spec": {"podCIDR": "10.0.2.0/24", "podCIDRs": ["10.0.1.0/24"]}}),
            vec!["spec.podCIDRs[0]: Invalid value: \"10.0.1.0/24\": must match `podCIDR`"],
        ),
    ]);
}

#[test]
fn changes_of_nodes() {
    let ranges = |range: &str| json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
    let spec = |field: &str, value: &str| json!({"spec": {field: value}});
    let address = json!({"type": "InternalIP", "address": "10.0.0.1"});
    node().updates(&[
        (json!({}), ranges("10.240.1.0/24"), vec![]),
        (
            ranges("10.240.1.0/24"),
            ranges("10.240.2.0/24"),
            vec![
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to \
                 valid",
            ],
        ),
        (
            ranges("10.240.1.0/24"),
            json!({"spec": {"podCIDR": null, "podCIDRs": null}}),
            vec!["spec.podCIDRs: Forbidden: node updates may not change podCIDR"],
        ),
        (json!({}), spec("providerID", "a"), vec![]),
        (
            spec("providerID", "a"),
            spec("providerID", "b"),
            vec![
                "spec.providerID: Forbidden: node updates may not change providerID except from \
                 \"\" to valid",
            ],
        ),
        (
            json!({}),
            spec("externalID", "a"),
            vec!["spec.externalID: Forbidden: may not be updated"],
        ),
        (
            json!({}),
            json!({"status": {"addresses": [address, address]}}),
            vec!["status.addresses[1]: Duplicate value: {\"address\":\"10.0.0.1\""],
        ),
    ]);
}

#[test]
fn config_maps() {
    let kind = Kind::new("v1", "ConfigMap", json!({}));
    let half = "x".repeat(1 << 19);
    kind.creates(&[
        (json!({"data": {"a.b_C-1": "x"}, "binaryData": {"b": "eA=="}}), vec![]),
        (json!({"data": {"a": half}}), vec![]),
        (
            json!({"data": {"a": half, "b": half, "c": "x"}}),
            vec!["[]: Too long: may not be more than 1048576 bytes"],
        ),
        (
            json!({"binaryData": {"a/b": ""}}),
            vec!["binaryData[a/b]: Invalid value: \"a/b\": a valid config key"],
        ),
        (json!({"data": {"..": ""}}), vec!["data[..]: Invalid value: \"..\": must not be '..'"]),
        (
            json!({"data": {"..a": ""}}),
            vec!["data[..a]: Invalid value: \"..a\": must not start with '..'"],
        ),
        (
            json!({"data": {"a": ""}, "binaryData": {"a": ""}}),
            vec!["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        ),
    ]);
    let fixed = || json!({"immutable": true, "data": {"a": "1"}});
    kind.updates(&[
        (fixed(), json!({"metadata": {"labels": {"a": "b"}}, "binaryData": {}}), vec![]),
        (
            fixed(),
            json!({"data": {"a": "2"}}),
            vec!["data: Forbidden: field is immutable when `immutable` is set"],
        ),
        (
            fixed(),
            json!({"binaryData": {"b": ""}}),
            vec!["binaryData: Forbidden: field is immutable when `immutable` is set"],
        ),
        (
            fixed(),
            json!({"immutable": false}),
            vec!["immutable: Forbidden: field is immutable when `immutable` is set"],
        ),
    ]);
}

#[test]
fn secrets() {
    let kind = Kind::new("v1", "Secret", json!({}));
    let typed = |kind: &str, data: Value| {
        json!({"type": format!("kubernetes.io/{kind}"),
        "stringData": data})
    };
    kind.creates(&[
        (typed("tls", json!({"tls.crt": "", "tls.key": ""})), vec![]),
        (typed("dockerconfigjson", json!({".dockerconfigjson": "{}"})), vec![]),
        (typed("basic-auth", json!({"username": "u"})), vec![]),
        (typed("ssh-auth", json!({"ssh-privatekey": "k"})), vec![]),
        (typed("tls", json!({"tls.crt": "x"})), vec!["data[tls.key]: Required value"]),
        (
            typed("tls", json!({})),
            vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        ),
        (typed("dockercfg", json!({})), vec!["data[.dockercfg]: Required value"]),
        (
            typed("dockercfg", json!({".dockercfg": "x"})),
            vec!["data[.dockercfg]: Invalid value: \"<secret contents redacted>\": "],
        ),
        (
            typed("dockerconfigjson", json!({".dockerconfigjson": "[]"})),
            vec!["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": "],
        ),
        (
            typed("basic-auth", json!({})),
            vec!["data[username]: Required value", "data[password]: Required value"],
        ),
        (
            typed("ssh-auth", json!({"ssh-privatekey": ""})),
            vec!["data[ssh-privatekey]: Required value"],
        ),
        (
            typed("service-account-token", json!({})),
            vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        (json!({"stringData": {"a": "x".repeat(1 << 20)}}), vec![]),
        (
            json!({"stringData": {"a": "x".repeat((1 << 20) + 1)}}),
            vec!["data: Too long: may not be more than 1048576 bytes"],
        ),
        (
            json!({"stringData": {"a b": "x"}}),
            vec!["data[a b]: Invalid value: \"a b\": a valid config key"],
        ),
    ]);
    kind.updates(&[
        (
            json!({}),
            json!({"type": "mine"}),
            vec!["type: Invalid value: \"mine\": field is immutable"],
        ),
        (
            json!({"immutable": true}),
            json!({"data": {"a": ""}}),
            vec!["data: Forbidden: field is immutable when `immutable` is set"],
        ),
    ]);
}

#[test]
fn accounts() {
    Kind::new("v1", "ServiceAccount", json!({})).creates(&[
        (json!({"imagePullSecrets": [{"name": "s"}]}), vec![]),
        (
            json!({"metadata": {"name": "A"}}),
            vec!["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        ),
    ]);
}

#[test]
fn events() {
    let kind = Kind::new("v1", "Event", json!({"involvedObject": {"namespace": "d"}}));
    let told = |change: Value| {
        let mut event = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reason": "Made",
            "action": "Make", "reportingComponent": "example.com/maker",
            "reportingInstance": "maker-1"});
        json_patch::merge(&mut event, &change);
        event
    };
    let long = "x".repeat(129);
    let mut nowhere = told(json!({}));
    nowhere["involvedObject"] = json!({"namespace": null});
    kind.creates(&[
        (json!({"metadata": {"name": "Any.Name"}}), vec![]),
        (told(json!({"involvedObject": {"namespace": "e"}})), vec![]),
        (
            json!({"metadata": {"name": "a/b"}}),
            vec!["metadata.name: Invalid value: \"a/b\": may not contain '/'"],
        ),
        (
            json!({"involvedObject": {"namespace": "e"}}),
            vec!["involvedObject.namespace: Invalid value: \"e\": does not match event.namespace"],
        ),
        (
            json!({"involvedObject": {"namespace": null}}),
            vec!["involvedObject.namespace: Invalid value: \"\": does not match event.namespace"],
        ),
        (
            nowhere,
            vec!["involvedObject.namespace: Invalid value: \"\": does not match event.namespace"],
        ),
        (
            told(json!({"reportingComponent": "a b"})),
            vec!["reportingComponent: Invalid value: \"a b\": name part must consist of"],
        ),
        (told(json!({"reportingInstance": null})), vec!["reportingInstance: Required value"]),
        (told(json!({"action": ""})), vec!["action: Required value"]),
        (told(json!({"reason": null})), vec!["reason: Required value"]),
        (
            told(json!({"action": long})),
            vec!["action: Invalid value: \"\": can have at most 128 characters"],
        ),
        (
            told(json!({"message": "x".repeat(1025)})),
            vec!["message: Invalid value: \"\": can have at most 1024 characters"],
        ),
    ]);
}

#[test]
fn endpoints() {
    let kind = Kind::new("v1", "Endpoints", json!({}));
    let subset = |change: Value| {
        let mut subset = json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]});
        json_patch::merge(&mut subset, &change);
        json!({"subsets": [subset]})
    };
    let address = |change: Value| {
        let mut address = json!({"ip": "10.0.0.1"});
        json_patch::merge(&mut address, &change);
        subset(json!({"addresses": [address]}))
    };
    let port = |change: Value| {
        let mut port = json!({"port": 80});
        json_patch::merge(&mut port, &change);
        subset(json!({"ports": [port]}))
    };
    kind.creates(&[
        (address(json!({"hostname": "a", "nodeName": "n1.example"})), vec![]),
        (
            subset(json!({"addresses": null})),
            vec!["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
        ),
        (
            address(json!({"ip": "x"})),
            vec!["subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address"],
        ),
        (
            subset(json!({"notReadyAddresses": [{"ip": "169.254.0.1"}]})),
            vec![
                "subsets[0].notReadyAddresses[0].ip: Invalid value: \"169.254.0.1\": may not be in \
                 the link-local range",
            ],
        ),
        (
            address(json!({"hostname": "a.b"})),
            vec!["subsets[0].addresses[0].hostname: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            address(json!({"nodeName": "N"})),
            vec!["subsets[0].addresses[0].nodeName: Invalid value: \"N\": a lowercase RFC 1123"],
        ),
        (
            port(json!({"port": 0})),
            vec!["subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535"],
        ),
        (
            port(json!({"name": "A"})),
            vec!["subsets[0].ports[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"],
        ),
        (
            port(json!({"protocol": "ICMP"})),
            vec!["subsets[0].ports[0].protocol: Unsupported value: \"ICMP\""],
        ),
        (
            port(json!({"appProtocol": "a b"})),
            vec!["subsets[0].ports[0].appProtocol: Invalid value: \"a b\": name part"],
        ),
        (
            subset(json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]})),
            vec!["subsets[0].ports[0].name: Required value"],
        ),
    ]);
    // What was let in before may stay.
    kind.updates(&[(address(json!({"ip": "x"})), json!({"metadata": {"labels": {}}}), vec![])]);
}

#[test]
fn slices() {
    let kind = Kind::new("discovery.k8s.io/v1", "EndpointSlice", json!({"addressType": "IPv4"}));
    let endpoint = |change: Value| {
        let mut endpoint = json!({"addresses": ["10.0.0.1"]});
        json_patch::merge(&mut endpoint, &change);
        json!({"endpoints": [endpoint]})
    };
    kind.creates(&[
        (endpoint(json!({"hostname": "a", "nodeName": "n1"})), vec![]),
        (
            endpoint(json!({"addresses": vec!["10.0.0.1"; 101]})),
            vec!["endpoints[0].addresses: Too many: 101: must have at most 100 items"],
        ),
        (
            endpoint(json!({"hostname": "A"})),
            vec!["endpoints[0].hostname: Invalid value: \"A\": a lowercase RFC 1123 label"],
        ),
        (
            endpoint(json!({"nodeName": "N"})),
            vec!["endpoints[0].nodeName: Invalid value: \"N\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"ports": [{"port": 80, "appProtocol": "a b"}]}),
            vec!["ports[0].appProtocol: Invalid value: \"a b\": name part must consist of"],
        ),
    ]);
}
