//! Who may do what; joining; TLS.

use super::*;
use crate::auth::User;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_util::sync::CancellationToken;

const NODES_PATH: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn node_object(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
}

fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
    })
}

#[tokio::test]
async fn strangers_see_nothing() {
    let server = server().await;
    for path in ["/api", "/apis", "/api/v1/pods", "/openapi/v3", "/"] {
        let answer = call("GET", path).by(None).send(&server).await;
        assert_eq!(answer.failure(), (401, "Unauthorized"), "{path}");
    }
    let ca = call("GET", "/bowline/v1/ca").by(None).send(&server).await.expect(200);
    assert!(ca.as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let somebody = User::new("somebody", &[]);
    let answer = call("GET", PODS).by(Some(somebody)).send(&server).await;
    assert_eq!(answer.failure(), (403, "Forbidden"));
    assert_eq!(
        answer.body["message"],
        "pods is forbidden: User \"somebody\" cannot list resource \"pods\" in API group \"\" \
         in the namespace \"default\""
    );
    // Asking for more, or for less, by header is not served.
    let sneaky = call("GET", PODS).header("impersonate-user", "system:admin");
    assert_eq!(sneaky.send(&server).await.failure(), (403, "Forbidden"));
}

#[tokio::test]
async fn only_masters_listen_to_nodes() {
    let server = server().await;
    call("POST", NODES_PATH).json(&node_object("n1")).send(&server).await.expect(201);
    let get = |path: &str| call("GET", &format!("/bowline/v1/nodes/{path}"));
    for (path, by, failure, words) in [
        ("n1/events", Some(node("n1")), (403, "Forbidden"), "only members of system:masters"),
        ("n1/events", None, (401, "Unauthorized"), ""),
        ("n1/events", Some(admin()), (500, "InternalError"), "has not said its address yet"),
        ("n2/events", Some(admin()), (404, "NotFound"), "nodes \"n2\" not found"),
        ("n1/nothing", Some(admin()), (404, "NotFound"), ""),
    ] {
        let answer = get(path).by(by).send(&server).await;
        assert_eq!(answer.failure(), failure, "{path}");
        assert!(answer.body["message"].as_str().unwrap().contains(words), "{}", answer.body);
    }
    let status = json!({ "status": { "addresses": [
        { "type": "InternalIP", "address": "127.0.0.1" },
    ] } });
    let said = call("PATCH", &format!("{NODES_PATH}/n1/status"))
        .header("content-type", "application/merge-patch+json")
        .json(&status);
    said.send(&server).await.expect(200);
    let answer = get("n1/events?port=8%26x=9").send(&server).await;
    assert_eq!(answer.failure(), (400, "BadRequest"));
}

#[tokio::test]
async fn only_masters_give_nodes_commands() {
    let server = server().await;
    call("POST", NODES_PATH).json(&node_object("n1")).send(&server).await.expect(201);
    for (method, node_name, by, failure) in [
        ("POST", "n1", Some(node("n1")), (403, "Forbidden")),
        ("POST", "n1", None, (401, "Unauthorized")),
        ("GET", "n1", Some(admin()), (405, "MethodNotAllowed")),
        ("POST", "n1", Some(admin()), (500, "InternalError")),
        ("POST", "n2", Some(admin()), (404, "NotFound")),
    ] {
        let path = format!("/bowline/v1/nodes/{node_name}/net?word=net&word=status");
        let answer = call(method, &path).by(by).send(&server).await;
        assert_eq!(answer.failure(), failure, "{method} {node_name}");
    }
}

#[tokio::test]
async fn a_node_writes_what_is_its_own() {
    let server = server().await;
    let n1 = || Some(node("n1"));
    call("POST", NODES_PATH).by(n1()).json(&node_object("n1")).send(&server).await.expect(201);
    let other = call("POST", NODES_PATH).by(n1()).json(&node_object("n2")).send(&server).await;
    assert_eq!(other.failure(), (403, "Forbidden"));
    call("POST", NODES_PATH).json(&node_object("n2")).send(&server).await.expect(201);

    let patch = |path: String, body: Value| {
        call("PATCH", &path)
            .by(n1())
            .header("content-type", "application/merge-patch+json")
            .json(&body)
            .send(&server)
    };
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    patch(format!("{NODES_PATH}/n1"), label.clone()).await.expect(200);
    assert_eq!(patch(format!("{NODES_PATH}/n2"), label).await.code, 403);
    let taints = json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } });
    assert_eq!(patch(format!("{NODES_PATH}/n1"), taints).await.code, 403);
    let range = json!({ "spec": { "podCIDR": "10.240.0.0/16", "podCIDRs": ["10.240.0.0/16"] } });
    assert_eq!(patch(format!("{NODES_PATH}/n1"), range.clone()).await.code, 403);
    let mut greedy = node_object("n3");
    greedy["spec"] = range["spec"].clone();
    let greedy = call("POST", NODES_PATH).by(Some(node("n3"))).json(&greedy).send(&server).await;
    assert_eq!(greedy.failure(), (403, "Forbidden"));

    call("POST", LEASES).by(n1()).json(&lease("n1")).send(&server).await.expect(201);
    let other = call("POST", LEASES).by(n1()).json(&lease("n2")).send(&server).await;
    assert_eq!(other.code, 403);

    bound_pod(&server, "mine", "n1").await;
    bound_pod(&server, "theirs", "n2").await;
    let running = json!({ "status": { "phase": "Running" } });
    patch(format!("{PODS}/mine/status"), running.clone()).await.expect(200);
    assert_eq!(patch(format!("{PODS}/theirs/status"), running.clone()).await.code, 403);
    assert_eq!(patch(format!("{PODS}/mine"), running).await.code, 403);
    let delete = |name: &str| call("DELETE", &format!("{PODS}/{name}")).by(n1()).send(&server);
    assert_eq!(delete("theirs").await.code, 403);
    delete("mine").await.expect(200);
    for path in ["/api/v1/services", NODES_PATH, "/api/v1/endpoints"] {
        call("GET", path).by(n1()).send(&server).await.expect(200);
    }
}

#[tokio::test]
async fn a_node_reads_the_pods_that_are_its_own() {
    let server = server().await;
    bound_pod(&server, "mine", "n1").await;
    bound_pod(&server, "theirs", "n2").await;
    let get = |path: &str| call("GET", path).by(Some(node("n1"))).send(&server);
    let own = get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
    get(&format!("{PODS}/mine")).await.expect(200);
    for path in [
        "/api/v1/pods",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2",
        "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dn1",
        "/api/v1/pods?watch=true",
        "/api/v1/namespaces/default/pods/theirs",
        "/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Dtheirs",
    ] {
        assert_eq!(get(path).await.failure(), (403, "Forbidden"), "{path}");
    }
}

#[tokio::test]
async fn a_node_reads_the_secrets_of_its_pods() {
    let server = server().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["used", "unused"] {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": name }, "stringData": { "a": "b" },
        });
        call("POST", secrets).json(&secret).send(&server).await.expect(201);
    }
    let mut user = pod("user");
    user["spec"]["nodeName"] = json!("n1");
    user["spec"]["containers"][0]["envFrom"] = json!([{ "secretRef": { "name": "used" } }]);
    call("POST", PODS).json(&user).send(&server).await.expect(201);
    let get = |node_name: &str, path: &str| {
        call("GET", &format!("{secrets}{path}")).by(Some(node(node_name))).send(&server)
    };
    let secret = get("n1", "/used").await.expect(200);
    assert_eq!(secret["data"]["a"], "Yg==");
    assert_eq!(get("n1", "/unused").await.code, 403);
    assert_eq!(get("n2", "/used").await.code, 403);
    assert_eq!(get("n1", "").await.code, 403);
    get("n1", "?fieldSelector=metadata.name%3Dused").await.expect(200);
}

#[tokio::test]
async fn the_scheduler_binds_and_does_not_delete() {
    let server = server().await;
    let scheduler = || Some(User::new("system:kube-scheduler", &[]));
    call("POST", PODS).json(&pod("p")).send(&server).await.expect(201);
    let binding = json!({ "target": { "kind": "Node", "name": "n1" } });
    let path = format!("{PODS}/p/binding");
    call("POST", &path).by(scheduler()).json(&binding).send(&server).await.expect(201);
    call("GET", "/api/v1/pods").by(scheduler()).send(&server).await.expect(200);
    let delete = call("DELETE", &format!("{PODS}/p")).by(scheduler()).send(&server).await;
    assert_eq!(delete.failure(), (403, "Forbidden"));
    let secrets = call("GET", "/api/v1/secrets").by(scheduler()).send(&server).await;
    assert_eq!(secrets.failure(), (403, "Forbidden"));
}

fn request(common_name: &str) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let names = vec!["n1".to_owned(), "172.30.0.11".to_owned(), "10.9.0.1".to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

fn join(secret: &str, node: &str, csr: &str) -> Call {
    call("POST", &format!("/bowline/v1/join?node={node}"))
        .by(None)
        .header("authorization", &format!("Bearer {secret}"))
        .raw(csr)
}

#[tokio::test]
async fn a_node_joins_with_the_secret_and_gets_only_its_own_identity() {
    let server = server().await;
    let token = server.api.join_token();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!((parts.len(), parts[0], parts[1].len()), (3, "bl1", 64));
    let (csr, _) = request("system:node:n1");
    let wrong = join("wrong", "n1", &csr).send(&server).await;
    assert_eq!(wrong.failure(), (401, "Unauthorized"));
    let absent = call("POST", "/bowline/v1/join?node=n1").by(None).raw(csr.as_str());
    assert_eq!(absent.send(&server).await.code, 401);
    assert_eq!(join(parts[2], "n2", &csr).send(&server).await.code, 400);
    assert_eq!(join(parts[2], "N/1", &csr).send(&server).await.code, 400);
    assert_eq!(join(parts[2], "n1", "junk").send(&server).await.code, 400);

    let pem = join(parts[2], "n1", &csr).send(&server).await.expect(200);
    let der = CertificateDer::from_pem_slice(pem.as_str().unwrap().as_bytes()).unwrap();
    let user = User::of_certificate(&der).unwrap();
    assert_eq!((&user.name, &user.groups), (&node("n1").name, &node("n1").groups));
    let credential = &user.extra["authentication.kubernetes.io/credential-id"][0];
    assert_eq!(credential.len(), "X509SHA256=".len() + 64, "{credential}");
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    // The address of the API server's own service is not the node's to have.
    assert_eq!(names.value.general_names.len(), 2, "{names:?}");
}

/// A node that is `Ready` as `ready` says, with an address.
async fn joined(server: &Server, name: &str, address: &str, ready: &str) {
    let made = call("POST", NODES_PATH).json(&node_object(name)).send(server).await;
    assert!(matches!(made.code, 201 | 409), "{}", made.body);
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": address }],
        "conditions": [{ "type": "Ready", "status": ready }],
    } });
    call("PATCH", &format!("{NODES_PATH}/{name}/status"))
        .header("content-type", "application/merge-patch+json")
        .json(&status)
        .send(server)
        .await
        .expect(200);
}

#[tokio::test]
async fn the_secret_gives_nobody_the_name_or_the_address_of_a_live_node() {
    let server = server().await;
    let token = server.api.join_token();
    let secret = token.rsplit('.').next().unwrap();
    let (csr, _) = request("system:node:n1");
    joined(&server, "n1", "172.30.0.11", "True").await;
    let taken = join(secret, "n1", &csr).send(&server).await;
    assert_eq!(taken.failure(), (409, "Conflict"));
    assert!(taken.body["message"].as_str().unwrap().contains("delete the node"), "{}", taken.body);
    // Its own certificate renews it without the secret, and renews no other.
    let renew = |as_node: &str| {
        let path = "/bowline/v1/join?node=n1";
        call("POST", path).by(Some(node(as_node))).raw(csr.as_str()).send(&server)
    };
    renew("n1").await.expect(200);
    assert_eq!(renew("n2").await.failure(), (401, "Unauthorized"));
    // A node that is lost may be set up anew.
    joined(&server, "n1", "172.30.0.11", "Unknown").await;
    join(secret, "n1", &csr).send(&server).await.expect(200);

    let (csr, _) = request("system:node:n2");
    let address = join(secret, "n2", &csr).send(&server).await;
    assert_eq!(address.failure(), (409, "Conflict"));
    let message = address.body["message"].as_str().unwrap();
    assert!(message.contains("172.30.0.11 is that of node \"n1\""), "{message}");
}

#[tokio::test]
async fn no_node_gets_a_name_of_the_server() {
    let server = server().await;
    let token = server.api.join_token();
    let secret = token.rsplit('.').next().unwrap();
    for name in ["kubernetes", "localhost", "api.example", "kubernetes.default.svc"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let pem = join(secret, name, &csr).send(&server).await.expect(200);
        let der = CertificateDer::from_pem_slice(pem.as_str().unwrap().as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(certificate.subject_alternative_name().unwrap().is_none(), "{name}");
    }
}

#[tokio::test]
async fn a_stranger_is_refused_before_the_body_is_read() {
    let server = server().await;
    let large = join("wrong", "n1", &"x".repeat(4 * 1024 * 1024)).send(&server).await;
    assert_eq!(large.failure(), (401, "Unauthorized"));
}

#[tokio::test]
async fn an_empty_secret_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { join_secret: Some(String::new()), ..config(dir.path()) };
    let server = Server { api: ApiServer::start(config).await.unwrap(), dir };
    let (csr, _) = request("system:node:n1");
    assert_eq!(join("", "n1", &csr).send(&server).await.failure(), (401, "Unauthorized"));
}

#[tokio::test]
async fn keys_and_store_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let server = server().await;
    for file in ["pki/ca.key", "pki/ca.crt", "pki/join-secret", "pki/sa.key", "store.redb"] {
        let mode = std::fs::metadata(server.dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn tls_clients_are_who_their_certificate_says() {
    // Several providers are in the build; the client needs to be told which.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = server().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let kubeconfig = server.api.admin_kubeconfig(&url).unwrap();
    let stop = CancellationToken::new();
    let (api, stopped) = (server.api.clone(), stop.clone());
    let serving = tokio::spawn(async move { api.serve(vec![listener], stopped).await });

    let config = kube::config::Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(config, &options).await.unwrap();
    config.proxy_url = None;
    let client = kube::Client::try_from(config.clone()).unwrap();
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::all(client);
    pods.list(&kube::api::ListParams::default()).await.unwrap();

    config.auth_info = kube::config::AuthInfo::default();
    let anonymous = kube::Client::try_from(config).unwrap();
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::all(anonymous);
    let refused = pods.list(&kube::api::ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 401), "{refused}");

    // An open stream does not hold up the end.
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap().unwrap();
}
