//! Ingresses, network policies and service addresses.

use serde_json::{Value, json};

use super::changes::{creations, updates};

/// The tables, to be counted.
pub(super) const ALL: &[fn()] = &[
    network_policies,
    network_policies_of_ranges_and_types,
    ingresses,
    ingresses_with_rules,
    ingresses_with_backends,
    ingress_classes,
    ip_addresses,
    service_cidrs,
];

const NETWORKING: &str = "networking.k8s.io";

fn spec(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn network_policies() {
    let base = json!({
        "metadata": {"name": "p", "namespace": "d"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}},
    });
    let port = |port: Value| spec(json!({"ingress": [{"ports": [port]}]}));
    let peer = |peer: Value| spec(json!({"egress": [{"to": [peer]}]}));
    let table = vec![
        (json!({}), vec![]),
        (spec(json!({"podSelector": null, "ingress": [{}], "egress": [{}]})), vec![]),
        (
            spec(json!({"podSelector": {"matchLabels": {"a": "b c"}}})),
            vec!["spec.podSelector.matchLabels: Invalid value: \"b c\": a valid label must be"],
        ),
        (port(json!({"port": 80, "endPort": 90, "protocol": "SCTP"})), vec![]),
        (port(json!({"port": "http"})), vec![]),
        (
            port(json!({"port": 80, "protocol": "ICMP"})),
            vec![
                "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported \
                 values: \"TCP\", \"UDP\", \"SCTP\"",
            ],
        ),
        (
            port(json!({"port": 0})),
            vec!["spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535"],
        ),
        (
            port(json!({"port": "Http_"})),
            vec!["spec.ingress[0].ports[0].port: Invalid value: \"Http_\": must contain only"],
        ),
        (
            port(json!({"port": 80, "endPort": 79})),
            vec![
                "spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or \
                 equal to `port`",
            ],
        ),
        (
            port(json!({"port": 80, "endPort": 65536})),
            vec!["spec.ingress[0].ports[0].endPort: Invalid value: 65536: must be between 1 and"],
        ),
        (
            port(json!({"port": "http", "endPort": 80})),
            vec![
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: may not be specified when \
                 `port` is non-numeric",
            ],
        ),
        (
            port(json!({"endPort": 80})),
            vec![
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: may not be specified when \
                 `port` is not specified",
            ],
        ),
        (peer(json!({"podSelector": {}, "namespaceSelector": {}})), vec![]),
        (peer(json!({})), vec!["spec.egress[0].to[0]: Required value: must specify a peer"]),
        (
            peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
            vec!["spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer"],
        ),
        (
            peer(json!({"namespaceSelector": {"matchExpressions": [{"key": "a",
                "operator": "In"}]}})),
            vec!["spec.egress[0].to[0].namespaceSelector.matchExpressions[0].values: Required"],
        ),
    ];
    creations(NETWORKING, "networkpolicies", &base, table.clone());
    updates(NETWORKING, "networkpolicies", &base, table);
    let named = json!({"metadata": {"name": "P"}});
    let table = vec![(named, vec!["metadata.name: Invalid value: \"P\""])];
    creations(NETWORKING, "networkpolicies", &base, table);
}

#[test]
fn network_policies_of_ranges_and_types() {
    let base = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"podSelector": {}}});
    let block = |block: Value| spec(json!({"ingress": [{"from": [{"ipBlock": block}]}]}));
    let table = vec![
        (block(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]})), vec![]),
        (block(json!({"cidr": "fd00::/8", "except": ["fd01::/16"]})), vec![]),
        (block(json!({})), vec!["spec.ingress[0].from[0].ipBlock.cidr: Required value"]),
        (
            block(json!({"cidr": "10.0.0.0"})),
            vec![
                "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a \
                 valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ],
        ),
        (
            block(json!({"cidr": "10.0.0.1/8"})),
            vec![
                "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.1/8\": must not \
                 have bits set beyond the prefix length",
            ],
        ),
        (
            block(json!({"cidr": "::ffff:10.0.0.0/104"})),
            vec![
                "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"::ffff:10.0.0.0/104\": \
                 must not have an IPv4-mapped IPv6 address",
            ],
        ),
        (
            block(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "11.0.0.0/16",
                "10.1.2.3", "fd00::/16"]})),
            vec![
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must \
                 be a strict subset of `cidr`",
                "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must \
                 be a strict subset",
                "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"10.1.2.3\": must be \
                 a valid CIDR value",
                "spec.ingress[0].from[0].ipBlock.except[3]: Invalid value: \"fd00::/16\": must be \
                 a strict subset",
            ],
        ),
        (spec(json!({"policyTypes": ["Egress"]})), vec![]),
        (
            spec(json!({"policyTypes": ["Ingress", "Sideways"]})),
            vec![
                "spec.policyTypes[1]: Unsupported value: \"Sideways\": supported values: \
                 \"Ingress\", \"Egress\"",
            ],
        ),
        (
            spec(json!({"policyTypes": ["Ingress", "Egress", "Ingress"]})),
            vec![
                "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not \
                 specify more than two policyTypes",
            ],
        ),
    ];
    creations(NETWORKING, "networkpolicies", &base, table);
}

fn ingress() -> Value {
    json!({
        "metadata": {"name": "i", "namespace": "d"},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
    })
}

#[test]
fn ingresses() {
    let tls = |tls: Value| spec(json!({"tls": [tls]}));
    let table = vec![
        (json!({}), vec![]),
        (
            spec(json!({"defaultBackend": null})),
            vec!["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
        ),
        (spec(json!({"defaultBackend": null, "rules": [{"host": "a.example"}]})), vec![]),
        (
            spec(json!({"ingressClassName": "A_b"})),
            vec!["spec.ingressClassName: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain"],
        ),
        (tls(json!({"hosts": ["a.example", "*.b.example"], "secretName": "s"})), vec![]),
        (
            tls(json!({"hosts": ["A", "*"], "secretName": "S"})),
            vec![
                "spec.tls[0].hosts[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
                "spec.tls[0].hosts[1]: Invalid value: \"*\": a wildcard DNS-1123 subdomain must \
                 start with '*.', followed by a valid DNS subdomain",
                "spec.tls[0].secretName: Invalid value: \"S\": a lowercase RFC 1123 subdomain",
            ],
        ),
        (
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "x"},
                {"hostname": "10.0.0.1"}, {"hostname": "A"}, {"ip": "::1",
                "hostname": "lb.example"}]}}}),
            vec![
                "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP",
                "status.loadBalancer.ingress[1].hostname: Invalid value: \"10.0.0.1\": must be a \
                 DNS name, not an IP address",
                "status.loadBalancer.ingress[2].hostname: Invalid value: \"A\": a lowercase",
            ],
        ),
    ];
    creations(NETWORKING, "ingresses", &ingress(), table.clone());
    updates(NETWORKING, "ingresses", &ingress(), table);
    let named = json!({"metadata": {"name": "I"}});
    let table = vec![(named, vec!["metadata.name: Invalid value: \"I\""])];
    creations(NETWORKING, "ingresses", &ingress(), table);
    let named = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}},
        "spec": {"ingressClassName": "b"}});
    let why = "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match \
        `ingressClassName` when both are specified";
    creations(NETWORKING, "ingresses", &ingress(), vec![(named.clone(), vec![why])]);
    updates(NETWORKING, "ingresses", &ingress(), vec![(named, vec![])]);
}

#[test]
fn ingresses_with_rules() {
    let backend = &ingress()["spec"]["defaultBackend"];
    let host = |host: &str| spec(json!({"rules": [{"host": host}]}));
    let path = |kind: Value, path: &str| {
        let one = json!({"pathType": kind, "path": path, "backend": backend});
        spec(json!({"rules": [{"http": {"paths": [one]}}]}))
    };
    let exact = |target: &str| path(json!("Exact"), target);
    let table = vec![
        (host("*.a.example"), vec![]),
        (
            host("10.0.0.1"),
            vec!["spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP"],
        ),
        (host("a.example:80"), vec!["spec.rules[0].host: Invalid value: \"a.example:80\""]),
        (host("a.*"), vec!["spec.rules[0].host: Invalid value: \"a.*\": a wildcard DNS-1123"]),
        (
            spec(json!({"rules": [{"http": {"paths": []}}]})),
            vec!["spec.rules[0].http.paths: Required value"],
        ),
        (exact("/a/b."), vec![]),
        (
            path(json!(null), "/"),
            vec![
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ],
        ),
        (
            path(json!("Regex"), "/"),
            vec![
                "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported \
                 values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
            ],
        ),
        (
            path(json!("Prefix"), ""),
            vec!["spec.rules[0].http.paths[0].path: Invalid value: \"\": must be an absolute path"],
        ),
        (path(json!("ImplementationSpecific"), ""), vec![]),
        (path(json!("ImplementationSpecific"), "/a//b/.."), vec![]),
        (
            path(json!("ImplementationSpecific"), "a"),
            vec!["spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute"],
        ),
        (
            exact("//./../%2f%2F/.."),
            vec![
                "spec.rules[0].http.paths[0].path: Invalid value: \"//./../%2f%2F/..\": must not \
                 contain '//'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"//./../%2f%2F/..\": must not \
                 contain '/./'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"//./../%2f%2F/..\": must not \
                 contain '/../'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"//./../%2f%2F/..\": must not \
                 contain '%2f'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"//./../%2f%2F/..\": must not \
                 contain '%2F'",
                "spec.rules[0].http.paths[0].path: Invalid value: \"//./../%2f%2F/..\": cannot \
                 end with '/..'",
            ],
        ),
        (
            exact("/."),
            vec!["spec.rules[0].http.paths[0].path: Invalid value: \"/.\": cannot end with '/.'"],
        ),
    ];
    creations(NETWORKING, "ingresses", &ingress(), table);
}

#[test]
fn ingresses_with_backends() {
    let backend = |backend: Value| spec(json!({"defaultBackend": backend}));
    let service = |name: &str, port: Value| {
        let mut change = backend(json!({"service": {"name": name, "port": {"number": null}}}));
        json_patch::merge(&mut change["spec"]["defaultBackend"]["service"]["port"], &port);
        change
    };
    let resource = |resource: Value| backend(json!({"service": null, "resource": resource}));
    let table = vec![
        (service("web", json!({"name": "http"})), vec![]),
        (resource(json!({"kind": "Bucket", "name": "b", "apiGroup": "k8s.example"})), vec![]),
        (
            backend(json!({"service": null})),
            vec![
                "spec.defaultBackend: Invalid value: \"\": resource or service backend is required",
            ],
        ),
        (
            backend(json!({"resource": {"kind": "Bucket", "name": "b"}})),
            vec!["spec.defaultBackend: Invalid value: \"\": cannot set both resource and service"],
        ),
        (
            service("", json!({"number": 80})),
            vec!["spec.defaultBackend.service.name: Required value"],
        ),
        (
            service("Web", json!({"number": 80})),
            vec!["spec.defaultBackend.service.name: Invalid value: \"Web\": a lowercase RFC 1123"],
        ),
        (
            service("web", json!({})),
            vec!["spec.defaultBackend: Required value: port name or number is required"],
        ),
        (
            service("web", json!({"number": 80, "name": "http"})),
            vec!["spec.defaultBackend: Invalid value: \"\": cannot set both port name & port"],
        ),
        (
            service("web", json!({"number": 65536})),
            vec!["spec.defaultBackend.service.port.number: Invalid value: 65536: must be between"],
        ),
        (
            service("web", json!({"name": "a--b"})),
            vec!["spec.defaultBackend.service.port.name: Invalid value: \"a--b\": must not"],
        ),
        (
            resource(json!({"kind": "", "name": "a/b", "apiGroup": "A_"})),
            vec![
                "spec.defaultBackend.resource.apiGroup: Invalid value: \"A_\": a lowercase",
                "spec.defaultBackend.resource.kind: Required value",
                "spec.defaultBackend.resource.name: Invalid value: \"a/b\": may not contain '/'",
            ],
        ),
    ];
    creations(NETWORKING, "ingresses", &ingress(), table);
}

#[test]
fn ingress_classes() {
    let base = json!({"metadata": {"name": "c"}, "spec": {"controller": "example.com/ingress"}});
    let controller = |controller: &str| spec(json!({"controller": controller}));
    let parameters = |change: Value| {
        let mut parameters = json!({"kind": "Parameters", "name": "p", "apiGroup": "k8s.example"});
        json_patch::merge(&mut parameters, &change);
        spec(json!({"parameters": parameters}))
    };
    let table = vec![
        (json!({}), vec![]),
        (json!({"metadata": {"name": "C"}}), vec!["metadata.name: Invalid value: \"C\""]),
        (controller(""), vec!["spec.controller: Required value"]),
        (
            controller("ingress"),
            vec![
                "spec.controller: Invalid value: \"ingress\": must be a domain-prefixed path \
                 (such as \"acme.io/foo\")",
            ],
        ),
        (
            controller("Example.com/a b"),
            vec![
                "spec.controller: Invalid value: \"Example.com\": a lowercase RFC 1123 subdomain",
                "spec.controller: Invalid value: \"a b\": Invalid path (regex used for",
            ],
        ),
        (
            spec(json!({"controller": format!("a.b/{}", "c".repeat(247))})),
            vec!["spec.controller: Too long: may not be more than 250 bytes"],
        ),
        (parameters(json!({})), vec![]),
        (parameters(json!({"scope": "Namespace", "namespace": "d"})), vec![]),
        (
            parameters(json!({"kind": null, "name": "..", "apiGroup": "A"})),
            vec![
                "spec.parameters.apiGroup: Invalid value: \"A\": a lowercase RFC 1123",
                "spec.parameters.kind: Required value",
                "spec.parameters.name: Invalid value: \"..\": may not be '..'",
            ],
        ),
        (
            parameters(json!({"scope": "Galaxy"})),
            vec![
                "spec.parameters.scope: Unsupported value: \"Galaxy\": supported values: \
                 \"Cluster\", \"Namespace\"",
            ],
        ),
        (
            parameters(json!({"scope": "Namespace"})),
            vec![
                "spec.parameters.namespace: Required value: `parameters.scope` is set to \
                 'Namespace'",
            ],
        ),
        (
            parameters(json!({"scope": "Namespace", "namespace": "a.b"})),
            vec!["spec.parameters.namespace: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            parameters(json!({"namespace": "d"})),
            vec!["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
        ),
    ];
    creations(NETWORKING, "ingressclasses", &base, table);
    let table = vec![
        (parameters(json!({})), vec![]),
        (
            controller("example.com/other"),
            vec!["spec.controller: Invalid value: \"example.com/other\": field is immutable"],
        ),
    ];
    updates(NETWORKING, "ingressclasses", &base, table);
}

#[test]
fn ip_addresses() {
    let base = json!({
        "metadata": {"name": "10.9.8.7"},
        "spec": {"parentRef": {"resource": "services", "namespace": "d", "name": "web"}},
    });
    let name = |name: &str| json!({"metadata": {"name": name}});
    let parent = |parent: Value| spec(json!({"parentRef": parent}));
    let table = vec![
        (json!({}), vec![]),
        (name("fd00::7"), vec![]),
        (
            name("web"),
            vec!["metadata.name: Invalid value: \"web\": must be a valid IP address, (e.g."],
        ),
        (
            name("010.9.8.7"),
            vec!["metadata.name: Invalid value: \"010.9.8.7\": must not have leading 0s"],
        ),
        (
            name("FD00:0::7"),
            vec![
                "metadata.name: Invalid value: \"FD00:0::7\": must be in canonical form \
                 (\"fd00::7\")",
            ],
        ),
        (
            name("::ffff:10.9.8.7"),
            vec!["metadata.name: Invalid value: \"::ffff:10.9.8.7\": must not be an IPv4-mapped"],
        ),
        (parent(json!(null)), vec!["spec.parentRef: Required value"]),
        (
            parent(json!({"resource": null, "name": null})),
            vec!["spec.parentRef.resource: Required value", "spec.parentRef.name: Required value"],
        ),
        (
            parent(json!({"group": "A", "resource": "a/b", "name": "50%", "namespace": ".."})),
            vec![
                "spec.parentRef.group: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
                "spec.parentRef.resource: Invalid value: \"a/b\": may not contain '/'",
                "spec.parentRef.name: Invalid value: \"50%\": may not contain '%'",
                "spec.parentRef.namespace: Invalid value: \"..\": may not be '..'",
            ],
        ),
        (parent(json!({"group": "gateway.networking.k8s.io", "namespace": null})), vec![]),
    ];
    creations(NETWORKING, "ipaddresses", &base, table);
    let table = vec![
        (json!({"metadata": {"labels": {"a": "b"}}}), vec![]),
        (parent(json!({"group": ""})), vec![]),
        (
            parent(json!({"name": "other"})),
            vec![
                "spec.parentRef: Invalid value: {\"name\":\"other\",\"namespace\":\"d\",\
                 \"resource\":\"services\"}: field is immutable",
            ],
        ),
    ];
    updates(NETWORKING, "ipaddresses", &base, table);
}

#[test]
fn service_cidrs() {
    let base = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.9.0.0/16"]}});
    let ranges = |ranges: Value| spec(json!({"cidrs": ranges}));
    let table = vec![
        (json!({}), vec![]),
        (ranges(json!(["fd00:9::/112", "10.9.0.0/16"])), vec![]),
        (json!({"metadata": {"name": "R"}}), vec!["metadata.name: Invalid value: \"R\""]),
        (ranges(json!(null)), vec!["spec.cidrs: Required value: at least one CIDR required"]),
        (
            ranges(json!(["10.9.0.0/16", "fd00::/112", "10.8.0.0/16"])),
            vec![
                "spec.cidrs: Invalid value: [\"10.9.0.0/16\",\"fd00::/112\",\"10.8.0.0/16\"]: may \
                 only hold up to 2 values",
            ],
        ),
        (
            ranges(json!(["10.9.0.0"])),
            vec!["spec.cidrs[0]: Invalid value: \"10.9.0.0\": must be a valid CIDR value"],
        ),
        (
            ranges(json!(["10.9.0.1/16"])),
            vec!["spec.cidrs[0]: Invalid value: \"10.9.0.1/16\": must not have bits set beyond"],
        ),
        (
            ranges(json!(["FD00::/112"])),
            vec![
                "spec.cidrs[0]: Invalid value: \"FD00::/112\": must be in canonical form \
                 (\"fd00::/112\")",
            ],
        ),
        (
            ranges(json!(["::ffff:10.9.0.0/112"])),
            vec!["spec.cidrs[0]: Invalid value: \"::ffff:10.9.0.0/112\": must not have an IPv4"],
        ),
        (
            ranges(json!(["10.9.0.0/16", "10.8.0.0/16"])),
            vec![
                "spec.cidrs: Invalid value: [\"10.9.0.0/16\",\"10.8.0.0/16\"]: may specify no \
                 more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ],
        ),
    ];
    creations(NETWORKING, "servicecidrs", &base, table);
    let table = vec![
        (ranges(json!(["10.9.0.0/16", "fd00::/112"])), vec![]),
        (
            ranges(json!(["10.8.0.0/16"])),
            vec!["spec.cidrs[0]: Invalid value: \"10.8.0.0/16\": field is immutable"],
        ),
        (
            ranges(json!(["fd00::/112", "10.9.0.0/16"])),
            vec!["spec.cidrs[0]: Invalid value: \"fd00::/112\": field is immutable"],
        ),
        (
            ranges(json!(["10.9.0.0/16", "10.8.0.0/16"])),
            vec!["spec.cidrs: Invalid value: [\"10.9.0.0/16\",\"10.8.0.0/16\"]: may specify no"],
        ),
    ];
    updates(NETWORKING, "servicecidrs", &base, table);
    let dual = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.9.0.0/16", "fd00::/112"]}});
    let table = vec![(
        ranges(json!(["10.9.0.0/16"])),
        vec!["spec.cidrs: Invalid value: [\"10.9.0.0/16\"]: field is immutable"],
    )];
    updates(NETWORKING, "servicecidrs", &dual, table);
}
