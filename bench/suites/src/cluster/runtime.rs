//! containerd by itself, as a cluster's nodes have it: no cluster is up before its runtime is.
//!
//! Guarantees: it ends with the measurement, however that ends, and lives in a directory that goes
//! with it.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::Cluster;
use bowline_tests::command::command;
use tempfile::TempDir;

use super::PATIENCE;

const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Ends with its value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The configuration of a cluster's containerd, and where that is.
pub(crate) struct Runtime {
    text: String,
    directory: String,
}

impl Runtime {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let directory = cluster.dir.join("containerd");
        let file = directory.join("config.toml");
        let text = std::fs::read_to_string(&file);
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self { text, directory: directory.display().to_string() })
    }

    /// Starts one with nothing in it; how many seconds until it listens.
    pub(crate) fn start(&self, directory: &TempDir) -> Result<f64> {
        let at = |name: &str| directory.path().join(name);
        let own = self.text.replace(&self.directory, &directory.path().display().to_string());
        std::fs::write(at("config.toml"), own)?;
        let mut containerd = command("setpriv");
        containerd.args(["--pdeathsig", "KILL", "containerd", "--config"]).arg(at("config.toml"));
        containerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let mut process = Process(containerd.spawn().context("cannot start containerd")?);
        wait_for(&at("containerd.sock"), &mut process, start)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

fn wait_for(socket: &Path, process: &mut Process, start: Instant) -> Result<()> {
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = process.0.try_wait()? {
            bail!("containerd ended with {status}");
        }
        ensure!(start.elapsed() < PATIENCE, "containerd does not listen");
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(())
}
