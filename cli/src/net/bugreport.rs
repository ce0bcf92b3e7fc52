//! `bowline net bugreport`: one archive with all that the other commands show of a node, or of all
//! nodes of a local cluster.
//!
//! Guarantees: reads only; what fails is in the archive as its error, and the rest goes on; each
//! part has its time. No secrets: of the API only services, endpoint slices and nodes, of files only
//! logs, no kubeconfig, no key, no pod's specification.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use crate::output;

/// How long one part may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of the end of each log is taken, and of what a part prints.
const LOG_BYTES: usize = 1 << 20;
const PART_BYTES: u64 = 64 << 20;

/// What is asked of each node: the words after `bowline net`.
const OF_NODE: [&[&str]; 14] = [
    &["status"],
    &["services"],
    &["backends"],
    &["affinity"],
    &["pods"],
    &["routes"],
    &["neighbours"],
    &["counters"],
    &["maps"],
    &["maps", "dump", "EDITION"],
    &["maps", "dump", "FLOWS"],
    &["maps", "dump", "TAKEOVER"],
    &["dns"],
    &["diff"],
];

/// What is asked of the API.
const OF_API: [&[&str]; 3] = [
    &["get", "nodes"],
    &["get", "services", "--all-namespaces"],
    &["get", "endpointslices", "--all-namespaces"],
];

/// Of the machine.
const FILES: [&str; 4] =
    ["/proc/version", "/etc/os-release", "/proc/sys/net/core/bpf_jit_enable", "/proc/cmdline"];

/// Where to write it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net bugreport --name demo
  bowline net bugreport --bpffs /sys/fs/bpf --node-name worker1 --kubeconfig admin.kubeconfig

No secrets are in it: no kubeconfig, key or token, and no specification of a pod.")]
pub(super) struct Args {
    /// The archive [default: bowline-bugreport-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Kubeconfig file of the cluster, with --bpffs
    #[arg(long, value_name = "FILE", requires = "bpffs")]
    kubeconfig: Option<PathBuf>,
    /// The agent's --node-name, with --bpffs
    #[arg(long, value_name = "NAME", requires = "bpffs")]
    node_name: Option<String>,
}

/// A node, by the flags that name it.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) flags: Vec<String>,
}

/// What there is to ask.
pub(super) struct Subject {
    pub(super) nodes: Vec<Node>,
    /// Where the API is.
    pub(super) kubeconfig: Option<PathBuf>,
    /// A directory with logs.
    pub(super) logs: Option<PathBuf>,
}

impl Args {
    /// The node behind `--bpffs`.
    pub(super) fn named(&self, bpffs: &Path, run_dir: &Path) -> Subject {
        let path = |path: &Path| path.display().to_string();
        let mut flags = vec!["--bpffs".to_owned(), path(bpffs), "--run-dir".to_owned()];
        flags.push(path(run_dir));
        let name = self.node_name.clone().unwrap_or_else(|| "node".to_owned());
        Subject {
            nodes: vec![Node { name, flags }],
            kubeconfig: self.kubeconfig.clone(),
            logs: None,
        }
    }
}

/// Writes the archive and says where it is.
pub(super) fn run(args: &Args, subject: &Subject) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let stem = format!("bowline-bugreport-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{stem}.tar.gz")));
    let mut options = OpenOptions::new();
    let file = match options.write(true).create_new(true).mode(0o600).open(&path) {
        Ok(file) => file,
        Err(error) => bail!("cannot make {}: {error}", path.display()),
    };
    let written = write(args, subject, file, &stem);
    if written.is_err() {
        // Half an archive is of no use.
        drop(std::fs::remove_file(&path));
    }
    let parts = written.with_context(|| format!("writing {}", path.display()))?;
    Ok(output::line(&format!("{} ({parts} parts)", path.display()))?)
}

fn write(args: &Args, subject: &Subject, file: File, stem: &str) -> anyhow::Result<usize> {
    let mut archive = Archive {
        tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
        stem: stem.to_owned(),
        parts: 0,
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    archive.add("version.txt", &asked(&program, &["version".to_owned()]))?;
    for path in FILES {
        let text = std::fs::read(path).unwrap_or_else(|error| error.to_string().into_bytes());
        archive.add(&format!("machine{path}"), &text)?;
    }
    for node in &subject.nodes {
        for words in OF_NODE {
            let mut line: Vec<String> =
                ["net"].iter().chain(words).map(|w| (*w).to_owned()).collect();
            line.extend(node.flags.iter().cloned());
            line.extend(["-o", "json"].map(str::to_owned));
            if words == ["diff"] && args.node_name.is_some() {
                let kubeconfig = args.kubeconfig.iter().map(|path| path.display().to_string());
                line.extend(["--node-name".to_owned(), node.name.clone()]);
                line.extend(kubeconfig.flat_map(|path| ["--kubeconfig".to_owned(), path]));
            }
            let name = format!("nodes/{}/{}.json", node.name, words.join("-"));
            archive.add(&name, &asked(&program, &line))?;
        }
    }
    for words in OF_API {
        let Some(kubeconfig) = &subject.kubeconfig else { break };
        let mut line: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        line.extend(["-o", "yaml", "--kubeconfig"].map(str::to_owned));
        line.push(kubeconfig.display().to_string());
        archive.add(&format!("api/{}.yaml", words[1]), &asked(&program, &line))?;
    }
    let logs = subject.logs.iter().flat_map(|logs| std::fs::read_dir(logs).into_iter().flatten());
    for log in logs.flatten() {
        let bytes =
            std::fs::read(log.path()).unwrap_or_else(|error| error.to_string().into_bytes());
        let end = &bytes[bytes.len().saturating_sub(LOG_BYTES)..];
        archive.add(&format!("logs/{}", log.file_name().to_string_lossy()), end)?;
    }
    archive.finish()
}

/// The archive as it grows.
struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    stem: String,
    parts: usize,
}

impl Archive {
    fn add(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        header.set_mtime(now);
        self.tar.append_data(&mut header, format!("{}/{name}", self.stem), bytes)?;
        self.parts += 1;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<usize> {
        let mut file = self.tar.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()?;
        Ok(self.parts)
    }
}

/// What a command of this program says, or why it said nothing.
fn asked(program: &Path, words: &[String]) -> Vec<u8> {
    match output_of(program, words) {
        Ok(said) => said,
        Err(error) => format!("{}: {error:#}\n", words.join(" ")).into_bytes(),
    }
}

fn output_of(program: &Path, words: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let read = |from: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(from) = from {
                // What was read until an error is better than nothing.
                drop(from.take(PART_BYTES).read_to_end(&mut bytes));
            }
            bytes
        })
    };
    let said = read(child.stdout.take().map(|it| Box::new(it) as Box<dyn Read + Send>));
    let complained = read(child.stderr.take().map(|it| Box::new(it) as Box<dyn Read + Send>));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut bytes = said.join().unwrap_or_default();
    bytes.extend(complained.join().unwrap_or_default());
    if status.is_none() {
        bytes.extend(format!("no end within {} s\n", PATIENCE.as_secs()).into_bytes());
    }
    Ok(bytes)
}
