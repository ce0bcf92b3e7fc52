//! Pods on a real containerd, pulled from a real registry, with an API made of a few routes.
//!
//! Needs root, containerd, runc, docker-registry, skopeo and a static busybox. Everything runs in
//! a directory, a containerd and a cgroup of the test's own and is gone afterwards.

mod api;
mod health;
mod machine;
mod sharing;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::status::condition_status;
use super::{PodManager, Sandboxes, log_router};
use crate::network::{PodIdentity, Sandbox};
use api::Api;
use machine::Machine;

const SOON: Duration = Duration::from_secs(20);

/// A pod's object as the API would hand it to the agent.
fn pod(name: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": spec,
    }))
    .unwrap()
}

fn web(machine: &Machine, name: &str, port: u16) -> Pod {
    let script = format!(
        "echo hello from {name}; mkdir /w; echo ok > /w/index.html; \
         trap 'echo stopping; exit 0' TERM; httpd -p 127.0.0.1:{port} -h /w; \
         while true; do sleep 0.1; done"
    );
    pod(
        name,
        json!({"containers": [{
            "name": "web", "image": machine.image(), "command": ["/bin/sh", "-c", script],
            "readinessProbe": {"httpGet": {"port": port, "path": "/"}, "periodSeconds": 1},
            "livenessProbe": {"tcpSocket": {"port": port}},
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        }]}),
    )
}

fn is_ready(status: &PodStatus) -> bool {
    condition_status(status, "Ready") == Some("True")
}

fn waiting(status: &PodStatus) -> &str {
    let container = status.container_statuses.iter().flatten().next();
    let state = container.and_then(|container| container.state.as_ref()?.waiting.as_ref());
    state.and_then(|waiting| waiting.reason.as_deref()).unwrap_or("")
}

fn container_of(status: &PodStatus) -> (String, i32) {
    let container = &status.container_statuses.as_ref().unwrap()[0];
    (container.container_id.clone().unwrap_or_default(), container.restart_count)
}

async fn log_of(manager: &Arc<PodManager>, path: &str) -> (u16, String) {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let answer = log_router(manager.clone()).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn deleted(pod: &Pod, grace: i64) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    Arc::new(pod)
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, containerd, runc, docker-registry, skopeo, busybox-static"]
async fn pods_live_and_leave_nothing() {
    let machine = Machine::start();
    let api = Api::default();
    let manager = machine.manager(&api).await;
    manager.set_desired(vec![]);

    // A cold start pulls from the registry; the pod becomes ready and its log can be read.
    let first = web(&machine, "first", machine.port());
    manager.set_desired(vec![Arc::new(first.clone())]);
    let status = api.wait("first", SOON, is_ready).await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert!(container.image_id.contains("@sha256:"), "{}", container.image_id);
    let (code, log) = log_of(&manager, "/containerLogs/default/first/web").await;
    assert_eq!((code, log.as_str()), (200, "hello from first\n"));
    let path = "/containerLogs/default/first/web?timestamps=true&sinceSeconds=60&tailLines=5";
    let (code, log) = log_of(&manager, path).await;
    assert!(code == 200 && log.starts_with("20") && log.ends_with("Z hello from first\n"), "{log}");
    assert_eq!(log_of(&manager, "/containerLogs/default/none/web").await.0, 404);
    assert_eq!(log_of(&manager, "/containerLogs/default/first/web?previous=true").await.0, 400);
    let limit = machine.cgroup_file("uid-first", "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit.trim(), "67108864");
    has_half_a_cpu(&machine, "uid-first");

    starts_are_quick(&machine, &api, &manager, &first).await;

    // Another agent takes over what runs, and restarts nothing.
    let before = container_of(&api.status("first"));
    manager.shutdown().await;
    let manager = machine.manager(&api).await;
    manager.set_desired(vec![Arc::new(api.with_status(&first))]);
    for quick in ["quick0", "quick1", "quick2"] {
        // It was not among the desired pods: gone from the API while the agent was away.
        machine.wait_until_gone(quick).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(container_of(&api.status("first")), before);
    assert!(is_ready(&api.status("first")));

    // Deletion: SIGTERM, the last words in the log, the pod leaves the API, nothing is left.
    manager.set_desired(vec![deleted(&first, 10)]);
    let begun = Instant::now();
    api.wait_deleted("first", SOON).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    machine.wait_until_gone("first").await;
    let events = api.events("first");
    for reason in ["Pulling", "Pulled", "Created", "Started", "Killing"] {
        assert!(events.iter().any(|event| event == reason), "{reason} is not in {events:?}");
    }
    manager.shutdown().await;
    machine.assert_clean();
}

/// The limit as a quota, and the request, which equals it, as the weight against others.
fn has_half_a_cpu(machine: &Machine, uid: &str) {
    if Path::new("/sys/fs/cgroup/cpu").exists() {
        let value = |file: &str| machine.cgroup_file(uid, file, file).trim().to_owned();
        assert_eq!(value("cpu.cfs_quota_us"), "50000");
        assert_eq!(value("cpu.cfs_period_us"), "100000");
        assert_eq!(value("cpu.shares"), "512");
    } else {
        assert_eq!(machine.cgroup_file(uid, "cpu.max", "cpu.max").trim(), "50000 100000");
        // runc has translated shares in two ways.
        let weight = machine.cgroup_file(uid, "cpu.weight", "cpu.weight");
        assert!(["20", "59"].contains(&weight.trim()), "{weight}");
    }
}

async fn starts_are_quick(machine: &Machine, api: &Api, manager: &Arc<PodManager>, first: &Pod) {
    let mut desired = vec![Arc::new(first.clone())];
    for index in 0..3 {
        desired.push(Arc::new(web(machine, &format!("quick{index}"), machine.port())));
    }
    let begun = Instant::now();
    manager.set_desired(desired);
    for index in 0..3 {
        api.wait(&format!("quick{index}"), SOON, is_ready).await;
    }
    let took = begun.elapsed();
    eprintln!("three pods with a warm image: {took:?} from bind to Ready");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, containerd, runc, docker-registry, skopeo, busybox-static"]
async fn troubles_have_names() {
    let machine = Machine::start();
    let api = Api::default();
    let manager = machine.manager(&api).await;
    manager.set_desired(vec![]);
    let image = machine.image();
    let run = |name: &str, policy: &str, image: &str, script: &str| {
        let container = json!({"name": "c", "image": image, "command": ["/bin/sh", "-c", script]});
        Arc::new(pod(name, json!({"restartPolicy": policy, "containers": [container]})))
    };
    let missing = image.replace("busybox", "nothing");
    let mut pods = vec![
        run("crash", "Always", &image, "echo run; exit 3"),
        run("done", "Never", &image, "echo fin > /dev/termination-log"),
        run("bad", "Never", &image, "exit 7"),
        run("missing", "Always", &missing, "true"),
        run("invalid", "Always", "UPPER/Case:x", "true"),
    ];
    let no_command = json!({"containers": [{"name": "c", "image": image, "command": ["/none"]}]});
    pods.push(Arc::new(pod("noexec", no_command)));
    let no_map = json!({"containers": [{"name": "c", "image": image, "envFrom":
        [{"configMapRef": {"name": "absent"}}]}]});
    pods.push(Arc::new(pod("nomap", no_map)));
    let init = json!({"initContainers": [{"name": "i", "image": image,
        "command": ["/bin/sh", "-c", "echo made > /v/file"],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "containers": [{"name": "c", "image": image, "command": ["/bin/sh", "-c",
            "cat /v/file; echo $POD $(hostname); cat /etc/resolv.conf; sleep 1000"],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}],
        "volumes": [{"name": "v", "emptyDir": {}}]});
    pods.push(Arc::new(pod("init", init)));
    manager.set_desired(pods);

    let status = api.wait("crash", SOON, |status| waiting(status) == "CrashLoopBackOff").await;
    let crashed = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(crashed.restart_count, 1);
    let last = crashed.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    let (_, log) = log_of(&manager, "/containerLogs/default/crash/c?previous=true").await;
    assert_eq!(log, "run\n");

    let status = api.wait("done", SOON, |s| s.phase.as_deref() == Some("Succeeded")).await;
    let end = &status.container_statuses.as_ref().unwrap()[0];
    let end = end.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((end.exit_code, end.message.as_deref()), (0, Some("fin\n")));
    api.wait("bad", SOON, |status| status.phase.as_deref() == Some("Failed")).await;
    api.wait("missing", SOON, |status| waiting(status) == "ErrImagePull").await;
    api.wait("invalid", SOON, |status| waiting(status) == "InvalidImageName").await;
    api.wait("nomap", SOON, |s| waiting(s) == "CreateContainerConfigError").await;
    api.wait("noexec", SOON, |status| waiting(status) == "CrashLoopBackOff").await;
    api.wait("init", SOON, is_ready).await;
    let (_, log) = log_of(&manager, "/containerLogs/default/init/c").await;
    assert!(log.starts_with("made\ninit init\nnameserver 10.9.0.10\n"), "{log}");

    // All at once: gone from the API without a word.
    manager.set_desired(vec![]);
    for name in ["crash", "done", "bad", "missing", "invalid", "noexec", "nomap", "init"] {
        machine.wait_until_gone(name).await;
    }
    manager.shutdown().await;
    machine.assert_clean();
}

/// A network whose first acts panic.
struct Panicking {
    network: machine::HostSandboxes,
    set_ups: AtomicU32,
    tear_downs: AtomicU32,
}

impl Sandboxes for Panicking {
    fn set_up<'a>(&'a self, pod: &'a PodIdentity) -> BoxFuture<'a, Result<Sandbox, String>> {
        assert!(self.set_ups.fetch_add(1, Ordering::Relaxed) > 0, "the first set-up panics");
        self.network.set_up(pod)
    }

    fn tear_down<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>> {
        assert!(self.tear_downs.fetch_add(1, Ordering::Relaxed) > 0, "the first removal panics");
        self.network.tear_down(uid)
    }

    fn list(&self) -> Vec<(String, Sandbox)> {
        self.network.list()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, containerd, runc, docker-registry, skopeo, busybox-static"]
async fn a_panic_is_a_failure_that_is_tried_again() {
    let machine = Machine::start();
    let api = Api::default();
    let network = Panicking {
        network: machine.sandboxes(),
        set_ups: AtomicU32::new(0),
        tear_downs: AtomicU32::new(0),
    };
    let manager = machine.manager_on(&api, Arc::new(network)).await;
    let unlucky = web(&machine, "unlucky", machine.port());
    manager.set_desired(vec![Arc::new(unlucky.clone())]);
    api.wait("unlucky", SOON, is_ready).await;
    let events = api.events("unlucky");
    assert!(events.iter().any(|event| event == "FailedCreatePodSandBox"), "{events:?}");
    manager.set_desired(vec![deleted(&unlucky, 10)]);
    api.wait_deleted("unlucky", SOON).await;
    machine.wait_until_gone("unlucky").await;
    manager.shutdown().await;
    machine.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, containerd, runc, docker-registry, skopeo, busybox-static"]
async fn a_shorter_grace_runs_no_hook_again() {
    let machine = Machine::start();
    let api = Api::default();
    let manager = machine.manager(&api).await;
    let shared = machine.shared();
    let slow = pod(
        "slow",
        json!({"containers": [{
            "name": "c", "image": machine.image(),
            // A shell that is process 1 and sets no trap does not end on SIGTERM.
            "command": ["/bin/sh", "-c", "while true; do sleep 0.1; done"],
            "lifecycle": {"preStop": {"exec": {
                "command": ["/bin/sh", "-c", "echo ran >> /shared/hook"]}}},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }], "volumes": [{"name": "shared", "hostPath": {"path": shared}}]}),
    );
    manager.set_desired(vec![Arc::new(slow.clone())]);
    api.wait("slow", SOON, is_ready).await;
    manager.set_desired(vec![deleted(&slow, 600)]);
    let hook = || std::fs::read_to_string(shared.join("hook")).unwrap_or_default();
    let begun = Instant::now();
    while hook().is_empty() {
        assert!(begun.elapsed() < SOON, "the hook did not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for grace in [500, 1] {
        manager.set_desired(vec![deleted(&slow, grace)]);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    api.wait_deleted("slow", SOON).await;
    assert_eq!(hook(), "ran\n");
    machine.wait_until_gone("slow").await;
    manager.shutdown().await;
    machine.assert_clean();
}
