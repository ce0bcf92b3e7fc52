//! What the containers of a pod have in common, and what they have not.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// Serves one file, and leaves a word in the pod's shared memory; says what was there before.
const SERVER: &str = "exec 2> /dev/null; echo \"found $(cat /dev/shm/x)\"; mkdir /w; \
                      echo served > /w/index.html; echo shared > /dev/shm/x; \
                      exec httpd -f -p 127.0.0.1:80 -h /w";
/// Says what it gets of the other container.
const READER: &str = "exec 2> /dev/null; \
                      until busybox wget -q -O - http://127.0.0.1/; do sleep 0.05; done; \
                      until cat /dev/shm/x; do sleep 0.05; done; sleep 1000";
const SHM_BYTES: u64 = 64 << 20;

fn two(machine: &Machine, name: &str, host_ipc: bool) -> Pod {
    let container = |name: &str, script: &str| {
        let command = ["/bin/sh", "-c", script];
        json!({"name": name, "image": machine.image(), "command": command})
    };
    let (server, reader) = if host_ipc { ("sleep 1000", "sleep 1000") } else { (SERVER, READER) };
    pod(
        name,
        json!({
            "hostIPC": host_ipc,
            "terminationGracePeriodSeconds": 0,
            "containers": [container("server", server), container("reader", reader)],
        }),
    )
}

/// Restart counts of the server and the reader.
fn restarts(status: &PodStatus) -> Vec<i32> {
    status.container_statuses.iter().flatten().map(|container| container.restart_count).collect()
}

/// The first processes of the server and the reader.
fn processes(machine: &Machine, status: &PodStatus) -> [i32; 2] {
    let containers = status.container_statuses.as_ref().unwrap();
    let id = |index: usize| containers[index].container_id.as_deref().unwrap();
    [machine.process(id(0)), machine.process(id(1))]
}

fn namespace(process: &str, kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
    link.to_string_lossy().into_owned()
}

/// What a process has at `/dev/shm`, as it is seen from outside.
fn shm_of(process: i32) -> PathBuf {
    Path::new("/proc").join(process.to_string()).join("root").join("dev/shm")
}

fn device(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().dev()
}

fn assert_shared([server, reader]: [i32; 2]) {
    let (server, reader) = (server.to_string(), reader.to_string());
    for kind in ["net", "ipc", "uts"] {
        let common = namespace(&server, kind);
        assert_eq!(common, namespace(&reader, kind), "{kind}");
        assert_ne!(common, namespace("self", kind), "{kind}");
    }
    for kind in ["mnt", "pid"] {
        assert_ne!(namespace(&server, kind), namespace(&reader, kind), "{kind}");
        assert_ne!(namespace(&server, kind), namespace("self", kind), "{kind}");
    }
}

async fn wait_for_log(manager: &Arc<PodManager>, container: &str, text: &str) {
    let path = format!("/containerLogs/default/pair/{container}");
    let begun = Instant::now();
    loop {
        let (_, log) = log_of(manager, &path).await;
        if log == text {
            return;
        }
        assert!(begun.elapsed() < SOON, "{container} says {log:?}, not {text:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, containerd, runc, docker-registry, skopeo, busybox-static"]
async fn containers_of_a_pod_share_its_namespaces() {
    let machine = Machine::start();
    let api = Api::default();
    let network = Arc::new(machine.lone_sandboxes());
    let manager = machine.manager_on(&api, network.clone()).await;
    let pair = two(&machine, "pair", false);
    let host = two(&machine, "host", true);
    manager.set_desired(vec![Arc::new(pair.clone()), Arc::new(host.clone())]);
    let status = api.wait("pair", SOON, is_ready).await;
    wait_for_log(&manager, "reader", "served\nshared\n").await;
    let before = processes(&machine, &status);
    assert_shared(before);
    for process in before {
        let shm = shm_of(process);
        let stat = nix::sys::statvfs::statvfs(&shm).unwrap();
        assert_eq!(stat.blocks() * stat.fragment_size(), SHM_BYTES);
        assert_eq!(std::fs::metadata(shm).unwrap().mode() & 0o7777, 0o1777);
    }

    // One container ends: the other does not notice, and what both stand on stays.
    kill(Pid::from_raw(before[0]), Signal::SIGKILL).unwrap();
    let again = |status: &PodStatus| restarts(status) == [1, 0] && is_ready(status);
    let status = api.wait("pair", SOON, again).await;
    wait_for_log(&manager, "server", "found shared\n").await;
    let after = processes(&machine, &status);
    assert_eq!(after[1], before[1]);
    assert_shared(after);

    // What the node's processes share is the node's, and nothing else is.
    let status = api.wait("host", SOON, is_ready).await;
    for process in processes(&machine, &status) {
        assert_eq!(device(&shm_of(process)), device(Path::new("/dev/shm")));
        assert_eq!(namespace(&process.to_string(), "ipc"), namespace("self", "ipc"));
        assert_ne!(namespace(&process.to_string(), "uts"), namespace("self", "uts"));
    }

    // An agent that takes the pod over takes its memory over.
    manager.shutdown().await;
    let manager = machine.manager_on(&api, network).await;
    let adopted = [&pair, &host].map(|pod| Arc::new(api.with_status(pod)));
    manager.set_desired(adopted.into());
    kill(Pid::from_raw(after[1]), Signal::SIGKILL).unwrap();
    api.wait("pair", SOON, |status| restarts(status) == [1, 1] && is_ready(status)).await;
    wait_for_log(&manager, "reader", "served\nshared\n").await;
    assert_eq!(restarts(&api.status("host")), [0, 0]);

    manager.set_desired(vec![]);
    machine.wait_until_gone("pair").await;
    machine.wait_until_gone("host").await;
    manager.shutdown().await;
    machine.assert_clean();
}
