//! `bowline status`: how a local cluster is doing.
//!
//! Guarantees: answers also when the server or agents are gone; what is not there is shown as such.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, NodeSystemInfo, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use super::place::{self, Place};
use super::plan::SELF;
use super::{Record, cgroups, mounts, ready};
use crate::output::{self, Format, Table, memory};
use crate::verbs::client;

/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Show how a local cluster is doing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline status
  bowline status -o wide
  bowline status --name demo -o json")]
pub(crate) struct Args {
    /// Name of the cluster [default: the only one]
    #[arg(long)]
    name: Option<String>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// A cluster as it is now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    name: String,
    directory: String,
    version: String,
    kubeconfig: String,
    /// Absent when it does not answer.
    server_version: Option<String>,
    processes: Vec<Process>,
    nodes: Vec<NodeStatus>,
    pods: Pods,
}

/// A process of the cluster; without a process id it is not running.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    name: String,
    pid: Option<i32>,
    resident_bytes: Option<u64>,
    log: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    name: String,
    ready: bool,
    pod_cidr: String,
    agent_version: String,
    pods: usize,
    addresses: Vec<String>,
    kernel_version: String,
    container_runtime_version: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pods {
    total: usize,
    ready: usize,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let place = place::only(args.name.as_deref(), "")?;
    let record = Record::read(&place)?
        .with_context(|| format!("cluster {} was never finished: `bowline down`", place.name))?;
    let mut status = Status {
        name: place.name.clone(),
        directory: place.dir.display().to_string(),
        version: record.version.clone(),
        kubeconfig: place.kubeconfig().display().to_string(),
        server_version: None,
        processes: processes(&record)?,
        nodes: Vec::new(),
        pods: Pods::default(),
    };
    let asked = tokio::time::timeout(PATIENCE, ask_server(&place, &mut status)).await;
    let trouble = match asked {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some("the server does not answer".to_owned()),
    };
    let printed = match args.output {
        Format::Table | Format::Wide => print(&status, args.output).map_err(Into::into),
        format => output::document(&status, format),
    };
    match trouble {
        Some(trouble) => {
            Err(anyhow::anyhow!("{}", advice(&trouble, &status, nix::unistd::geteuid().is_root())))
        }
        None => printed,
    }
}

/// What went wrong and what to do about it.
fn advice(trouble: &str, status: &Status, is_root: bool) -> String {
    let name = &status.name;
    if !is_root {
        return format!("the files of cluster {name} are root's: run it as root ({trouble})");
    }
    match status.processes.iter().find(|process| process.name == "server") {
        Some(Process { pid: None, log, .. }) => format!(
            "the API server of cluster {name} does not run; its log is {log}; pods and services go \
             on without it; `bowline down --name {name}` and `bowline up` make the cluster anew"
        ),
        Some(Process { log, .. }) => {
            format!(
                "the API server of cluster {name} runs and does not answer ({trouble}); see {log}"
            )
        }
        None => trouble.to_owned(),
    }
}

fn processes(record: &Record) -> anyhow::Result<Vec<Process>> {
    let table = mounts::read()?;
    let root = mounts::cgroup2(&table).context("no cgroup2 hierarchy is mounted")?;
    let plan = &record.plan;
    let planned = [&plan.server, &plan.containerd].into_iter();
    let planned = planned.chain(plan.nodes.iter().map(|node| &node.agent));
    let look = |process: &super::plan::Process| {
        // containerd's shims are in its group too, and outlive it.
        let mut members = cgroups::members(&root.join(&process.cgroup)).into_iter();
        let pid = members.find(|pid| {
            let cmdline = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"));
            cmdline.is_ok_and(|cmdline| is_of(&cmdline, &process.command))
        });
        Process {
            name: process.name.clone(),
            pid,
            resident_bytes: pid.and_then(resident_bytes),
            log: process.log.display().to_string(),
        }
    };
    Ok(planned.map(look).collect())
}

/// Whether a process with this `/proc/<pid>/cmdline` is one that was planned. A binary of ours may
/// have been replaced by one of another name, and have more flags: its verb says what it is.
fn is_of(cmdline: &[u8], planned: &[String]) -> bool {
    let mut words = cmdline.split(|&byte| byte == 0).map(OsStr::from_bytes);
    let program = words.next().map(Path::new).and_then(Path::file_name);
    match planned {
        [program, verb, ..] if program == SELF => words.next() == Some(OsStr::new(verb)),
        [planned, ..] => program == Path::new(planned).file_name(),
        [] => false,
    }
}

/// Resident memory of a process.
fn resident_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    parse_resident(&text)
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

async fn ask_server(place: &Place, status: &mut Status) -> anyhow::Result<()> {
    let connection = client::connect_file(&place.kubeconfig()).await?;
    let version = connection.get("/version", "application/json").await?;
    status.server_version = version["gitVersion"].as_str().map(str::to_owned);
    let client: Client = connection.client;
    let all = ListParams::default();
    let nodes = Api::<Node>::all(client.clone()).list(&all).await.context("cannot list nodes")?;
    let pods = Api::<Pod>::all(client).list(&all).await.context("cannot list pods")?;
    status.pods = Pods {
        total: pods.items.len(),
        ready: pods.items.iter().filter(|pod| is_pod_ready(pod)).count(),
    };
    for node in &nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let on_node =
            |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&name);
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let addresses = addresses.filter(|address| address.type_ == "InternalIP");
        let of =
            |field: fn(&NodeSystemInfo) -> &String| info.map(field).cloned().unwrap_or_default();
        status.nodes.push(NodeStatus {
            ready: ready::is_ready(node),
            pod_cidr: node.spec.as_ref().and_then(|it| it.pod_cidr.clone()).unwrap_or_default(),
            agent_version: of(|info| &info.kubelet_version),
            kernel_version: of(|info| &info.kernel_version),
            container_runtime_version: of(|info| &info.container_runtime_version),
            addresses: addresses.map(|address| address.address.clone()).collect(),
            pods: pods.items.iter().filter(on_node).count(),
            name,
        });
    }
    Ok(())
}

fn is_pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn print(status: &Status, format: Format) -> Result<(), output::WriteOutputFailed> {
    let server = status.server_version.as_deref().unwrap_or("does not answer");
    output::text(&format!(
        "cluster {}   server {server}   pods {} of {} ready\nkubeconfig {}\n\n",
        status.name, status.pods.ready, status.pods.total, status.kubeconfig
    ))?;
    let mut processes = Table::new(["process", "pid", "memory", "log"]);
    for process in &status.processes {
        processes.row([
            process.name.clone(),
            process.pid.map_or_else(|| "not running".to_owned(), |pid| pid.to_string()),
            process.resident_bytes.map_or_else(String::new, memory),
            process.log.clone(),
        ]);
    }
    processes.print()?;
    if status.nodes.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let columns = ["node", "ready", "pods", "pod range", "version"];
    let mut nodes = Table::with_more(format, columns, ["address", "kernel", "runtime"]);
    for node in &status.nodes {
        let ready = if node.ready { "yes" } else { "no" };
        nodes.row([
            node.name.clone(),
            ready.to_owned(),
            node.pods.to_string(),
            node.pod_cidr.clone(),
            node.agent_version.clone(),
            node.addresses.join(","),
            node.kernel_version.clone(),
            node.container_runtime_version.clone(),
        ]);
    }
    nodes.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_the_trouble() {
        let status = |pid| Status {
            name: "demo".into(),
            directory: String::new(),
            version: String::new(),
            kubeconfig: String::new(),
            server_version: None,
            processes: vec![Process {
                name: "server".into(),
                pid,
                resident_bytes: None,
                log: "/logs/server.log".into(),
            }],
            nodes: Vec::new(),
            pods: Pods::default(),
        };
        for (pid, is_root, expected) in [
            (None, true, "does not run; its log is /logs/server.log"),
            (Some(7), true, "runs and does not answer (refused); see /logs/server.log"),
            (Some(7), false, "run it as root"),
        ] {
            let advice = advice("refused", &status(pid), is_root);
            assert!(advice.contains(expected), "{advice}");
        }
    }

    #[test]
    fn a_shim_is_not_containerd_and_a_command_no_agent() {
        let containerd = ["containerd", "--config", "/d/config.toml"].map(str::to_owned);
        let agent = ["bowline", "agent", "--node-name", "node1"].map(str::to_owned);
        for (cmdline, planned, expected) in [
            ("containerd\0--config\0/d/config.toml\0", &containerd[..], true),
            ("/usr/bin/containerd\0--config\0/d/config.toml\0", &containerd, true),
            ("/usr/bin/containerd-shim-runc-v2\0-namespace\0x\0", &containerd, false),
            ("", &containerd, false),
            ("/opt/bowline-2\0agent\0--node-name\0node1\0--more\0", &agent, true),
            ("bowline\0internal-exec\0--\0bowline\0agent\0", &agent, false),
            ("/usr/bin/nft\0list\0ruleset\0", &agent, false),
        ] {
            assert_eq!(is_of(cmdline.as_bytes(), planned), expected, "{cmdline:?}");
        }
    }

    #[test]
    fn resident_memory_is_read_from_the_status_file() {
        let text = "Name:\tx\nVmRSS:\t   38284 kB\nThreads:\t4\n";
        assert_eq!(parse_resident(text), Some(38_284 * 1024));
        assert_eq!(parse_resident("Name:\tkthread\n"), None);
    }
}
