//! Unmodified kubectl releases, as `cargo xtask setup` downloaded them.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Result, bail};

use crate::artifacts;
use crate::cluster::Cluster;
use crate::command::{command, finish, output};

/// One release, pointed at one cluster.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// `version` is the major and minor number, for example 1.32.
    pub fn new(version: &str, cluster: &Cluster) -> Result<Self> {
        let program = artifacts::target().join("tools").join(format!("kubectl-{version}"));
        if !program.is_file() {
            bail!("{} is missing: run `cargo xtask setup`", program.display());
        }
        // Its discovery cache must not outlive the cluster.
        let home = cluster.dir.join("logs").join(format!("kubectl-{version}"));
        Ok(Self { program, kubeconfig: cluster.kubeconfig(), home })
    }

    /// A command line, to be changed or run.
    pub fn command(&self, line: &str) -> Command {
        let mut kubectl = command(&self.program);
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).env("HOME", &self.home);
        kubectl.args(line.split_whitespace());
        kubectl
    }

    /// Run it; its output, or an error with all that it said.
    pub fn run(&self, line: &str) -> Result<String> {
        output(&mut self.command(line))
    }

    /// Run it, whatever its status.
    pub fn try_run(&self, line: &str) -> Result<Output> {
        finish(&mut self.command(line))
    }
}
