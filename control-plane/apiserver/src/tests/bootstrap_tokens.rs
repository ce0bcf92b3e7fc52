//! Tokens that are secrets in `kube-system`.

use super::*;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const TOKEN: &str = "abcdef.0123456789abcdef";

fn secret(changes: Value) -> Value {
    let mut secret = json!({
        "metadata": { "name": "bootstrap-token-abcdef" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:z,system:bootstrappers:kubeadm:node",
            "expiration": "2199-01-01T00:00:00Z",
        },
    });
    for (pointer, value) in changes.as_object().unwrap() {
        match (secret.pointer_mut(pointer), value) {
            (Some(place), value) => *place = value.clone(),
            (None, _) => panic!("{pointer}"),
        }
    }
    secret
}

async fn who(server: &Server, token: &str) -> Answer {
    let header = format!("Bearer {token}");
    let asked = call("POST", WHO).by(None).header("authorization", &header);
    asked.json(&json!({})).send(server).await
}

#[tokio::test]
async fn a_secret_lets_its_holder_in() {
    let server = server().await;
    assert_eq!(who(&server, TOKEN).await.failure(), (401, "Unauthorized"));
    call("POST", SECRETS).json(&secret(json!({}))).send(&server).await.expect(201);
    let user = who(&server, TOKEN).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(
        user,
        json!({
            "username": "system:bootstrap:abcdef",
            "groups": [
                "system:bootstrappers", "system:bootstrappers:kubeadm:node",
                "system:bootstrappers:z", "system:authenticated",
            ],
        })
    );
    let header = format!("Bearer {TOKEN}");
    let pods = call("GET", PODS).by(None).header("authorization", &header);
    assert_eq!(pods.send(&server).await.failure(), (403, "Forbidden"));
    for wrong in ["abcdef.0123456789abcdeg", "abcdeg.0123456789abcdef", "abcdef.", "abcdef"] {
        assert_eq!(who(&server, wrong).await.code, 401, "{wrong}");
    }
    // It is for this server.
    let review = async |audiences: Value| {
        let asked = json!({ "spec": { "token": TOKEN, "audiences": audiences } });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = call("POST", path).json(&asked).send(&server).await.expect(201);
        answer["status"]["authenticated"] == true
    };
    assert!(review(json!([])).await);
    assert!(!review(json!(["vault"])).await);
    let path = format!("{SECRETS}/bootstrap-token-abcdef");
    call("DELETE", &path).send(&server).await.expect(200);
    assert_eq!(who(&server, TOKEN).await.code, 401);
}

#[tokio::test]
async fn other_secrets_let_nobody_in() {
    let server = server().await;
    for (changes, lets_in) in [
        (json!({ "/stringData/expiration": "" }), true),
        (json!({ "/stringData/auth-extra-groups": "" }), true),
        (json!({ "/stringData/expiration": "2020-01-01T00:00:00Z" }), false),
        (json!({ "/stringData/expiration": "tomorrow" }), false),
        (json!({ "/stringData/token-id": "abcdeg" }), false),
        (json!({ "/stringData/token-secret": "0123456789abcdeg" }), false),
        (json!({ "/stringData/token-secret": "" }), false),
        (json!({ "/stringData/usage-bootstrap-authentication": "false" }), false),
        (json!({ "/stringData/auth-extra-groups": "system:masters" }), false),
        (
            json!({ "/stringData/auth-extra-groups": "system:bootstrappers:a,system:masters" }),
            false,
        ),
        (json!({ "/type": "Opaque" }), false),
        (json!({ "/metadata/name": "bootstrap-token-abcdeg" }), false),
    ] {
        let secret = secret(changes.clone());
        call("POST", SECRETS).json(&secret).send(&server).await.expect(201);
        let expected = if lets_in { 201 } else { 401 };
        assert_eq!(who(&server, TOKEN).await.code, expected, "{changes}");
        let name = secret["metadata"]["name"].as_str().unwrap();
        call("DELETE", &format!("{SECRETS}/{name}")).send(&server).await.expect(200);
    }
    let mut elsewhere = secret(json!({}));
    elsewhere["metadata"]["namespace"] = json!("default");
    let path = "/api/v1/namespaces/default/secrets";
    call("POST", path).json(&elsewhere).send(&server).await.expect(201);
    assert_eq!(who(&server, TOKEN).await.code, 401);
}
