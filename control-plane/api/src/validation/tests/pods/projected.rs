//! Volumes of files that the cluster writes.

use serde_json::{Value, json};

use super::tries;

pub(super) const ALL: &[fn()] = &[downward, sources, tokens, conflicts, bundles, certificates];

/// A pod with an account, so that it may have tokens.
fn in_projected(rows: &[super::Row<'_>]) {
    let place = |source: &Value| {
        json!({"spec": {"serviceAccountName": "a", "volumes": [{"name": "v",
            "projected": {"sources": [source]}}]}})
    };
    tries("spec.volumes[0].projected", place, rows);
}

#[test]
fn downward() {
    let place = |file: &Value| {
        let mut whole = json!({"path": "f"});
        json_patch::merge(&mut whole, file);
        json!({"spec": {"volumes": [{"name": "v", "downwardAPI": {"items": [whole]}}]}})
    };
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let resource = |change: Value| {
        let mut reference = json!({"containerName": "c", "resource": "limits.cpu"});
        json_patch::merge(&mut reference, &change);
        json!({"resourceFieldRef": reference})
    };
    let mut both = field("metadata.name");
    json_patch::merge(&mut both, &resource(json!({})));
    tries(
        "spec.volumes[0].downwardAPI",
        place,
        &[
            (field("metadata.labels"), &[]),
            (resource(json!({"divisor": "1m"})), &[]),
            (json!({}), &[": Required value: one of fieldRef and resourceFieldRef is required"]),
            (
                both,
                &[": Invalid value: \"resource\": fieldRef and resourceFieldRef can not be \
                 specified simultaneously"],
            ),
            (
                field("status.podIP"),
                &[".fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \
                 \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \
                 \"metadata.namespace\", \"metadata.uid\""],
            ),
            (
                resource(json!({"containerName": null})),
                &[".resourceFieldRef.containerName: Required value"],
            ),
            (
                resource(json!({"resource": "limits.gpu"})),
                &[".resourceFieldRef.resource: Unsupported value: \"limits.gpu\""],
            ),
            (
                json!({"path": "", "fieldRef": {"fieldPath": "metadata.uid"}}),
                &[".path: Required value"],
            ),
            (
                json!({"path": "/f", "fieldRef": {"fieldPath": "metadata.uid"}}),
                &[".path: Invalid value: \"/f\": must be a relative path"],
            ),
            (
                json!({"path": "..f", "fieldRef": {"fieldPath": "metadata.uid"}}),
                &[".path: Invalid value: \"..f\": must not start with '..'"],
            ),
            (
                json!({"mode": 512, "fieldRef": {"fieldPath": "metadata.uid"}}),
                &[".mode: Invalid value: 512: must be a number between 0 and 0777"],
            ),
        ],
    );
}

#[test]
fn sources() {
    in_projected(&[
        (json!({"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}), &[]),
        (json!({"configMap": {"name": "c"}}), &[]),
        (json!({"secret": {}}), &[".sources[0].secret.name: Required value"]),
        (json!({"configMap": {"name": ""}}), &[".sources[0].configMap.name: Required value"]),
        (
            json!({"secret": {"name": "s", "items": [{"key": "k", "path": "../p"}]}}),
            &[".sources[0].secret.items[0].path: Invalid value: \"../p\": must not contain '..'"],
        ),
        (
            json!({"configMap": {"name": "c", "items": [{"path": "p"}]}}),
            &[".sources[0].configMap.items[0].key: Required value"],
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "p"}]}}),
            &[".sources[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is \
                 required"],
        ),
        (
            json!({"secret": {"name": "s"}, "configMap": {"name": "c"}}),
            &[".sources[0]: Forbidden: may not specify more than 1 volume type per source"],
        ),
    ]);
    let place = |mode: &Value| {
        json!({"spec": {"volumes": [{"name": "v",
        "projected": {"defaultMode": mode}}]}})
    };
    tries(
        "spec.volumes[0].projected.defaultMode",
        place,
        &[
            (json!(0o400), &[]),
            (json!(0o1000), &[": Invalid value: 512: must be a number between 0 and 0777 (octal)"]),
        ],
    );
}

#[test]
fn tokens() {
    let token = |change: Value| {
        let mut token = json!({"path": "token"});
        json_patch::merge(&mut token, &change);
        json!({"serviceAccountToken": token})
    };
    let at = ".sources[0].serviceAccountToken.expirationSeconds";
    in_projected(&[
        (token(json!({"audience": "a", "expirationSeconds": 600})), &[]),
        (
            token(json!({"expirationSeconds": 599})),
            &[&format!(
                "{at}: Invalid value: 599: may not specify a duration less than 10 minutes"
            )],
        ),
        (
            token(json!({"expirationSeconds": (1_i64 << 32) + 1})),
            &[&format!(
                "{at}: Invalid value: 4294967297: may not specify a duration larger than 2^32 \
                 seconds"
            )],
        ),
        (token(json!({"path": ""})), &[".path: Required value"]),
        (
            token(json!({"path": "/token"})),
            &[".path: Invalid value: \"/token\": must be a relative path"],
        ),
        (
            token(json!({"path": "..token"})),
            &[".path: Invalid value: \"..token\": must not start with '..'"],
        ),
    ]);
}

#[test]
fn conflicts() {
    let place = |sources: &Value| {
        json!({"spec": {"volumes": [{"name": "v",
        "projected": {"sources": sources}}]}})
    };
    let of = |kind: &str, name: &str, path: &str| {
        json!({kind: {"name": name,
        "items": [{"key": "k", "path": path}]}})
    };
    let downward = |path: &str| {
        json!({"downwardAPI": {"items": [{"path": path,
            "fieldRef": {"fieldPath": "metadata.name"}}]}})
    };
    tries(
        "spec.volumes[0].projected",
        place,
        &[
            (json!([of("secret", "s", "a"), of("configMap", "c", "b"), downward("d")]), &[]),
            (
                json!([of("secret", "s", "a"), of("secret", "t", "a")]),
                &[": Invalid value: \"t\": conflicting duplicate paths"],
            ),
            (
                json!([of("secret", "s", "a"), of("configMap", "c", "a")]),
                &[": Invalid value: \"c\": conflicting duplicate paths"],
            ),
            (
                json!([of("configMap", "c", "a"), downward("a")]),
                &[": Invalid value: \"a\": conflicting duplicate paths"],
            ),
        ],
    );
}

#[test]
fn bundles() {
    let bundle = |change: Value| {
        let mut bundle = json!({"path": "ca.pem"});
        json_patch::merge(&mut bundle, &change);
        json!({"clusterTrustBundle": bundle})
    };
    let at = ".sources[0].clusterTrustBundle";
    in_projected(&[
        (bundle(json!({"name": "example.com:signer:a"})), &[]),
        (bundle(json!({"signerName": "example.com/signer", "labelSelector": {}})), &[]),
        (
            bundle(json!({})),
            &[&format!("{at}: Required value: either name or signerName must be specified")],
        ),
        (
            bundle(json!({"name": "a", "signerName": "example.com/signer"})),
            &[&format!("{at}: Invalid value: {{")],
        ),
        (
            bundle(json!({"name": "A"})),
            &[&format!(
                "{at}.name: Invalid value: \"A\": not a valid clustertrustbundlename: a lowercase"
            )],
        ),
        (
            bundle(json!({"name": "a", "labelSelector": {}})),
            &[&format!(
                "{at}.labelSelector: Invalid value: {{}}: labelSelector must be unset if name is \
                 specified"
            )],
        ),
        (
            bundle(json!({"signerName": "signer"})),
            &[&format!(
                "{at}.signerName: Invalid value: \"signer\": must be a fully qualified domain and \
                 path of the form 'example.com/signer-name'"
            )],
        ),
        (
            bundle(json!({"signerName": "example/signer"})),
            &[&format!(
                "{at}.signerName: Invalid value: \"example\": should be a domain with at least \
                 two segments separated by dots"
            )],
        ),
        (
            bundle(json!({"name": "a", "path": "/ca.pem"})),
            &[&format!("{at}.path: Invalid value: \"/ca.pem\": must be a relative path")],
        ),
        (bundle(json!({"name": "a", "path": null})), &[&format!("{at}.path: Required value")]),
    ]);
}

#[test]
fn certificates() {
    let certificate = |change: Value| {
        let mut whole = json!({"signerName": "example.com/signer", "keyType": "ED25519",
            "credentialBundlePath": "bundle.pem"});
        json_patch::merge(&mut whole, &change);
        json!({"podCertificate": whole})
    };
    let at = ".sources[0].podCertificate";
    in_projected(&[
        (certificate(json!({"maxExpirationSeconds": 3600})), &[]),
        (certificate(json!({"signerName": ""})), &[&format!("{at}.signerName: Required value")]),
        (
            certificate(json!({"keyType": "DSA"})),
            &[&format!(
                "{at}.keyType: Unsupported value: \"DSA\": supported values: \"RSA3072\", \
                 \"RSA4096\", \"ECDSAP256\", \"ECDSAP384\", \"ECDSAP521\", \"ED25519\""
            )],
        ),
        (
            certificate(json!({"maxExpirationSeconds": 60})),
            &[&format!(
                "{at}.maxExpirationSeconds: Invalid value: 60: if provided, maxExpirationSeconds \
                 must be >= 3600"
            )],
        ),
        (
            certificate(json!({"maxExpirationSeconds": 7_862_401})),
            &[&format!(
                "{at}.maxExpirationSeconds: Invalid value: 7862401: if provided, \
                 maxExpirationSeconds must be <= 7862400"
            )],
        ),
        (
            certificate(json!({"credentialBundlePath": null})),
            &[&format!(
                "{at}: Required value: specify at least one of credentialBundlePath, keyPath, and \
                 certificateChainPath"
            )],
        ),
        (
            certificate(json!({"keyPath": "bundle.pem"})),
            &[": Invalid value: \"bundle.pem\": conflicting duplicate paths"],
        ),
        (
            certificate(json!({"keyPath": "../key.pem"})),
            &[&format!("{at}.keyPath: Invalid value: \"../key.pem\": must not contain '..'")],
        ),
    ]);
}
