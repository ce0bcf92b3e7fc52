//! Services.

use serde_json::{Value, json};

use super::kind::Kind;

pub(super) const ALL: &[fn()] = &[
    names_and_types,
    ports,
    node_ports,
    affinity,
    addresses,
    external_names,
    balancers,
    traffic,
    changes_of_addresses,
    changes_of_balancers,
    types_change,
    statuses,
];

type Row = super::kind::Row;

fn kind() -> Kind {
    Kind::new("v1", "Service", json!({"spec": {"ports": [{"port": 80}]}}))
}

fn in_spec(rows: Vec<Row>) {
    let rows: Vec<Row> =
        rows.into_iter().map(|(spec, expected)| (json!({"spec": spec}), expected)).collect();
    kind().creates(&rows);
}

#[test]
fn names_and_types() {
    kind().creates(&[
        (json!({"metadata": {"name": "1s"}}), vec![]),
        (
            json!({"metadata": {"name": "a.b"}}),
            vec!["metadata.name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            json!({"metadata": {"name": "S"}}),
            vec!["metadata.name: Invalid value: \"S\": a lowercase RFC 1123 label"],
        ),
        (
            json!({"metadata": {"annotations": {
                "service.kubernetes.io/topology-mode": "Auto",
                "service.kubernetes.io/topology-aware-hints": "Disabled"}}}),
            vec![
                "metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \
                 \"Auto\": must match annotations[service.kubernetes.io/topology-aware-hints] when \
                 both are specified",
            ],
        ),
    ]);
    in_spec(vec![
        (json!({"selector": {"app": "web"}, "publishNotReadyAddresses": true}), vec![]),
        (
            json!({"type": "Magic"}),
            vec![
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \
                 \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            json!({"selector": {"-a": "b"}}),
            vec!["spec.selector: Invalid value: \"-a\": name part must consist of"],
        ),
        (
            json!({"selector": {"a": "b c"}}),
            vec!["spec.selector: Invalid value: \"b c\": a valid label must be"],
        ),
    ]);
}

#[test]
fn ports() {
    let one = |change: Value| {
        let mut port = json!({"port": 80});
        json_patch::merge(&mut port, &change);
        json!({"ports": [port]})
    };
    in_spec(vec![
        (one(json!({"targetPort": "http", "appProtocol": "kubernetes.io/h2c"})), vec![]),
        (json!({"ports": []}), vec!["spec.ports: Required value"]),
        (json!({"ports": null}), vec!["spec.ports: Required value"]),
        (json!({"ports": null, "clusterIP": "None"}), vec![]),
        (
            one(json!({"port": 0})),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535",
            ],
        ),
        (
            one(json!({"port": 65_536, "targetPort": 1})),
            vec!["spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535"],
        ),
        (
            one(json!({"targetPort": 65_536})),
            vec!["spec.ports[0].targetPort: Invalid value: 65536: must be between 1 and 65535"],
        ),
        (
            one(json!({"targetPort": "Http"})),
            vec!["spec.ports[0].targetPort: Invalid value: \"Http\": must contain only"],
        ),
        (
            one(json!({"protocol": "HTTP"})),
            vec![
                "spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \
                 \"TCP\", \"UDP\"",
            ],
        ),
        (
            one(json!({"appProtocol": "a b"})),
            vec!["spec.ports[0].appProtocol: Invalid value: \"a b\": name part must consist of"],
        ),
        (
            one(json!({"name": "A_b"})),
            vec!["spec.ports[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label"],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}),
            vec!["spec.ports[0].name: Required value"],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            vec!["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            vec!["spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"},
                {"port": 80, "name": "b", "protocol": "UDP"}]}),
            vec![],
        ),
    ]);
}

#[test]
fn node_ports() {
    let port = |number: i64| json!([{"port": 80, "nodePort": number}]);
    in_spec(vec![
        (json!({"type": "NodePort", "ports": port(30_000)}), vec![]),
        (
            json!({"ports": port(30_000)}),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"type": "NodePort", "ports": port(65_536)}),
            vec!["spec.ports[0].nodePort: Invalid value: 65536: must be between 1 and 65535"],
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "name": "a", "nodePort": 30_000},
                {"port": 81, "name": "b", "nodePort": 30_000}]}),
            vec!["spec.ports[1].nodePort: Duplicate value: 30000"],
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "name": "a", "nodePort": 30_000},
                {"port": 80, "name": "b", "nodePort": 30_000, "protocol": "UDP"}]}),
            vec![],
        ),
    ]);
}

#[test]
fn affinity() {
    let seconds = |seconds: Value| {
        json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
    };
    in_spec(vec![
        (seconds(json!(1)), vec![]),
        (seconds(json!(86_400)), vec![]),
        (
            seconds(json!(86_401)),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be \
                 greater than 0 and less than 86400",
            ],
        ),
        (
            seconds(json!(0)),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be \
                 greater than 0 and less than 86400",
            ],
        ),
        (
            json!({"sessionAffinity": "Cookie"}),
            vec![
                "spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \
                 \"ClientIP\", \"None\"",
            ],
        ),
    ]);
}

#[test]
fn addresses() {
    let dual = |change: Value| {
        let mut spec = json!({"ipFamilyPolicy": "PreferDualStack"});
        json_patch::merge(&mut spec, &change);
        spec
    };
    in_spec(vec![
        (
            dual(json!({"clusterIPs": ["10.9.8.7", "fd00::7"], "ipFamilies": ["IPv4", "IPv6"]})),
            vec![],
        ),
        (
            json!({"clusterIP": "10.9"}),
            vec!["spec.clusterIPs[0]: Invalid value: \"10.9\": must be a valid IP address"],
        ),
        (
            json!({"clusterIP": "10.09.8.7"}),
            vec!["spec.clusterIPs[0]: Invalid value: \"10.09.8.7\": must not have leading 0s"],
        ),
        (
            json!({"clusterIP": "10.9.8.7", "clusterIPs": ["10.9.8.8"]}),
            vec![
                "spec.clusterIPs: Invalid value: [\"10.9.8.8\"]: first value must match \
                 `clusterIP`",
            ],
        ),
        (
            dual(json!({"clusterIPs": ["10.9.8.7", "10.9.8.8"]})),
            vec![
                "spec.clusterIPs: Invalid value: [\"10.9.8.7\",\"10.9.8.8\"]: may specify no more \
                 than one IP for each IP family",
            ],
        ),
        (
            dual(json!({"clusterIPs": ["10.9.8.7", "fd00::7", "fd00::8"]})),
            vec![
                "spec.clusterIPs: Invalid value: [\"10.9.8.7\",\"fd00::7\",\"fd00::8\"]: may only \
                 hold up to 2 values",
            ],
        ),
        (
            dual(json!({"clusterIPs": ["None", "10.9.8.8"]})),
            vec![
                "spec.clusterIPs: Invalid value: [\"None\",\"10.9.8.8\"]: 'None' must be the first \
                 and only value",
            ],
        ),
        (
            json!({"ipFamilyPolicy": "Both", "ipFamilies": ["IPv5", "IPv6", "IPv6"]}),
            vec![
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \
                 \"IPv6\"",
                "spec.ipFamilies[2]: Duplicate value: \"IPv6\"",
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \
                 \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            ],
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            vec![
                "spec.ipFamilyPolicy: Required value: must be RequireDualStack or PreferDualStack \
                 when multiple 'ipFamilies' are specified",
            ],
        ),
        (
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            vec![
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be RequireDualStack or \
                 PreferDualStack when multiple 'ipFamilies'",
            ],
        ),
        (
            json!({"ipFamilies": ["IPv6"], "clusterIP": "10.9.8.7"}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"10.9.8.7\": expected an IPv6 value as \
                 indicated by `ipFamilies[0]`",
            ],
        ),
        (json!({"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local"}), vec![]),
        (
            json!({"externalIPs": ["192.0.2"]}),
            vec!["spec.externalIPs[0]: Invalid value: \"192.0.2\": must be a valid IP address"],
        ),
        (
            json!({"externalIPs": ["127.0.0.1"]}),
            vec![
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback \
                 range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({"externalIPs": ["0.0.0.0"]}),
            vec![
                "spec.externalIPs[0]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
            ],
        ),
        (
            json!({"externalIPs": ["fe80::1"]}),
            vec![
                "spec.externalIPs[0]: Invalid value: \"fe80::1\": may not be in the link-local \
                 range (169.254.0.0/16, fe80::/10)",
            ],
        ),
        (
            json!({"externalIPs": ["224.0.0.1"]}),
            vec![
                "spec.externalIPs[0]: Invalid value: \"224.0.0.1\": may not be in the link-local \
                 multicast range (224.0.0.0/24, ff02::/10)",
            ],
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None"}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for \
                 NodePort services",
            ],
        ),
        (
            json!({"type": "LoadBalancer", "clusterIP": "None"}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for \
                 LoadBalancer services",
            ],
        ),
    ]);
}

#[test]
fn external_names() {
    let external = |change: Value| {
        let mut spec = json!({"type": "ExternalName", "externalName": "a.example", "ports": null});
        json_patch::merge(&mut spec, &change);
        spec
    };
    in_spec(vec![
        (external(json!({"externalName": "a.example."})), vec![]),
        (external(json!({"externalName": null})), vec!["spec.externalName: Required value"]),
        (external(json!({"externalName": "."})), vec!["spec.externalName: Required value"]),
        (
            external(json!({"externalName": "A.example"})),
            vec!["spec.externalName: Invalid value: \"A.example\": a lowercase RFC 1123 subdomain"],
        ),
        (
            external(json!({"clusterIPs": ["10.9.8.7"]})),
            vec!["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
        ),
        (
            external(json!({"ipFamilies": ["IPv4"]})),
            vec!["spec.ipFamilies: Forbidden: may not be set for ExternalName services"],
        ),
        (
            external(json!({"ipFamilyPolicy": "SingleStack"})),
            vec!["spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services"],
        ),
    ]);
}

#[test]
fn balancers() {
    let balanced = |change: Value| {
        let mut spec = json!({"type": "LoadBalancer"});
        json_patch::merge(&mut spec, &change);
        spec
    };
    in_spec(vec![
        (
            balanced(json!({"loadBalancerClass": "example.com/lb",
                "loadBalancerSourceRanges": [" 10.0.0.0/8 "], "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30_000, "allocateLoadBalancerNodePorts": false})),
            vec![],
        ),
        (
            balanced(json!({"loadBalancerClass": "a b"})),
            vec!["spec.loadBalancerClass: Invalid value: \"a b\": name part must consist of"],
        ),
        (
            json!({"loadBalancerClass": "a"}),
            vec![
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            json!({"allocateLoadBalancerNodePorts": true}),
            vec![
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is \
                 'LoadBalancer'",
            ],
        ),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            vec![
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is \
                 'LoadBalancer'",
            ],
        ),
        (
            balanced(json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0"]})),
            vec![
                "spec.LoadBalancerSourceRanges[1]: Invalid value: \"10.0.0.0\": must be a valid \
                 CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ],
        ),
        (
            balanced(json!({"loadBalancerSourceRanges": ["10.0.0.1/8"]})),
            vec![
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.1/8\": must not have \
                 bits set beyond the prefix length",
            ],
        ),
        (
            balanced(json!({"healthCheckNodePort": 30_000})),
            vec![
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is \
                 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ],
        ),
        (
            balanced(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 65_536})),
            vec!["spec.healthCheckNodePort: Invalid value: 65536: must be between 1 and 65535"],
        ),
    ]);
    let key = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotated = |kind: &str, ranges: &str| {
        json!({"metadata": {"annotations": {key: ranges}},
        "spec": {"type": kind}})
    };
    kind().creates(&[
        (annotated("LoadBalancer", "10.0.0.0/8, 192.0.2.0/24"), vec![]),
        (
            annotated("ClusterIP", "10.0.0.0/8"),
            vec![
                "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: \
                 Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            annotated("LoadBalancer", "10.0.0.0/8,x"),
            vec![
                "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: \
                 Invalid value: \"x\": must be a valid CIDR value",
            ],
        ),
    ]);
}

#[test]
fn traffic() {
    in_spec(vec![
        (json!({"internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"}), vec![]),
        (json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), vec![]),
        (
            json!({"internalTrafficPolicy": "Remote"}),
            vec![
                "spec.internalTrafficPolicy: Unsupported value: \"Remote\": supported values: \
                 \"Cluster\", \"Local\"",
            ],
        ),
        (
            json!({"type": "NodePort", "externalTrafficPolicy": "Remote"}),
            vec![
                "spec.externalTrafficPolicy: Unsupported value: \"Remote\": supported values: \
                 \"Cluster\", \"Local\"",
            ],
        ),
        (
            json!({"externalTrafficPolicy": "Cluster"}),
            vec![
                "spec.externalTrafficPolicy: Invalid value: \"Cluster\": may only be set for \
                 externally-accessible services",
            ],
        ),
        (
            json!({"trafficDistribution": "PreferFar"}),
            vec![
                "spec.trafficDistribution: Unsupported value: \"PreferFar\": supported values: \
                 \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
            ],
        ),
    ]);
}

#[test]
fn changes_of_addresses() {
    let spec = |spec: Value| json!({"spec": spec});
    let one = || spec(json!({"clusterIP": "10.9.8.7"}));
    let dual = || {
        spec(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": "10.9.8.7", "clusterIPs": ["10.9.8.7", "fd00::7"]}))
    };
    kind().updates(&[
        (one(), json!({}), vec![]),
        (
            one(),
            spec(json!({"clusterIP": "10.9.8.8", "clusterIPs": ["10.9.8.8"]})),
            vec!["spec.clusterIPs[0]: Invalid value: [\"10.9.8.8\"]: may not change once set"],
        ),
        (
            one(),
            spec(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
            vec!["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"],
        ),
        (
            one(),
            spec(json!({"clusterIP": null, "clusterIPs": null})),
            vec!["spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset"],
        ),
        (
            dual(),
            spec(json!({"ipFamilies": ["IPv6", "IPv4"]})),
            vec![
                "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set",
                "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set",
                "spec.clusterIPs[0]: Invalid value: \"10.9.8.7\": expected an IPv6",
                "spec.clusterIPs[1]: Invalid value: \"fd00::7\": expected an IPv4",
            ],
        ),
        (
            dual(),
            spec(json!({"clusterIPs": ["10.9.8.7", "fd00::8"]})),
            vec![
                "spec.clusterIPs[1]: Invalid value: [\"10.9.8.7\",\"fd00::8\"]: may not change \
                 once set",
            ],
        ),
        (
            dual(),
            spec(json!({"ipFamilies": ["IPv4"], "clusterIPs": ["10.9.8.7"]})),
            vec![
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to \
                 'SingleStack' when releasing the secondary clusterIP",
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to \
                 'SingleStack' when releasing the secondary ipFamily",
            ],
        ),
        (
            dual(),
            spec(json!({"ipFamilies": ["IPv4"], "clusterIPs": ["10.9.8.7"],
                "ipFamilyPolicy": "SingleStack"})),
            vec![],
        ),
        (
            one(),
            spec(json!({"ipFamilyPolicy": "PreferDualStack",
                "clusterIPs": ["10.9.8.7", "fd00::7"]})),
            vec![],
        ),
        // Without addresses of its own it may change its mind about families.
        (
            spec(json!({"clusterIP": "None", "ipFamilies": ["IPv4"]})),
            spec(json!({"ipFamilies": ["IPv6"]})),
            vec![],
        ),
        (
            one(),
            spec(json!({"type": "ExternalName", "externalName": "a.example", "clusterIP": null,
                "clusterIPs": null})),
            vec![],
        ),
    ]);
}

#[test]
fn changes_of_balancers() {
    let spec = |change: Value| {
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
        json_patch::merge(&mut spec, &change);
        json!({ "spec": spec })
    };
    kind().updates(&[
        (spec(json!({})), spec(json!({"healthCheckNodePort": 30_000})), vec![]),
        (
            spec(json!({"healthCheckNodePort": 30_000})),
            spec(json!({"healthCheckNodePort": 30_001})),
            vec!["spec.healthCheckNodePort: Forbidden: field is immutable"],
        ),
        (
            spec(json!({"loadBalancerClass": "a"})),
            spec(json!({"loadBalancerClass": "b"})),
            vec!["spec.loadBalancerClass: Invalid value: \"b\": may not change once set"],
        ),
        (
            spec(json!({})),
            spec(json!({"loadBalancerClass": "b"})),
            vec!["spec.loadBalancerClass: Invalid value: \"b\": may not change once set"],
        ),
        (
            spec(json!({"loadBalancerClass": "a"})),
            json!({"spec": {"loadBalancerClass": null}}),
            vec!["spec.loadBalancerClass: Invalid value: null: may not change once set"],
        ),
    ]);
}

/// A client that changes the type alone is not told to tidy up.
#[test]
fn types_change() {
    let kind = kind();
    let old = kind.created(&json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.9.8.7",
        "loadBalancerClass": "a", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30_001, "ports": [{"port": 80, "nodePort": 30_000}]}}));
    for to in ["ClusterIP", "NodePort", "ExternalName"] {
        let mut new = old.clone();
        new["spec"]["type"] = json!(to);
        new["spec"]["externalName"] = json!("a.example");
        kind.carry_over(&mut new, &old);
        assert_eq!(kind.problems(&new, Some(&old)), [""; 0], "{to}");
        assert!(new["spec"]["loadBalancerClass"].is_null(), "{to}");
        assert!(new["spec"]["healthCheckNodePort"].is_null(), "{to}");
    }
}

#[test]
fn statuses() {
    let balanced = || json!({"spec": {"type": "LoadBalancer"}});
    let ingress = |one: Value| json!({"status": {"loadBalancer": {"ingress": [one]}}});
    kind().updates(&[
        (balanced(), ingress(json!({"ip": "192.0.2.1", "ipMode": "VIP"})), vec![]),
        (
            json!({}),
            ingress(json!({"ip": "192.0.2.1"})),
            vec![
                "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is \
                 'LoadBalancer'",
            ],
        ),
        (
            balanced(),
            ingress(json!({"ip": "192.0.2"})),
            vec!["status.loadBalancer.ingress[0].ip: Invalid value: \"192.0.2\": must be a valid"],
        ),
        (
            balanced(),
            ingress(json!({"ip": "192.0.2.1", "ipMode": "Some"})),
            vec![
                "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"Some\": supported \
                 values: \"Proxy\", \"VIP\"",
            ],
        ),
        (
            balanced(),
            ingress(json!({"hostname": "a.example", "ipMode": "VIP"})),
            vec![
                "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` \
                 is not set",
            ],
        ),
        (
            balanced(),
            ingress(json!({"hostname": "192.0.2.1"})),
            vec![
                "status.loadBalancer.ingress[0].hostname: Invalid value: \"192.0.2.1\": must be a \
                 DNS name, not an IP address",
            ],
        ),
    ]);
}
