//! Tokens of service accounts: asking for them, being somebody by them, and their end.

use super::*;
use crate::auth::jwt::{self, Signer};
use jiff::Timestamp;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const GONE_SECONDS_AGO: i64 = 120;

async fn ask(server: &Server, account: &str, spec: Value) -> Answer {
    let request = json!({ "spec": spec });
    call("POST", &format!("{ACCOUNTS}/{account}/token")).json(&request).send(server).await
}

/// A token of the account `default`.
async fn token(server: &Server, spec: Value) -> String {
    let answer = ask(server, "default", spec).await.expect(201);
    answer["status"]["token"].as_str().unwrap().to_owned()
}

fn with(token: &str, method: &str, path: &str) -> Call {
    call(method, path).by(None).header("authorization", &format!("Bearer {token}"))
}

async fn who(server: &Server, token: &str) -> Answer {
    with(token, "POST", WHO).json(&json!({})).send(server).await
}

#[track_caller]
fn is_nobody(answer: &Answer) {
    assert_eq!(answer.failure(), (401, "Unauthorized"));
    assert_eq!(answer.body["message"], "Unauthorized");
}

async fn review(server: &Server, token: &str, audiences: Value) -> Value {
    let asked = json!({ "spec": { "token": token, "audiences": audiences } });
    let answer = call("POST", REVIEWS).json(&asked).send(server).await.expect(201);
    answer["status"].clone()
}

fn bound(kind: &str, name: &str, uid: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": kind, "name": name, "uid": uid })
}

async fn make(server: &Server, path: &str, object: Value) -> Value {
    call("POST", path).json(&object).send(server).await.expect(201)
}

async fn make_node(server: &Server, name: &str) -> Value {
    make(server, "/api/v1/nodes", json!({ "metadata": { "name": name } })).await
}

#[tokio::test]
async fn an_account_is_who_its_token_says() {
    let server = server().await;
    let account = call("GET", &format!("{ACCOUNTS}/default")).send(&server).await.expect(200);
    let answer = ask(&server, "default", json!({})).await.expect(201);
    assert_eq!(
        (&answer["kind"], &answer["spec"]["expirationSeconds"]),
        (&json!("TokenRequest"), &json!(3600))
    );
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    assert_eq!(answer["metadata"]["name"], "default");
    let token = answer["status"]["token"].as_str().unwrap();
    let claims = jwt::claims(token).unwrap();
    let issued = claims["iat"].as_i64().unwrap();
    assert_eq!(claims["exp"], issued + 3600);
    let end: Timestamp = answer["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap();
    assert!((end.as_second() - issued - 3600).abs() <= 1, "{answer}");
    let id = claims["jti"].as_str().unwrap();
    let uid = &account["metadata"]["uid"];
    assert_eq!(
        claims,
        json!({
            "iss": ISSUER, "aud": [ISSUER], "sub": "system:serviceaccount:default:default",
            "exp": issued + 3600, "iat": issued, "nbf": issued, "jti": id,
            "kubernetes.io": {
                "namespace": "default",
                "serviceaccount": { "name": "default", "uid": uid },
            },
        })
    );
    let user = who(&server, token).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(
        user,
        json!({
            "username": "system:serviceaccount:default:default",
            "uid": uid,
            "groups": [
                "system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated",
            ],
            "extra": { "authentication.kubernetes.io/credential-id": [format!("JTI={id}")] },
        })
    );
}

#[tokio::test]
async fn an_account_may_look_and_do_nothing() {
    let server = server().await;
    let token = token(&server, json!({})).await;
    for path in ["/api", "/apis", "/version", "/openapi/v3", "/openid/v1/jwks"] {
        with(&token, "GET", path).send(&server).await.expect(200);
    }
    for (method, path) in [
        ("GET", PODS),
        ("GET", "/api/v1/namespaces/default/secrets"),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token"),
        ("POST", REVIEWS),
        ("GET", "/metrics"),
    ] {
        let answer = with(&token, method, path).json(&json!({})).send(&server).await;
        assert_eq!(answer.failure(), (403, "Forbidden"), "{method} {path}");
    }
    let answer = with(&token, "GET", PODS).send(&server).await;
    let user = "User \"system:serviceaccount:default:default\" cannot list resource \"pods\"";
    assert!(answer.body["message"].as_str().unwrap().contains(user), "{}", answer.body);
}

#[tokio::test]
async fn what_is_no_token_of_the_cluster_is_nobody() {
    let server = server().await;
    let good = token(&server, json!({})).await;
    let claims = jwt::claims(&good).unwrap();
    let own = Signer::stored(&server.dir.path().join("pki/sa.key")).unwrap();
    let foreign = Signer::stored(&server.dir.path().join("other.key")).unwrap();
    let changed = |changes: Value| {
        let mut claims = claims.clone();
        for (claim, value) in changes.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        own.sign(&claims).unwrap()
    };
    let encode = |value: Value| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
    };
    who(&server, &changed(json!({}))).await.expect(201);
    let parts: Vec<&str> = good.split('.').collect();
    let now = Timestamp::now().as_second();
    let account = &claims["kubernetes.io"]["serviceaccount"];
    let private = |namespace: &str, name: &str, uid: &Value| {
        json!({ "kubernetes.io": {
            "namespace": namespace, "serviceaccount": { "name": name, "uid": uid },
        } })
    };
    let mut masters = claims.clone();
    masters["sub"] = json!("system:serviceaccount:kube-system:default");
    for (what, token) in [
        ("another key", foreign.sign(&claims).unwrap()),
        ("other claims", format!("{}.{}.{}", parts[0], encode(masters), parts[2])),
        ("no algorithm", format!("{}.{}.", encode(json!({ "alg": "none" })), parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("expired", changed(json!({ "exp": now - 61 }))),
        ("without an end", changed(json!({ "exp": null }))),
        ("not yet", changed(json!({ "nbf": now + 90 }))),
        ("issued later", changed(json!({ "iat": now + 90 }))),
        ("another issuer", changed(json!({ "iss": "https://example.com" }))),
        ("another audience", changed(json!({ "aud": ["vault"] }))),
        ("no audience", changed(json!({ "aud": [] }))),
        ("another account", changed(private("default", "other", &account["uid"]))),
        ("another namespace", changed(private("kube-system", "default", &account["uid"]))),
        ("another uid", changed(private("default", "default", &json!("u-1")))),
        ("no uid", changed(private("default", "default", &Value::Null))),
        ("nothing claimed", changed(json!({ "kubernetes.io": null }))),
        ("no token", "abc".to_owned()),
        ("a join secret", server.api.join_token()),
    ] {
        let answer = who(&server, &token).await;
        assert_eq!(answer.failure(), (401, "Unauthorized"), "{what}");
        for path in ["/api", "/version", "/healthz"] {
            is_nobody(&with(&token, "GET", path).send(&server).await);
        }
    }
    // A certificate counts, whatever else is sent.
    let both = call("GET", PODS).header("authorization", "Bearer abc");
    both.send(&server).await.expect(200);
    for header in ["Basic abc", "Bearer", "Bearer "] {
        let other = call("GET", "/version").by(None).header("authorization", header);
        other.send(&server).await.expect(200);
    }
}

#[tokio::test]
async fn a_token_ends_with_its_account() {
    let server = server().await;
    let path = format!("{ACCOUNTS}/a");
    make(&server, ACCOUNTS, json!({ "metadata": { "name": "a" } })).await;
    let answer = ask(&server, "a", json!({})).await.expect(201);
    let token = answer["status"]["token"].as_str().unwrap();
    who(&server, token).await.expect(201);
    call("DELETE", &path).send(&server).await.expect(200);
    is_nobody(&who(&server, token).await);
    // One of the same name is another one.
    make(&server, ACCOUNTS, json!({ "metadata": { "name": "a" } })).await;
    is_nobody(&who(&server, token).await);
    let status = review(&server, token, json!([])).await;
    let error = status["error"].as_str().unwrap();
    assert!(error.starts_with("service account UID ("), "{error}");
    assert_eq!((&status["authenticated"], &status["user"]), (&Value::Null, &json!({})));
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let server = server().await;
    let node = make_node(&server, "n1").await;
    let pod = bound_pod(&server, "p", "n1").await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = make(&server, secrets, json!({ "metadata": { "name": "s" } })).await;
    let extra = |what: &str| format!("authentication.kubernetes.io/{what}");
    for (kind, object, path, told) in [
        ("Pod", &pod, format!("{PODS}/p"), vec!["pod-name", "pod-uid", "node-name", "node-uid"]),
        ("Secret", &secret, format!("{secrets}/s"), vec![]),
        ("Node", &node, "/api/v1/nodes/n1".to_owned(), vec!["node-name", "node-uid"]),
    ] {
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap();
        let reference = bound(kind, name, &metadata["uid"]);
        let token = token(&server, json!({ "boundObjectRef": reference })).await;
        let claims = jwt::claims(&token).unwrap();
        let claim = &claims["kubernetes.io"][kind.to_lowercase()];
        assert_eq!(*claim, json!({ "name": name, "uid": metadata["uid"] }), "{kind}");
        let user = who(&server, &token).await.expect(201)["status"]["userInfo"].clone();
        let known = user["extra"].as_object().unwrap();
        assert_eq!(known.len(), 1 + told.len(), "{kind} {user}");
        for what in told {
            let of = if what.starts_with("pod") { &pod } else { &node };
            let field = if what.ends_with("name") { "name" } else { "uid" };
            assert_eq!(known[&extra(what)], json!([of["metadata"][field]]), "{what}");
        }
        call("DELETE", &format!("{path}?gracePeriodSeconds=0")).send(&server).await.expect(200);
        is_nobody(&who(&server, &token).await);
    }
}

#[tokio::test]
async fn a_pod_that_ends_has_its_token_until_it_should_be_gone() {
    let server = server().await;
    let held = |name: &str| {
        let mut pod = pod(name);
        pod["metadata"]["finalizers"] = json!(["example.com/held"]);
        pod
    };
    let pod = make(&server, PODS, held("p")).await;
    let reference = bound("Pod", "p", &pod["metadata"]["uid"]);
    let token = token(&server, json!({ "boundObjectRef": reference })).await;
    call("DELETE", &format!("{PODS}/p?gracePeriodSeconds=0")).send(&server).await.expect(200);
    who(&server, &token).await.expect(201);
    // Some time after its end, by the clock of who checks.
    let accounts = crate::auth::account_tokens::AccountTokens::new(
        Signer::stored(&server.dir.path().join("pki/sa.key")).unwrap(),
        ISSUER.to_owned(),
        server.api.caches.clone(),
    );
    let check = |after: i64| {
        let then = Timestamp::from_second(Timestamp::now().as_second() + after).unwrap();
        accounts.check(&token, &[ISSUER.to_owned()], then).unwrap()
    };
    assert!(check(0).is_ok());
    let refused = check(GONE_SECONDS_AGO).unwrap_err();
    assert_eq!(refused.to_string(), "pod default/p has been deleted");
}

#[tokio::test]
async fn requests_for_tokens_are_checked() {
    let server = server().await;
    make(&server, ACCOUNTS, json!({ "metadata": { "name": "other" } })).await;
    let pod = make(&server, PODS, pod("p")).await;
    let uid = &pod["metadata"]["uid"];
    let invalid = "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: \
                   Invalid value: ";
    let bind = |reference: Value| json!({ "boundObjectRef": reference });
    // The account, the spec, the code and the message.
    let table = [
        (
            "default",
            json!({ "expirationSeconds": 599 }),
            422,
            format!("{invalid}599: may not specify a duration less than 10 minutes"),
        ),
        (
            "default",
            json!({ "expirationSeconds": 4_294_967_297_i64 }),
            422,
            format!("{invalid}4294967297: may not specify a duration larger than 2^32 seconds"),
        ),
        ("nobody", json!({}), 404, "serviceaccounts \"nobody\" not found".to_owned()),
        ("default", bind(bound("Pod", "q", uid)), 404, "pods \"q\" not found".to_owned()),
        (
            "default",
            bind(bound("Pod", "p", &json!("u-1"))),
            409,
            "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference \
             (u-1) does not match the UID in record. The object might have been deleted and then \
             recreated"
                .to_owned(),
        ),
        (
            "other",
            bind(bound("Pod", "p", uid)),
            400,
            "cannot bind token for serviceaccount \"other\" to pod running with different \
             serviceaccount name."
                .to_owned(),
        ),
        (
            "default",
            bind(bound("ConfigMap", "c", uid)),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap".to_owned(),
        ),
    ];
    for (account, spec, code, message) in table {
        let answer = ask(&server, account, spec).await;
        assert_eq!((answer.code, answer.body["message"].as_str()), (code, Some(&*message)));
    }
    for seconds in [600_i64, 4_294_967_296] {
        ask(&server, "default", json!({ "expirationSeconds": seconds })).await.expect(201);
    }
    let path = format!("{ACCOUNTS}/default/token");
    let named = json!({ "metadata": { "name": "other" }, "spec": {} });
    let answer = call("POST", &path).json(&named).send(&server).await;
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("must match the service account name if specified"), "{message}");
    assert_eq!(call("GET", &path).send(&server).await.code, 405);
}

#[tokio::test]
async fn typed_clients_get_tokens_in_protobuf() {
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let server = server().await;
    let path = format!("{ACCOUNTS}/default/token");
    let asked = call("POST", &path).header("accept", PROTOBUF).json(&json!({}));
    let answer = asked.send(&server).await;
    assert_eq!((answer.code, answer.headers["content-type"] == PROTOBUF), (201, true));
    let body = answer.body.as_str().unwrap();
    assert!(body.starts_with("k8s\0") && body.contains("TokenRequest"), "{body:?}");
}

#[tokio::test]
async fn tokens_are_reviewed() {
    let server = server().await;
    let own = token(&server, json!({})).await;
    let vault = token(&server, json!({ "audiences": ["vault", "other"] })).await;
    is_nobody(&who(&server, &vault).await);
    let user = who(&server, &own).await.expect(201)["status"]["userInfo"].clone();
    let status = review(&server, &own, json!([])).await;
    assert_eq!(status, json!({ "authenticated": true, "user": user, "audiences": [ISSUER] }));
    let status = review(&server, &vault, json!(["x", "vault"])).await;
    assert_eq!(status["audiences"], json!(["vault"]));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    for (token, audiences, error) in [
        (
            &own,
            json!(["vault"]),
            format!(
                "token audiences [\"{ISSUER}\"] is invalid for the target audiences [\"vault\"]"
            ),
        ),
        (&"abc".to_owned(), json!([]), "invalid bearer token".to_owned()),
    ] {
        let status = review(&server, token, audiences).await;
        assert_eq!(status, json!({ "user": {}, "error": error }));
    }
    let empty = call("POST", REVIEWS).json(&json!({ "spec": {} })).send(&server).await;
    assert_eq!(empty.failure(), (400, "BadRequest"));
    assert_eq!(empty.body["message"], "token is required for TokenReview in authentication");
    for (user, code) in [(Some(node("n1")), 403), (None, 401)] {
        let asked = call("POST", REVIEWS).by(user).json(&json!({ "spec": { "token": own } }));
        assert_eq!(asked.send(&server).await.code, code);
    }
}

#[tokio::test]
async fn others_can_check_tokens() {
    let server = server().await;
    let token = token(&server, json!({})).await;
    let config = with(&token, "GET", "/.well-known/openid-configuration").send(&server).await;
    assert_eq!(config.headers["content-type"], "application/json");
    assert_eq!(
        config.expect(200),
        json!({
            "issuer": ISSUER,
            "jwks_uri": "https://172.30.0.1:6443/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    );
    let keys = with(&token, "GET", "/openid/v1/jwks").send(&server).await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let key = keys.expect(200)["keys"][0].clone();
    assert!(key.get("d").is_none(), "the private half: {key}");
    check_with(&key, &token);
    let path = "/openid/v1/jwks";
    call("GET", path).send(&server).await.expect(200);
    let other = call("GET", path).by(Some(User::new("somebody", &[]))).send(&server).await;
    assert_eq!(other.failure(), (403, "Forbidden"));
    let message = "forbidden: User \"somebody\" cannot get path \"/openid/v1/jwks\"";
    assert_eq!(other.body["message"], message);
    assert_eq!(call("GET", path).by(None).send(&server).await.code, 401);
}

/// As another program does it that knows the published key only.
fn check_with(key: &Value, token: &str) {
    use base64::Engine as _;
    let decode =
        |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!((&header["alg"], &header["kid"]), (&key["alg"], &key["kid"]));
    let part = |name: &str| decode(key[name].as_str().unwrap());
    let point = [vec![4], part("x"), part("y")].concat();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED;
    let public = ring::signature::UnparsedPublicKey::new(algorithm, point);
    public.verify(signed.as_bytes(), &decode(signature)).unwrap();
}

#[tokio::test]
async fn an_agent_gets_tokens_for_its_own_pods() {
    let server = server().await;
    let mut spec = pod("p");
    spec["spec"]["nodeName"] = json!("n1");
    spec["spec"]["volumes"] = json!([{ "name": "t", "projected": { "sources": [
        { "serviceAccountToken": { "path": "token", "audience": "vault" } },
        { "serviceAccountToken": { "path": "own" } },
    ] } }]);
    let made = make(&server, PODS, spec).await;
    bound_pod(&server, "theirs", "n2").await;
    make(&server, ACCOUNTS, json!({ "metadata": { "name": "unused" } })).await;
    let uid = &made["metadata"]["uid"];
    let asked = async |account: &str, node_name: &str, spec: Value| {
        let path = format!("{ACCOUNTS}/{account}/token");
        let by = call("POST", &path).by(Some(node(node_name))).json(&json!({ "spec": spec }));
        by.send(&server).await
    };
    let own = bound("Pod", "p", uid);
    for audiences in [json!([]), json!(["vault"])] {
        let spec = json!({ "audiences": audiences, "boundObjectRef": own });
        asked("default", "n1", spec).await.expect(201);
    }
    let unbound = "node requested token not bound to a pod";
    for (account, node_name, spec, words) in [
        ("default", "n1", json!({}), unbound),
        ("default", "n1", json!({ "boundObjectRef": bound("Secret", "p", uid) }), unbound),
        (
            "default",
            "n1",
            json!({ "boundObjectRef": bound("Pod", "p", &json!("u-1")) }),
            "does not match the UID in record",
        ),
        (
            "default",
            "n1",
            json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p" } }),
            "without a uid",
        ),
        (
            "default",
            "n2",
            json!({ "boundObjectRef": own }),
            "node requested token bound to a pod scheduled on a different node",
        ),
        (
            "default",
            "n1",
            json!({ "boundObjectRef": own, "audiences": ["bank"] }),
            "audience \"bank\" not found in pod spec volume",
        ),
        (
            "default",
            "n1",
            json!({ "boundObjectRef": own, "audiences": ["vault", "bank"] }),
            "node may only request 0 or 1 audiences",
        ),
        ("unused", "n1", json!({ "boundObjectRef": own }), "no pod that is bound to node"),
        ("default", "n3", json!({ "boundObjectRef": own }), "no pod that is bound to node"),
    ] {
        let answer = asked(account, node_name, spec).await;
        assert_eq!(answer.failure(), (403, "Forbidden"), "{words}");
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
}
