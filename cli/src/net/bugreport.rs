//! `bowline net bugreport`: one archive with all that the other commands show of a node, or of all
//! nodes of a local cluster.
//!
//! Guarantees: reads only; what fails is in the archive as its error, and the rest goes on; each
//! part has its time, and the archive its name only when it is whole; an interrupt leaves nothing
//! of it. A terminal shows what is gathered, anything else has a line at the end. No secrets: of
//! the API only services, endpoint slices and nodes, of files only logs, no kubeconfig, no key, no
//! pod's specification.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bowline_agent::datapath::DUMPED;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{LOCAL, listen};
use crate::cluster::Progress;
use crate::launch::{self, THIS_PROGRAM};
use crate::output;

/// How long one part may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of the end of each log is taken, and of what a part prints.
const LOG_BYTES: u64 = 1 << 20;
const PART_BYTES: u64 = 64 << 20;

/// Parts that are asked for at one time.
const AT_ONCE: usize = 4;

/// What is asked of each node, beside its maps: the words after `bowline net`.
const OF_NODE: [&[&str]; 16] = [
    &["status"],
    &["services"],
    &["backends"],
    &["affinity"],
    &["pods"],
    &["routes"],
    &["neighbours"],
    &["counters"],
    &["drops"],
    &["features"],
    &["programs"],
    &["maps"],
    &["dns"],
    &["diff"],
    &["top", "--count", "1", "--interval", "1"],
    &["monitor", "--duration", "1", "--rate", "1000"],
];

/// What is asked of the API.
const OF_API: [&[&str]; 3] = [
    &["get", "nodes"],
    &["get", "services", "--all-namespaces"],
    &["get", "endpointslices", "--all-namespaces"],
];

/// Of the machine.
const FILES: [&str; 3] = ["/proc/version", "/etc/os-release", "/proc/sys/net/core/bpf_jit_enable"];

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
    /// The agent's --node-name, with --bpffs
    #[arg(long, value_name = "NAME", requires = "bpffs", conflicts_with_all = LOCAL)]
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

impl Subject {
    /// Nodes that are asked through the API.
    pub(super) fn of_api(nodes: Vec<String>, kubeconfig: &Path) -> Self {
        let file = kubeconfig.display().to_string();
        let node = |name: String| Node {
            flags: ["--kubeconfig", &file, "--node", &name].map(str::to_owned).to_vec(),
            name,
        };
        Self {
            nodes: nodes.into_iter().map(node).collect(),
            kubeconfig: Some(kubeconfig.to_path_buf()),
            logs: None,
        }
    }
}

impl Args {
    /// The node behind `--bpffs`.
    pub(super) fn named(
        &self,
        bpffs: &Path,
        run_dir: &Path,
        kubeconfig: Option<PathBuf>,
    ) -> Subject {
        let path = |path: &Path| path.display().to_string();
        let mut flags = vec!["--bpffs".to_owned(), path(bpffs), "--run-dir".to_owned()];
        flags.push(path(run_dir));
        let name = self.node_name.clone().unwrap_or_else(|| "node".to_owned());
        Subject { nodes: vec![Node { name, flags }], kubeconfig, logs: None }
    }
}

/// Writes the archive and says where it is.
pub(super) fn run(args: &Args, subject: &Subject) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let stem = format!("bowline-bugreport-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{stem}.tar.gz")));
    if path.symlink_metadata().is_ok() {
        bail!("cannot make {}: it is there already", path.display());
    }
    let progress = Progress::new();
    let gathered = launch::run_until_stopped(1, async |stop| {
        let archive = |file| Archive::begin(file, &stem, &progress, &stop);
        made(&path, |file| write(args, subject, archive(file)))
    });
    progress.finish();
    let Gathered { parts, failed } = gathered?;
    let (nodes, seconds) = (subject.nodes.len(), progress.elapsed().as_secs_f64());
    let failures = match failed {
        0 => String::new(),
        _ => format!("; {failed} of them failed: the archive has the reasons as .err"),
    };
    listen::say(&format!("gathered {parts} parts of {nodes} nodes in {seconds:.1} s{failures}"));
    Ok(output::line(&format!("{} ({parts} parts)", path.display()))?)
}

/// Has a file written whole, or leaves nothing of it.
fn made<T>(path: &Path, write: impl FnOnce(File) -> anyhow::Result<T>) -> anyhow::Result<T> {
    // Under its name it is whole.
    let part = path.with_added_extension("part");
    let mut options = OpenOptions::new();
    let file = match options.write(true).create(true).truncate(true).mode(0o600).open(&part) {
        Ok(file) => file,
        Err(error) => bail!("--file: cannot make {}: {error}", path.display()),
    };
    let written = write(file);
    if written.is_err() {
        // Half an archive is of no use.
        drop(std::fs::remove_file(&part));
    }
    let written = written.with_context(|| format!("cannot write {}", part.display()))?;
    std::fs::rename(&part, path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(written)
}

/// What is in an archive.
struct Gathered {
    parts: usize,
    /// Those of which the error is there instead.
    failed: usize,
}

fn write(args: &Args, subject: &Subject, mut archive: Archive<'_>) -> anyhow::Result<Gathered> {
    archive.ask(vec![("version.txt".to_owned(), vec!["version".to_owned()])])?;
    for path in FILES {
        let text = std::fs::read(path).unwrap_or_else(|error| error.to_string().into_bytes());
        archive.add(&format!("machine{path}"), &text)?;
    }
    for node in &subject.nodes {
        let maps = DUMPED.iter().map(|map| vec!["maps", "dump", map]);
        let asked: Vec<Vec<&str>> =
            OF_NODE.iter().map(|words| words.to_vec()).chain(maps).collect();
        let part = |words: &Vec<&str>| {
            let own = words.iter().take_while(|word| !word.starts_with("--"));
            let name = own.copied().collect::<Vec<_>>().join("-");
            (format!("nodes/{}/{name}.json", node.name), of_node(args, subject, node, words))
        };
        archive.ask(asked.iter().map(part).collect())?;
        // For whoever reads it before any program does.
        let wide = [&["net", "status", "-o", "wide"].map(str::to_owned)[..], &node.flags].concat();
        archive.ask(vec![(format!("nodes/{}/status.txt", node.name), wide)])?;
    }
    if let Some(kubeconfig) = &subject.kubeconfig {
        let part = |words: &&[&str]| {
            let mut line: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            line.extend(["-o", "yaml", "--kubeconfig"].map(str::to_owned));
            line.push(kubeconfig.display().to_string());
            (format!("api/{}.yaml", words[1]), line)
        };
        archive.ask(OF_API.iter().map(part).collect())?;
    }
    if let Some(logs) = &subject.logs {
        match std::fs::read_dir(logs) {
            Ok(entries) => {
                for log in entries.flatten() {
                    let name = format!("logs/{}", log.file_name().to_string_lossy());
                    let end = end_of(&log.path());
                    archive.add(&name, &end.unwrap_or_else(|it| it.to_string().into_bytes()))?;
                }
            }
            Err(error) => {
                let text = format!("{}: {error}\n", logs.display());
                archive.add("logs/MISSING", text.as_bytes())?;
            }
        }
    }
    archive.finish()
}

/// The end of a file, LOG_BYTES of it.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut end = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut end)?;
    Ok(end)
}

/// The archive as it grows.
struct Archive<'a> {
    tar: tar::Builder<GzEncoder<File>>,
    stem: &'a str,
    gathered: Gathered,
    progress: &'a Progress,
    stop: &'a CancellationToken,
}

impl<'a> Archive<'a> {
    fn begin(
        file: File,
        stem: &'a str,
        progress: &'a Progress,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            tar: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            stem,
            gathered: Gathered { parts: 0, failed: 0 },
            progress,
            stop,
        }
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        header.set_mtime(now);
        self.tar.append_data(&mut header, format!("{}/{name}", self.stem), bytes)?;
        self.gathered.parts += 1;
        Ok(())
    }

    /// What commands of this program say, by the names of their parts; beside it, what they
    /// complain of and how they ended, or what else they said.
    fn ask(&mut self, parts: Vec<Part>) -> anyhow::Result<()> {
        for some in parts.chunks(AT_ONCE) {
            let names: Vec<&str> = some.iter().map(|(name, _)| name.as_str()).collect();
            let so_far = self.gathered.parts;
            self.progress.doing(format!("{so_far} parts, now {}", names.join(", ")));
            let stop = self.stop;
            let said: Vec<anyhow::Result<Said>> = std::thread::scope(|scope| {
                let asked: Vec<_> =
                    some.iter().map(|(_, words)| scope.spawn(|| output_of(words, stop))).collect();
                let ended = asked.into_iter().map(ScopedJoinHandle::join);
                ended.map(|said| said.unwrap_or_else(|_| bail!("it panicked"))).collect()
            });
            if stop.is_cancelled() {
                bail!("interrupted");
            }
            for ((name, words), said) in some.iter().zip(said) {
                self.add_said(name, words, said)?;
            }
        }
        Ok(())
    }

    fn add_said(
        &mut self,
        name: &str,
        words: &[String],
        said: anyhow::Result<Said>,
    ) -> anyhow::Result<()> {
        let failed = |error| Said {
            said: Vec::new(),
            complaint: format!("{error:#}\n").into_bytes(),
            went_well: false,
        };
        let Said { said, complaint, went_well } = said.unwrap_or_else(failed);
        self.add(name, &said)?;
        if complaint.is_empty() {
            return Ok(());
        }
        let mut text = format!("bowline {}\n", words.join(" ")).into_bytes();
        text.extend(complaint);
        self.gathered.failed += usize::from(!went_well);
        let ending = if went_well { "log" } else { "err" };
        self.add(&format!("{name}.{ending}"), &text)
    }

    fn finish(self) -> anyhow::Result<Gathered> {
        let mut file = self.tar.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()?;
        Ok(self.gathered)
    }
}

/// A part's name, and the words of its command.
type Part = (String, Vec<String>);

/// What asks a node for this.
fn of_node(args: &Args, subject: &Subject, node: &Node, words: &[&str]) -> Vec<String> {
    let mut line: Vec<String> = ["net"].iter().chain(words).map(|w| (*w).to_owned()).collect();
    line.extend(node.flags.iter().cloned());
    line.extend(["-o", "json"].map(str::to_owned));
    if words == ["diff"] && args.node_name.is_some() {
        let kubeconfig = subject.kubeconfig.iter().map(|path| path.display().to_string());
        line.extend(["--node-name".to_owned(), node.name.clone()]);
        line.extend(kubeconfig.flat_map(|path| ["--kubeconfig".to_owned(), path]));
    }
    line
}

/// What a command printed, and what it said beside that.
struct Said {
    said: Vec<u8>,
    complaint: Vec<u8>,
    went_well: bool,
}

/// Runs a command of this program to its end, or until it is too late or time to stop.
fn output_of(words: &[String], stop: &CancellationToken) -> anyhow::Result<Said> {
    let mut child = Command::new(THIS_PROGRAM)
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
        if Instant::now() > end || stop.is_cancelled() {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let said = said.join().unwrap_or_default();
    let mut complaint = complained.join().unwrap_or_default();
    match status {
        Some(status) if status.success() => {}
        Some(status) => complaint.extend(format!("it ended with {status}\n").into_bytes()),
        None => {
            complaint.extend(format!("timed out after {} s\n", PATIENCE.as_secs()).into_bytes());
        }
    }
    if said.len() as u64 >= PART_BYTES {
        complaint.extend(format!("cut at {PART_BYTES} bytes\n").into_bytes());
    }
    let went_well = status.is_some_and(|status| status.success());
    Ok(Said { said, complaint, went_well })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_is_not_whole_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar.gz");
        let error = made(&path, |_| anyhow::Result::<()>::Err(anyhow::anyhow!("interrupted")));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.ends_with("a.tar.gz.part: interrupted"), "{error}");
        assert!(names(directory.path()).is_empty());
        made(&path, |mut file| Ok(file.write_all(b"x")?)).unwrap();
        assert_eq!(names(directory.path()), ["a.tar.gz"]);
        let error = made(&directory.path().join("no/a"), |_| Ok(())).unwrap_err().to_string();
        assert!(error.starts_with("--file: cannot make "), "{error}");
    }

    #[test]
    fn an_interrupt_ends_what_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.tar.gz");
        let (stop, progress) = (CancellationToken::new(), Progress::new());
        stop.cancel();
        let gathered = made(&path, |file| {
            let mut archive = Archive::begin(file, "a", &progress, &stop);
            archive.ask(vec![("version.txt".to_owned(), vec!["--list".to_owned()])])?;
            archive.finish()
        });
        let error = format!("{:#}", gathered.map(|it| it.parts).unwrap_err());
        assert!(error.ends_with(": interrupted"), "{error}");
        assert!(names(directory.path()).is_empty());
    }
}
