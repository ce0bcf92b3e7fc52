//! The machine's programs as a pod's own: in its network, in its cgroup, and asking its DNS server.

use std::fs;
use std::process::Command;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use tempfile::NamedTempFile;

use crate::api::{node_of, uid};
use crate::cluster::Cluster;
use crate::place::Place;

/// A pod as programs see it that are not part of its image.
pub struct Guest {
    place: Place,
    resolv_conf: NamedTempFile,
}

impl Guest {
    /// A pod that runs.
    pub fn of(cluster: &Cluster, pod: &Pod) -> Result<Self> {
        let node = cluster.node(&node_of(pod))?;
        let resolv_conf = NamedTempFile::new()?;
        let inside = node.pod_file(&uid(pod), "/etc/resolv.conf")?;
        fs::write(resolv_conf.path(), fs::read(inside)?)?;
        Ok(Self { place: node.pod_network_in_cgroup(&uid(pod))?, resolv_conf })
    }

    /// Its network and cgroup, with the machine's resolv.conf.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What its resolv.conf says.
    pub fn resolv_conf(&self) -> Result<String> {
        Ok(fs::read_to_string(self.resolv_conf.path())?)
    }

    /// A command in it that reads its resolv.conf. Arguments are added as usual.
    pub fn command(&self, program: &str) -> Command {
        self.command_at(&self.place, program)
    }

    /// A command at another place that reads this pod's resolv.conf.
    pub fn command_at(&self, place: &Place, program: &str) -> Command {
        let mut command = place.command("unshare");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(self.resolv_conf.path()).arg(program);
        command
    }
}
