//! Cluster addresses and node ports.

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name },
        "spec": { "selector": { "App": "Nifty" }, "ports": [{ "port": 80, "targetPort": 9376 }] },
    });
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

async fn create(server: &Server, name: &str, spec: Value) -> Answer {
    call("POST", SERVICES).json(&service(name, spec)).send(server).await
}

#[tokio::test]
async fn the_asked_address_is_given_once_and_freed_by_the_delete() {
    let server = server().await;
    let asked = json!({ "clusterIP": "10.9.8.7" });
    let made = create(&server, "nifty-svc", asked.clone()).await.expect(201);
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.9.8.7"]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    let taken = create(&server, "other", asked.clone()).await;
    assert_eq!(taken.failure(), (422, "Invalid"));
    let message = taken.body["message"].as_str().unwrap();
    assert!(message.ends_with("provided IP is already allocated"), "{message}");
    call("DELETE", &format!("{SERVICES}/nifty-svc")).send(&server).await.expect(200);
    create(&server, "other", asked).await.expect(201);
    let outside = create(&server, "outside", json!({ "clusterIP": "10.10.0.1" })).await;
    assert_eq!(outside.failure(), (422, "Invalid"));
    let message = outside.body["message"].as_str().unwrap();
    assert!(message.contains("The range of valid IPs is 10.9.0.0/16"), "{message}");
}

#[tokio::test]
async fn addresses_are_unique_stay_and_can_be_none() {
    let server = server().await;
    let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    let made = names.iter().map(|name| create(&server, name, json!({})));
    let mut addresses = std::collections::HashSet::new();
    for answer in futures::future::join_all(made).await {
        let made = answer.expect(201);
        let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
        assert!(address.starts_with("10.9."), "{address}");
        addresses.insert(address);
    }
    assert_eq!(addresses.len(), 20);

    let path = format!("{SERVICES}/s0");
    let before = call("GET", &path).send(&server).await.expect(200);
    // A writer that does not know the address leaves it as it is.
    let updated = call("PUT", &path)
        .json(&service("s0", json!({ "ports": [{ "port": 81 }] })))
        .send(&server)
        .await
        .expect(200);
    assert_eq!(updated["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    let headless = create(&server, "headless", json!({ "clusterIP": "None" })).await.expect(201);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn node_ports_are_given_and_taken_back() {
    let server = server().await;
    let made = create(&server, "a", json!({ "type": "NodePort" })).await.expect(201);
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..=32_767).contains(&port), "{port}");
    let same = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": port }] });
    assert_eq!(create(&server, "b", same).await.failure(), (422, "Invalid"));
    let low = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 80 }] });
    assert_eq!(create(&server, "b", low).await.failure(), (422, "Invalid"));
    let plain = call("PUT", &format!("{SERVICES}/a")).json(&service("a", json!({})));
    let plain = plain.send(&server).await.expect(200);
    assert_eq!(plain["spec"]["ports"][0]["nodePort"], Value::Null);
}

#[tokio::test]
async fn the_cluster_has_its_first_objects() {
    let server = server().await;
    let read = |path: &'static str| call("GET", path).send(&server);
    let kubernetes = read("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.9.0.1");
    assert_eq!(kubernetes["spec"]["ports"][0]["targetPort"], 6443);
    let dns = read("/api/v1/namespaces/kube-system/services/kube-dns").await.expect(200);
    assert_eq!(dns["spec"]["clusterIP"], "10.9.0.10");
    let endpoints = read("/api/v1/namespaces/default/endpoints/kubernetes").await.expect(200);
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "172.30.0.1");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(read(slice).await.expect(200)["ports"][0]["port"], 6443);
}

#[tokio::test]
async fn another_service_range_is_refused() {
    let Server { api, dir } = server().await;
    drop(api);
    let changed = Config { service_cidr: "10.10.0.0/16".parse().unwrap(), ..config(dir.path()) };
    let refused = loop {
        match ApiServer::start(changed.clone()).await {
            Err(crate::StartFailed::Store(crate::OpenFailed::InUse { .. })) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(other) => break other.to_string(),
            Ok(_) => panic!("the range had changed"),
        }
    };
    assert!(refused.contains("10.9.0.1") && refused.contains("10.10.0.1"), "{refused}");
}

fn dual_config(dir: &Path) -> Config {
    Config { service_cidr: "10.9.0.0/16,fd00:10:9::/112".parse().unwrap(), ..config(dir) }
}

async fn dual_server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::start(dual_config(dir.path())).await.unwrap();
    Server { api, dir }
}

/// The families, and whether each address is of its family.
fn families(service: &Value) -> Vec<&str> {
    let spec = &service["spec"];
    assert_eq!(spec["clusterIP"], spec["clusterIPs"][0]);
    let families: Vec<&str> =
        spec["ipFamilies"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    let addresses = spec["clusterIPs"].as_array().unwrap();
    assert_eq!(addresses.len(), families.len(), "{spec}");
    for (address, family) in addresses.iter().zip(&families) {
        let start = if *family == "IPv6" { "fd00:10:9::" } else { "10.9." };
        assert!(address.as_str().unwrap().starts_with(start), "{spec}");
    }
    families
}

#[tokio::test]
async fn families_and_policies_of_a_dual_stack_cluster() {
    let server = dual_server().await;
    let table: [(Value, &str, &[&str]); 7] = [
        (json!({}), "SingleStack", &["IPv4"]),
        (json!({ "ipFamilies": ["IPv6"] }), "SingleStack", &["IPv6"]),
        (json!({ "clusterIP": "fd00:10:9::77" }), "SingleStack", &["IPv6"]),
        (json!({ "ipFamilyPolicy": "PreferDualStack" }), "PreferDualStack", &["IPv4", "IPv6"]),
        (json!({ "ipFamilyPolicy": "RequireDualStack" }), "RequireDualStack", &["IPv4", "IPv6"]),
        (
            json!({ "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"] }),
            "RequireDualStack",
            &["IPv6", "IPv4"],
        ),
        (
            json!({ "ipFamilyPolicy": "PreferDualStack",
                "clusterIPs": ["fd00:10:9::78", "10.9.8.8"] }),
            "PreferDualStack",
            &["IPv6", "IPv4"],
        ),
    ];
    for (index, (spec, policy, expected)) in table.into_iter().enumerate() {
        let made = create(&server, &format!("s{index}"), spec.clone()).await.expect(201);
        assert_eq!(made["spec"]["ipFamilyPolicy"], policy, "{spec}");
        assert_eq!(families(&made), expected, "{spec}");
    }
    let dns = "/api/v1/namespaces/kube-system/services/kube-dns";
    let dns = call("GET", dns).send(&server).await.expect(200);
    assert_eq!(dns["spec"]["clusterIPs"], json!(["10.9.0.10", "fd00:10:9::a"]));
    let taken = create(&server, "t", json!({ "clusterIP": "fd00:10:9::78" })).await;
    assert_eq!(taken.failure(), (422, "Invalid"));
    // Whoever writes the endpoints of a service without selector says their families.
    let mut headless = service("h", json!({ "clusterIP": "None" }));
    headless["spec"].as_object_mut().unwrap().remove("selector");
    let made = call("POST", SERVICES).json(&headless).send(&server).await.expect(201);
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(made["spec"]["ipFamilyPolicy"], "RequireDualStack");
}

#[tokio::test]
async fn a_single_stack_cluster_says_what_it_lacks() {
    let server = server().await;
    let made = create(&server, "a", json!({ "ipFamilyPolicy": "PreferDualStack" })).await;
    assert_eq!(families(&made.expect(201)), ["IPv4"]);
    let table = [
        (
            json!({ "ipFamilyPolicy": "RequireDualStack" }),
            "spec.ipFamilyPolicy",
            "this cluster is not configured for dual-stack services",
        ),
        (json!({ "ipFamilies": ["IPv6"] }), "spec.ipFamilies[0]", "not configured on this cluster"),
        (json!({ "clusterIP": "fd00::7" }), "spec.ipFamilies[0]", "not configured on this cluster"),
    ];
    for (spec, field, why) in table {
        let refused = create(&server, "b", spec.clone()).await;
        assert_eq!(refused.failure(), (422, "Invalid"), "{spec}");
        assert_eq!(refused.body["details"]["causes"][0]["field"], field, "{spec}");
        assert!(refused.body["message"].as_str().unwrap().contains(why), "{}", refused.body);
    }
}

#[tokio::test]
async fn a_second_address_comes_and_goes_with_the_policy_and_outlives_the_server() {
    let server = dual_server().await;
    let path = format!("{SERVICES}/a");
    let single = create(&server, "a", json!({})).await.expect(201);
    let change = |policy: &'static str| {
        let mut wanted = service("a", json!({ "ipFamilyPolicy": policy }));
        wanted["metadata"]["resourceVersion"] = json!("");
        call("PUT", &path).json(&wanted)
    };
    let dual = change("RequireDualStack").send(&server).await.expect(200);
    assert_eq!(families(&dual), ["IPv4", "IPv6"]);
    assert_eq!(dual["spec"]["clusterIP"], single["spec"]["clusterIP"]);
    let second = dual["spec"]["clusterIPs"][1].clone();
    // Said again, it stays the same.
    let again = change("RequireDualStack").send(&server).await.expect(200);
    assert_eq!(again["spec"], dual["spec"]);

    let Server { api, dir } = server;
    drop(api);
    let api = loop {
        match ApiServer::start(dual_config(dir.path())).await {
            Err(crate::StartFailed::Store(crate::OpenFailed::InUse { .. })) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => break other.unwrap(),
        }
    };
    let server = Server { api, dir };
    let asked = json!({ "clusterIP": second });
    assert_eq!(create(&server, "thief", asked.clone()).await.failure(), (422, "Invalid"));
    let released = change("SingleStack").send(&server).await.expect(200);
    assert_eq!(families(&released), ["IPv4"]);
    create(&server, "heir", asked).await.expect(201);
}

#[tokio::test]
async fn sctp_is_accepted_with_a_warning() {
    let server = server().await;
    let ports = json!({ "ports": [{ "port": 80, "name": "a" },
        { "port": 81, "name": "b", "protocol": "SCTP" }] });
    let warns = |answer: &Answer| {
        let warning = answer.headers["warning"].to_str().unwrap();
        let expected = "299 - \"spec.ports[1].protocol: SCTP is not balanced";
        assert!(warning.starts_with(expected), "{warning}");
    };
    let made = create(&server, "s", ports.clone()).await;
    warns(&made);
    made.expect(201);
    let plain = create(&server, "t", json!({})).await;
    assert!(plain.headers.get("warning").is_none());
    plain.expect(201);

    // The same of a service that becomes one, or is touched as one, by whatever verb.
    let path = format!("{SERVICES}/t");
    let mut wanted = service("t", ports);
    wanted["metadata"]["resourceVersion"] = json!("");
    let put = call("PUT", &path).json(&wanted).send(&server).await;
    warns(&put);
    assert_eq!(put.expect(200)["spec"]["ports"][1]["protocol"], "SCTP");
    let patch = |patch: Value| {
        let patched = call("PATCH", &path).header("content-type", "application/merge-patch+json");
        patched.json(&patch)
    };
    let labelled = patch(json!({ "metadata": { "labels": { "a": "b" } } })).send(&server).await;
    warns(&labelled);
    labelled.expect(200);
    let back = patch(json!({ "spec": { "ports": [{ "port": 80 }] } })).send(&server).await;
    assert!(back.headers.get("warning").is_none());
    back.expect(200);
}

#[tokio::test]
async fn the_way_to_the_server_is_made_again() {
    let server = server().await;
    let range = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let read = |path: &'static str| call("GET", path).send(&server);
    let stored = read(range).await.expect(200);
    assert_eq!(stored["spec"]["cidrs"], json!(["10.9.0.0/16"]));
    let ready = &stored["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));

    let service = "/api/v1/namespaces/default/services/kubernetes";
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let paths = [range, service, endpoints, slice];
    let mut before = Vec::new();
    for path in paths {
        before.push(read(path).await.expect(200));
        call("DELETE", path).send(&server).await.expect(200);
    }
    let started = std::time::Instant::now();
    for (path, before) in paths.into_iter().zip(before) {
        let again = loop {
            let answer = read(path).await;
            if answer.code == 200 && (path != range || answer.body["status"] != json!({})) {
                break answer.body;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{path}: {}", answer.body);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_ne!(again["metadata"]["uid"], before["metadata"]["uid"], "{path}");
        for field in ["spec", "subsets", "endpoints"] {
            assert_eq!(again[field], before[field], "{path}");
        }
    }
    // And then nothing is written.
    let version = |list: Value| list["metadata"]["resourceVersion"].clone();
    let before = version(read("/api/v1/namespaces").await.expect(200));
    tokio::time::sleep(Duration::from_millis(4500)).await;
    let after = version(read("/api/v1/namespaces").await.expect(200));
    assert_eq!(before, after);
}
