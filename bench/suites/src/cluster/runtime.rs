//! containerd by itself: no cluster is up before its runtime is.
//!
//! Guarantees: it ends with the measurement, and lives in a directory that goes with it.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
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

/// Starts one with nothing in it; how many seconds until it listens.
pub(crate) fn start(directory: &TempDir) -> Result<f64> {
    let at = |name: &str| directory.path().join(name);
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let config = format!(
        "version = 2\nroot = {}\nstate = {}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {}\n[ttrpc]\naddress = {}\n",
        quoted(&at("root")),
        quoted(&at("state")),
        quoted(&at("socket")),
        quoted(&at("ttrpc")),
    );
    std::fs::write(at("config.toml"), config)?;
    let mut containerd = command("containerd");
    containerd.arg("--config").arg(at("config.toml"));
    containerd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut process = Process(containerd.spawn().context("cannot start containerd")?);
    while UnixStream::connect(at("socket")).is_err() {
        if let Some(status) = process.0.try_wait()? {
            anyhow::bail!("containerd ended with {status}");
        }
        ensure!(start.elapsed() < PATIENCE, "containerd does not listen");
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(start.elapsed().as_secs_f64())
}
