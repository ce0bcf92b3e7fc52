//! The same container without bowline: containerd's own client starts it.
//!
//! Guarantees: it has no network but its own loopback, and stands in the cluster's cgroup and in a
//! containerd namespace by a name of the cluster's, so that `down` removes what is left of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use bowline_tests::Cluster;
use bowline_tests::command::{command, output};
use bowline_tests::registry;

/// containerd as the cluster's nodes use it, in a namespace of no node.
pub(crate) struct Bare {
    socket: PathBuf,
    namespace: String,
    cgroup: String,
    image: String,
    started: u32,
}

impl Bare {
    /// Fetches the image and starts one container, which unpacks it.
    pub(crate) fn new(cluster: &Cluster) -> Result<Self> {
        let mut bare = Self {
            socket: cluster.dir.join("containerd/containerd.sock"),
            // Nodes count from one.
            namespace: format!("bowline-{}-node0", cluster.name),
            cgroup: format!("/bowline/{}/bare", cluster.name),
            image: format!("{}/workload:v1", registry::ADDRESS),
            started: 0,
        };
        let mut pull = cluster.bridge_place()?.command("ctr");
        bare.words(&mut pull).args(["images", "pull", "--plain-http", &bare.image]);
        output(&mut pull)?;
        bare.start()?;
        Ok(bare)
    }

    fn words<'a>(&self, ctr: &'a mut Command) -> &'a mut Command {
        ctr.arg("--address").arg(&self.socket).args(["--namespace", &self.namespace])
    }

    /// Starts one; how many milliseconds until it runs. It is removed, which is not timed.
    pub(crate) fn start(&mut self) -> Result<f64> {
        self.started += 1;
        let name = format!("bare-{}", self.started);
        let cgroup = format!("{}/{name}", self.cgroup);
        let mut run = command("ctr");
        self.words(&mut run).args(["run", "--detach", "--null-io", "--cgroup", &cgroup]);
        run.args([&self.image, &name]);
        let start = Instant::now();
        output(&mut run)?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        for words in [["tasks", "rm", "--force"].as_slice(), &["containers", "rm"]] {
            let mut remove = command("ctr");
            output(self.words(&mut remove).args(words).arg(&name))?;
        }
        Ok(took)
    }
}
