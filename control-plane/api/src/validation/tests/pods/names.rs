//! What pods are called and how they resolve names, and what else a spec says in one word.

use serde_json::{Value, json};

use super::{in_spec, tries};

pub(super) const ALL: &[fn()] =
    &[words, resolvers, searches, hosts, hostnames, gates, annotations, tokens_of_an_account];

#[test]
fn words() {
    in_spec(&[
        (
            json!({"restartPolicy": "Never", "dnsPolicy": "Default", "nodeName": "n1",
                "serviceAccountName": "a", "priorityClassName": "high",
                "runtimeClassName": "runc", "preemptionPolicy": "Never",
                "activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0,
                "imagePullSecrets": [{"name": "s"}], "enableServiceLinks": false,
                "schedulerName": "mine", "nodeSelector": {"a": "b"}}),
            &[],
        ),
        (
            json!({"restartPolicy": "Sometimes"}),
            &[".restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                 \"OnFailure\", \"Never\""],
        ),
        (
            json!({"dnsPolicy": "Cluster"}),
            &[".dnsPolicy: Unsupported value: \"Cluster\": supported values: \
                 \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\""],
        ),
        (json!({"nodeName": "N1"}), &[".nodeName: Invalid value: \"N1\": a lowercase RFC 1123"]),
        (
            json!({"serviceAccountName": "A"}),
            &[".serviceAccountName: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"priorityClassName": "High"}),
            &[".priorityClassName: Invalid value: \"High\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"runtimeClassName": ""}),
            &[".runtimeClassName: Invalid value: \"\": a lowercase RFC 1123 subdomain"],
        ),
        (json!({"preemptionPolicy": ""}), &[".preemptionPolicy: Required value"]),
        (
            json!({"preemptionPolicy": "Always"}),
            &[".preemptionPolicy: Unsupported value: \"Always\": supported values: \
                 \"PreemptLowerPriority\", \"Never\""],
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            &[".activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, \
                 inclusive"],
        ),
        (
            json!({"activeDeadlineSeconds": 2_147_483_648_i64}),
            &[".activeDeadlineSeconds: Invalid value: 2147483648: must be between 1 and"],
        ),
        (
            json!({"nodeSelector": {"-a": "b"}}),
            &[".nodeSelector: Invalid value: \"-a\": name part must consist"],
        ),
        (
            json!({"nodeSelector": {"a": "b c"}}),
            &[".nodeSelector: Invalid value: \"b c\": a valid label must be"],
        ),
        (
            json!({"schedulingGroup": {}}),
            &[".schedulingGroup.podGroupName: Invalid value: null: must specify one of: \
                 `podGroupName`"],
        ),
    ]);
}

#[test]
fn resolvers() {
    let with = |config: Value| json!({"dnsConfig": config});
    in_spec(&[
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.1", "fd00::1"],
                "searches": ["a.example", "."], "options": [{"name": "ndots", "value": "2"}]}}),
            &[],
        ),
        (
            json!({"dnsPolicy": "None"}),
            &[".dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["a.example"]}}),
            &[".dnsConfig.nameservers: Required value: must provide at least one DNS nameserver \
                 when `dnsPolicy` is None"],
        ),
        (
            with(json!({"nameservers": ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]})),
            &[".dnsConfig.nameservers: Invalid value: [\"10.0.0.1\",\"10.0.0.2\",\"10.0.0.3\",\
                 \"10.0.0.4\"]: must not have more than 3 nameservers"],
        ),
        (
            with(json!({"nameservers": ["dns.example"]})),
            &[".dnsConfig.nameservers[0]: Invalid value: \"dns.example\": must be a valid IP \
                 address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
        ),
        (
            with(json!({"nameservers": ["010.0.0.1"]})),
            &[".dnsConfig.nameservers[0]: Invalid value: \"010.0.0.1\": must not have leading 0s"],
        ),
        (
            with(json!({"nameservers": ["::ffff:10.0.0.1"]})),
            &[".dnsConfig.nameservers[0]: Invalid value: \"::ffff:10.0.0.1\": must not be an \
                 IPv4-mapped IPv6 address"],
        ),
        (
            with(json!({"options": [{"name": "ndots"}, {"value": "2"}]})),
            &[".dnsConfig.options[1]: Required value: must not be empty"],
        ),
    ]);
}

#[test]
fn searches() {
    let with = |searches: Vec<String>| json!({"dnsConfig": {"searches": searches}});
    let words = |words: &[&str]| with(words.iter().map(|word| (*word).to_owned()).collect());
    let long = format!("{}.example", vec!["a".repeat(60); 4].join("."));
    in_spec(&[
        (words(&["_tcp.a.example.", "a_b.example"]), &[]),
        (with(vec!["a.example".to_owned(); 32]), &[]),
        (
            with(vec!["a.example".to_owned(); 33]),
            &[".dnsConfig.searches: Invalid value: [\"a.example\""],
        ),
        (with(vec![long; 9]), &[".dnsConfig.searches: Invalid value: [\"aaaa"]),
        (
            words(&["A.example"]),
            &[".dnsConfig.searches[0]: Invalid value: \"A.example\": a lowercase RFC 1123 \
                 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.'"],
        ),
        (words(&["a..b"]), &[".dnsConfig.searches[0]: Invalid value: \"a..b\": a lowercase"]),
    ]);
}

#[test]
fn hosts() {
    in_spec(&[
        (json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a.example", "b"]}]}), &[]),
        (
            json!({"hostAliases": [{"ip": "10.0.0"}]}),
            &[".hostAliases[0].ip: Invalid value: \"10.0.0\": must be a valid IP address"],
        ),
        (
            json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a", "B.example"]}]}),
            &[".hostAliases[0].hostnames[1]: Invalid value: \"B.example\": a lowercase RFC 1123"],
        ),
    ]);
}

#[test]
fn hostnames() {
    let long = "a".repeat(65);
    in_spec(&[
        (json!({"hostname": "web", "subdomain": "sets", "setHostnameAsFQDN": true}), &[]),
        (json!({"hostnameOverride": "web.example"}), &[]),
        (
            json!({"hostname": "web.sets"}),
            &[".hostname: Invalid value: \"web.sets\": must not contain dots"],
        ),
        (
            json!({"subdomain": "Sets"}),
            &[".subdomain: Invalid value: \"Sets\": a lowercase RFC 1123 label"],
        ),
        (
            json!({"hostnameOverride": "Web"}),
            &[".hostnameOverride: Invalid value: \"Web\": a lowercase RFC 1123 subdomain"],
        ),
        (
            json!({"hostnameOverride": "web", "setHostnameAsFQDN": true}),
            &[".hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is \
                 true"],
        ),
        (
            json!({"hostnameOverride": "web", "hostNetwork": true}),
            &[".hostnameOverride: Forbidden: may not be specified when hostNetwork is true"],
        ),
        (
            json!({"hostnameOverride": long}),
            &[".hostnameOverride: Too long: may not be more than 64 bytes"],
        ),
    ]);
}

#[test]
fn gates() {
    in_spec(&[
        (
            json!({"readinessGates": [{"conditionType": "example.com/ready"}],
                "schedulingGates": [{"name": "example.com/a"}, {"name": "b"}]}),
            &[],
        ),
        (
            json!({"readinessGates": [{"conditionType": "a b"}]}),
            &[".readinessGates[0].conditionType: Invalid value: \"a b\": name part must \
                 consist of"],
        ),
        (
            json!({"schedulingGates": [{"name": "a/b/c"}]}),
            &[".schedulingGates[0]: Invalid value: \"a/b/c\": a qualified name must consist"],
        ),
        (
            json!({"schedulingGates": [{"name": "a"}, {"name": "a"}]}),
            &[".schedulingGates[1]: Duplicate value: \"a\""],
        ),
        (
            json!({"schedulingGates": [{"name": "a"}], "nodeName": "n1"}),
            &[".nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
        ),
    ]);
}

#[test]
fn annotations() {
    let place = |annotations: &Value| json!({"metadata": {"annotations": annotations}});
    let app_armor = "container.apparmor.security.beta.kubernetes.io/";
    let (of_c, of_d) = (format!("{app_armor}c"), format!("{app_armor}d"));
    tries(
        "metadata.annotations",
        place,
        &[
            (json!({"controller.kubernetes.io/pod-deletion-cost": "-5"}), &[]),
            (json!({&of_c: "runtime/default"}), &[]),
            (
                json!({"controller.kubernetes.io/pod-deletion-cost": "+5"}),
                &["[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+5\": must \
                 be a 32bit integer"],
            ),
            (
                json!({"controller.kubernetes.io/pod-deletion-cost": "2147483648"}),
                &["[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"2147483648\""],
            ),
            (
                json!({"kubernetes.io/config.mirror": "x"}),
                &["[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName \
                 if mirror pod annotation is set"],
            ),
            (
                json!({"seccomp.security.alpha.kubernetes.io/pod": "strict"}),
                &[".seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"strict\": must \
                 be a valid seccomp profile"],
            ),
            (
                json!({&of_d: "unconfined"}),
                &[&format!("[{of_d}]: Invalid value: \"d\": container not found")],
            ),
            (
                json!({&of_c: "strict"}),
                &[&format!(
                    "[{of_c}]: Invalid value: \"strict\": invalid AppArmor profile name: \"strict\""
                )],
            ),
        ],
    );
}

#[test]
fn tokens_of_an_account() {
    let volumes = json!([{"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token"}}]}}]);
    in_spec(&[
        (json!({"volumes": volumes, "serviceAccountName": "a"}), &[]),
        (
            json!({"volumes": volumes}),
            &[".volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be \
                 specified when serviceAccountName is not set"],
        ),
    ]);
}
