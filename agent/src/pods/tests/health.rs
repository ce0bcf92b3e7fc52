//! Probes of containers that run: what their answers do.

use std::sync::atomic::{AtomicU16, AtomicUsize};

use super::machine::eventually;
use super::*;

/// Asks every second and gives up at the second failure.
fn probe(action: &str, how: Value) -> Value {
    json!({action: how, "periodSeconds": 1, "failureThreshold": 2})
}

fn checked(machine: &Machine, name: &str, script: &str, kind: &str, probe: Value) -> Pod {
    let mut container = json!({"name": "c", "image": machine.image(),
        "command": ["/bin/sh", "-c", script],
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    container[kind] = probe;
    let shared = json!([{"name": "shared", "hostPath": {"path": machine.shared()}}]);
    pod(
        name,
        json!({"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": shared}),
    )
}

/// An HTTP server that answers what it is told to, and counts the questions.
struct Answers {
    code: AtomicU16,
    asked: AtomicUsize,
}

impl Answers {
    /// Serves on loopback, where probes of these pods are dialed, until the test ends.
    async fn serve() -> (Arc<Self>, u16) {
        let answers = Arc::new(Self { code: AtomicU16::new(404), asked: AtomicUsize::new(0) });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = answers.clone();
        let answer = move || {
            own.asked.fetch_add(1, Ordering::Relaxed);
            let code = own.code.load(Ordering::Relaxed);
            async move { http::StatusCode::from_u16(code).unwrap() }
        };
        let router = axum::Router::new().route("/ready", axum::routing::get(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (answers, port)
    }

    /// Waits for enough questions to reach the threshold from now on.
    async fn wait_asked(&self) {
        let enough = self.asked.load(Ordering::Relaxed) + 4;
        let begun = Instant::now();
        while self.asked.load(Ordering::Relaxed) < enough {
            assert!(begun.elapsed() < SOON, "the probe asks no more");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Restarted once, for the reason that the events give, in this order.
fn assert_restarted(api: &Api, pod: &str) {
    let events = api.events(pod);
    let at = |reason: &str| events.iter().position(|event| event == reason);
    let (unhealthy, killing) = (at("Unhealthy"), at("Killing"));
    assert!(unhealthy.is_some() && unhealthy < killing, "{pod}: {events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, containerd, runc, docker-registry, skopeo, busybox-static"]
async fn unhealthy_containers_are_restarted() {
    let machine = Machine::start();
    let api = Api::default();
    let manager = machine.manager(&api).await;
    let (http, closed) = (machine.port(), machine.port());
    let health = machine.shared().join("health");
    // Each run of the container is healthy at its start.
    let serve = format!("echo ok > /shared/health; exec httpd -f -p 127.0.0.1:{http} -h /shared");
    let get = probe("httpGet", json!({"port": http, "path": "/health"}));
    let served = checked(&machine, "served", &serve, "livenessProbe", get);
    let connect = probe("tcpSocket", json!({"port": closed}));
    let deaf = checked(&machine, "deaf", "sleep 1000", "livenessProbe", connect);
    manager.set_desired(vec![Arc::new(served.clone()), Arc::new(deaf)]);

    // Nothing listens at all.
    let restarted =
        |status: &PodStatus| status.container_statuses.is_some() && container_of(status).1 == 1;
    api.wait("deaf", SOON, restarted).await;
    assert_restarted(&api, "deaf");
    manager.set_desired(vec![Arc::new(served)]);
    machine.wait_until_gone("deaf").await;

    // The server answers all the time, and then "not found".
    let before = api.wait("served", SOON, is_ready).await;
    eventually("the server is asked", || health.exists());
    assert_eq!(container_of(&before).1, 0);
    assert!(!api.events("served").contains(&"Unhealthy".to_owned()));
    std::fs::remove_file(&health).unwrap();
    let after = api.wait("served", SOON, |status| restarted(status) && is_ready(status)).await;
    assert_restarted(&api, "served");
    assert_ne!(container_of(&after).0, container_of(&before).0);
    eventually("the server is asked", || health.exists());

    manager.set_desired(vec![]);
    machine.wait_until_gone("served").await;
    manager.shutdown().await;
    machine.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, containerd, runc, docker-registry, skopeo, busybox-static"]
async fn readiness_follows_the_answers() {
    let machine = Machine::start();
    let api = Api::default();
    let manager = machine.manager(&api).await;
    let (answers, port) = Answers::serve().await;
    let get = probe("httpGet", json!({"port": port, "path": "/ready"}));
    let asked = checked(&machine, "asked", "sleep 1000", "readinessProbe", get);
    manager.set_desired(vec![Arc::new(asked)]);

    let runs = |status: &PodStatus| status.phase.as_deref() == Some("Running");
    api.wait("asked", SOON, runs).await;
    for code in [404, 500] {
        answers.code.store(code, Ordering::Relaxed);
        answers.wait_asked().await;
        assert!(!is_ready(&api.status("asked")), "{code}");
    }
    answers.code.store(200, Ordering::Relaxed);
    api.wait("asked", SOON, is_ready).await;
    for code in [500, 404] {
        answers.code.store(code, Ordering::Relaxed);
        api.wait("asked", SOON, |status| !is_ready(status)).await;
        answers.code.store(204, Ordering::Relaxed);
        api.wait("asked", SOON, is_ready).await;
    }
    // None of this is a reason to end it.
    assert_eq!(container_of(&api.status("asked")).1, 0);
    let events = api.events("asked");
    assert!(events.iter().any(|event| event == "Unhealthy"), "{events:?}");
    assert!(!events.iter().any(|event| event == "Killing"), "{events:?}");

    manager.set_desired(vec![]);
    machine.wait_until_gone("asked").await;
    manager.shutdown().await;
    machine.assert_clean();
}
