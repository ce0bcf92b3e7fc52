//! A containerd, a registry with one image, and a cgroup, all of one test.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};

use super::super::{ClusterDns, PodManager, PodsConfig, Sandboxes};
use super::api::Api;
use crate::network::{PodIdentity, Sandbox, mount_shm, unmount_shm};
use crate::runtime::{Containerd, ContainerdConfig, Runtime as _};

const SHUTDOWN: Duration = Duration::from_secs(5);
static MACHINES: AtomicU32 = AtomicU32::new(0);

pub(super) struct Machine {
    dir: PathBuf,
    cgroup: PathBuf,
    registry: String,
    children: Vec<Child>,
    managers: Mutex<Vec<Arc<PodManager>>>,
}

impl Machine {
    pub(super) fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        // The registry client takes the process's own, as the binary sets it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let name = format!("bowline-pods-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let registry = format!("127.0.0.1:{}", free_port());
        let mut machine = Self {
            dir,
            cgroup: Path::new("/").join(name),
            registry,
            children: Vec::new(),
            managers: Mutex::default(),
        };
        machine.start_containerd();
        machine.start_registry();
        machine.push_image();
        machine
    }

    fn spawn(&mut self, command: &mut Command, log: &str) {
        let log = std::fs::File::create(self.dir.join(log)).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        self.children.push(child.spawn().expect("the program is installed"));
    }

    fn start_containerd(&mut self) {
        let dir = self.dir.display();
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{dir}/containerd.sock\"\n[ttrpc]\naddress = \"{dir}/ttrpc.sock\"\n"
        );
        let file = self.dir.join("containerd.toml");
        std::fs::write(&file, config).unwrap();
        self.spawn(Command::new("containerd").arg("--config").arg(file), "containerd.log");
        let socket = self.dir.join("containerd.sock");
        eventually("containerd listens", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    fn start_registry(&mut self) {
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: {}}}\n",
            self.dir.join("registry").display(),
            self.registry
        );
        let file = self.dir.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        self.spawn(Command::new("docker-registry").arg("serve").arg(file), "registry.log");
        let address = self.registry.clone();
        eventually("the registry listens", || std::net::TcpStream::connect(&address).is_ok());
    }

    /// One layer with a static busybox, as an OCI layout, pushed by skopeo.
    fn push_image(&self) {
        let root = self.dir.join("rootfs");
        for dir in ["bin", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for tool in ["sh", "httpd", "sleep", "cat", "mkdir", "hostname", "true"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        let layer = self.dir.join("layer.tar");
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&layer).arg("."));
        let layout = self.dir.join("layout");
        let blobs = layout.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let store = |data: &[u8]| {
            let digest: String =
                Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
            std::fs::File::create(blobs.join(&digest)).unwrap().write_all(data).unwrap();
            (format!("sha256:{digest}"), data.len())
        };
        let (layer, layer_size) = store(&std::fs::read(&layer).unwrap());
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let (config, config_size) = store(config.to_string().as_bytes());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": config, "size": config_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": layer, "size": layer_size}],
        });
        let (manifest, size) = store(manifest.to_string().as_bytes());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest, "size": size,
            "annotations": {"org.opencontainers.image.ref.name": "1"},
        }]});
        std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
        std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:1", layout.display()))
            .arg(format!("docker://{}", self.image()))
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY"));
    }

    pub(super) fn image(&self) -> String {
        format!("{}/busybox:1", self.registry)
    }

    /// A directory that tests share with pods.
    pub(super) fn shared(&self) -> PathBuf {
        let dir = self.dir.join("shared");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub(super) fn port(&self) -> u16 {
        free_port()
    }

    pub(super) async fn manager(&self, api: &Api) -> Arc<PodManager> {
        self.manager_on(api, Arc::new(self.sandboxes())).await
    }

    pub(super) fn sandboxes(&self) -> HostSandboxes {
        HostSandboxes::new(self.dir.join("sandboxes"))
    }

    /// Sandboxes that have a network of their own, with nothing in it but `lo`.
    pub(super) fn lone_sandboxes(&self) -> HostSandboxes {
        HostSandboxes { lone: true, ..self.sandboxes() }
    }

    pub(super) async fn manager_on(
        &self,
        api: &Api,
        network: Arc<dyn Sandboxes>,
    ) -> Arc<PodManager> {
        let config = PodsConfig {
            node_name: "node1".into(),
            node_ips: Ipv4Addr::LOCALHOST.into(),
            node_memory: 16 << 30,
            data_dir: self.dir.join("data"),
            cgroup_parent: self.cgroup.clone(),
            dns: ClusterDns {
                address: Ipv4Addr::new(10, 9, 0, 10),
                domain: "cluster.local".into(),
            },
            insecure_registries: vec![self.registry.clone()],
        };
        let runtime = Arc::new(self.containerd().await);
        let manager = PodManager::start(config, runtime, network, api.client()).await.unwrap();
        self.managers.lock().unwrap().push(manager.clone());
        manager
    }

    async fn containerd(&self) -> Containerd {
        let config = ContainerdConfig {
            socket: self.dir.join("containerd.sock"),
            namespace: "bowline-test".into(),
            runc_root: Some(self.dir.join("runc")),
        };
        Containerd::connect(&config).await.unwrap()
    }

    /// A file of the one container's cgroup, under its v1 or its v2 name.
    pub(super) fn cgroup_file(&self, uid: &str, v1: &str, v2: &str) -> String {
        for hierarchy in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"] {
            let pod = Path::new(hierarchy).join(self.cgroup.strip_prefix("/").unwrap()).join(uid);
            for container in std::fs::read_dir(pod).into_iter().flatten().flatten() {
                for file in [v1, v2] {
                    if let Ok(text) = std::fs::read_to_string(container.path().join(file)) {
                        return text;
                    }
                }
            }
        }
        panic!("no cgroup of {uid} has {v1} or {v2}");
    }

    /// The first process of a running container, which is named as a pod's status names it.
    pub(super) fn process(&self, container_id: &str) -> i32 {
        let own = container_id.strip_prefix("containerd://").unwrap();
        let tasks = self.ctr(&["tasks", "ls"]).unwrap();
        let tasks = String::from_utf8_lossy(&tasks.stdout).into_owned();
        let found = tasks.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == own).then_some(words.next()?)
        });
        found.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("no {own} in {tasks}"))
    }

    /// Waits until neither containerd nor the disk knows the pod.
    pub(super) async fn wait_until_gone(&self, name: &str) {
        let uid = format!("uid-{name}");
        let containerd = self.containerd().await;
        let begun = Instant::now();
        loop {
            let containers = containerd.containers().await.unwrap();
            let left = containers.iter().any(|container| container.key.pod_uid == uid)
                || self.dir.join("data/pods").join(&uid).exists()
                || self.dir.join("sandboxes").join(&uid).exists()
                || self.dir.join("data/logs").join(format!("default_{name}_{uid}")).exists();
            if !left {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(15), "{name} is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// No pod is left in any place where pods leave things.
    pub(super) fn assert_clean(&self) {
        let snapshots = self.ctr(&["snapshots", "ls"]).unwrap();
        let snapshots = String::from_utf8_lossy(&snapshots.stdout).into_owned();
        assert!(snapshots.contains("Committed"), "{snapshots}");
        assert!(!snapshots.contains("Active"), "{snapshots}");
        for dir in ["data/pods", "data/logs", "sandboxes", "runc/bowline-test"] {
            assert!(super::is_empty(&self.dir.join(dir)), "{dir} is not empty");
        }
        for mount in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let dir = mount.path().join(self.cgroup.strip_prefix("/").unwrap());
            let pods = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let left: Vec<_> = pods.filter(|entry| entry.path().is_dir()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        eventually("the shims end", || self.shims().is_empty());
    }

    /// Processes of this machine's shims: each names the socket that it reports to.
    fn shims(&self) -> Vec<i32> {
        let socket = self.dir.join("containerd.sock").into_os_string().into_encoded_bytes();
        let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mut words = line.split(|&byte| byte == 0);
            let is_shim = words.next()?.ends_with(b"containerd-shim-runc-v2");
            (is_shim && words.any(|word| word == socket)).then_some(pid)
        });
        processes.collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default();
            eprintln!("{}", log.lines().rev().take(15).collect::<Vec<_>>().join("\n"));
        }
        self.end_managers();
        self.kill_leftovers();
        for child in self.children.iter_mut().rev() {
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = child.wait();
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().rev() {
            let path = Path::new(line.split(' ').nth(4).unwrap_or_default());
            if path.starts_with(&self.dir) {
                let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        for mount in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_dirs(&mount.path().join(self.cgroup.strip_prefix("/").unwrap()));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Machine {
    /// After a failed test: whoever would start again what is killed.
    fn end_managers(&self) {
        let managers = std::mem::take(&mut *self.managers.lock().unwrap());
        for manager in managers {
            let ended = async { tokio::time::timeout(SHUTDOWN, manager.shutdown()).await };
            let runtime = tokio::runtime::Handle::current();
            if tokio::task::block_in_place(|| runtime.block_on(ended)).is_err() {
                eprintln!("a manager does not end; its containers may stay");
            }
        }
    }

    /// After a failed test: containers and their shims, found by the test's own containerd.
    fn kill_leftovers(&self) {
        let Ok(tasks) = self.ctr(&["tasks", "ls", "-q"]) else { return };
        for id in String::from_utf8_lossy(&tasks.stdout).split_whitespace() {
            let _ = self.ctr(&["tasks", "rm", "-f", id]);
        }
        for pid in self.shims() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
    }

    fn ctr(&self, args: &[&str]) -> std::io::Result<Output> {
        let socket = self.dir.join("containerd.sock");
        let mut command = Command::new("ctr");
        command.arg("-a").arg(socket).args(["-n", "bowline-test"]).args(args).output()
    }
}

/// A failed test leaves cgroups of its pods; only directories can be removed in a hierarchy.
fn remove_dirs(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_dirs(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Pods on the machine's own network, with ipc and uts namespaces of their own.
pub(super) struct HostSandboxes {
    dir: PathBuf,
    /// Each pod has a network of its own instead.
    lone: bool,
    made: Mutex<()>,
}

impl HostSandboxes {
    fn new(dir: PathBuf) -> Self {
        Self { dir, lone: false, made: Mutex::new(()) }
    }

    fn sandbox(&self, uid: &str) -> Sandbox {
        let dir = self.dir.join(uid);
        let host = format!("/proc/{}/ns/net", std::process::id());
        Sandbox {
            addresses: Ipv4Addr::LOCALHOST.into(),
            netns: if self.lone { dir.join("net") } else { host.into() },
            ipc: dir.join("ipc"),
            uts: dir.join("uts"),
            shm: dir.join("shm"),
        }
    }

    fn make(&self, pod: &PodIdentity) -> Sandbox {
        let _one_at_a_time = self.made.lock().unwrap();
        let sandbox = self.sandbox(&pod.uid);
        if !sandbox.ipc.exists() {
            std::fs::create_dir_all(self.dir.join(&pod.uid)).unwrap();
            mount_shm(&sandbox.shm).unwrap();
            let mut unshare = Command::new("unshare");
            let mut pin = |kind: &str, file: &Path| {
                std::fs::write(file, []).unwrap();
                unshare.arg(format!("--{kind}={}", file.display()));
            };
            pin("ipc", &sandbox.ipc);
            pin("uts", &sandbox.uts);
            if self.lone {
                pin("net", &sandbox.netns);
            }
            // In the machine's own network `lo` is up already.
            let script = "hostname \"$0\" && ip link set lo up";
            run(unshare.args(["sh", "-c", script, &pod.hostname]));
        }
        sandbox
    }
}

impl Sandboxes for HostSandboxes {
    fn set_up<'a>(&'a self, pod: &'a PodIdentity) -> BoxFuture<'a, Result<Sandbox, String>> {
        async move { Ok(self.make(pod)) }.boxed()
    }

    fn tear_down<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let sandbox = self.sandbox(uid);
            for file in [&sandbox.ipc, &sandbox.uts, &self.dir.join(uid).join("net")] {
                let _ = nix::mount::umount2(file, nix::mount::MntFlags::MNT_DETACH);
            }
            unmount_shm(&sandbox.shm).map_err(|error| error.to_string())?;
            let _ = std::fs::remove_dir_all(self.dir.join(uid));
            Ok(())
        }
        .boxed()
    }

    fn list(&self) -> Vec<(String, Sandbox)> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let uids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        uids.map(|uid| (uid.clone(), self.sandbox(&uid))).collect()
    }
}
