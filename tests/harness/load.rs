//! Clients that run while something else happens, and what they saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::artifacts;
use crate::command::shown;
use crate::place::Place;

/// What a client saw.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadReport {
    pub requests: u64,
    pub ok: u64,
    pub failed: u64,
    /// Requests that a kept connection lost because the server closed it while idle.
    pub retried: u64,
    pub errors: BTreeMap<String, u64>,
    /// What servers said: field, value, count. Fields: pod, node, version, client, peer.
    pub seen: BTreeMap<String, BTreeMap<String, u64>>,
    pub seconds: f64,
    pub latency_us: Latency,
}

/// Quantiles in microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Latency {
    pub p50: u32,
    pub p99: u32,
    pub max: u32,
}

impl LoadReport {
    /// The values of a field with their counts.
    pub fn seen(&self, field: &str) -> BTreeMap<String, u64> {
        self.seen.get(field).cloned().unwrap_or_default()
    }

    /// The values of a field.
    pub fn values(&self, field: &str) -> Vec<String> {
        self.seen(field).into_keys().collect()
    }

    /// An error unless every request was answered, and there were any.
    pub fn expect_no_failure(&self, when: &str) -> Result<()> {
        if self.failed > 0 || self.ok == 0 {
            bail!(
                "{when}: {} of {} requests failed: {:?}",
                self.failed,
                self.requests,
                self.errors
            );
        }
        Ok(())
    }
}

/// A client that runs until it is stopped.
pub struct Load {
    process: Child,
    line: String,
}

impl Load {
    /// Fresh connections to `target`, `every_us` microseconds apart in each worker.
    pub fn start(place: &Place, target: SocketAddr, workers: u32, every_us: u32) -> Result<Self> {
        let (target, workers, every) =
            (target.to_string(), workers.to_string(), every_us.to_string());
        Self::spawn(place, &["load", &target, "--workers", &workers, "--every-us", &every])
    }

    /// Connections that are opened once and used all the time.
    pub fn hold(place: &Place, target: SocketAddr, connections: u32) -> Result<Self> {
        let (target, connections) = (target.to_string(), connections.to_string());
        Self::spawn(place, &["hold", &target, "--connections", &connections])
    }

    /// Any mode of the workload that ends when its input closes.
    pub fn spawn(place: &Place, arguments: &[&str]) -> Result<Self> {
        let mut command = workload(place)?;
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = shown(&command);
        let process = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { process, line })
    }

    /// Stop it and read what it saw.
    pub fn stop(self) -> Result<LoadReport> {
        self.stop_with()
    }

    /// Stop it and read a report of its own kind.
    pub fn stop_with<T: DeserializeOwned>(mut self) -> Result<T> {
        // Closing its input is the signal.
        drop(self.process.stdin.take());
        let output = self.process.wait_with_output()?;
        parse(&self.line, &output)
    }
}

/// The workload, to be run in a place; in a container it is part of the image.
fn workload(place: &Place) -> Result<Command> {
    let program =
        if place.is_container() { PathBuf::from("/workload") } else { artifacts::workload()? };
    Ok(place.command(program))
}

/// Run a mode of the workload to its end and read its report.
pub fn run<T: DeserializeOwned>(place: &Place, arguments: &[&str]) -> Result<T> {
    let mut command = workload(place)?;
    command.args(arguments);
    let output = crate::command::finish(&mut command)?;
    parse(&shown(&command), &output)
}

/// So many requests over fresh connections.
pub fn requests(place: &Place, target: SocketAddr, count: u32) -> Result<LoadReport> {
    run(place, &["load", &target.to_string(), "--requests", &count.to_string()])
}

fn parse<T: DeserializeOwned>(line: &str, output: &std::process::Output) -> Result<T> {
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` ended with {}: {}", output.status, error.trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{line}` printed no report"))
}
