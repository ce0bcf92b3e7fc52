//! Where a process lives: its cgroup and its network namespace, entered before it has threads.
//!
//! Guarantees: a process started through [`exec`] is a member of its cgroup before its first own
//! instruction, so a cluster's processes can always be found by cgroup; it has no controlling
//! terminal and no proxy settings. Does not change mounts: everything shares the host's.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// This program as it runs, also when another build has taken its place on the disk.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// Traffic of a local cluster never goes through a proxy of the user's environment.
const PROXY_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Bounds for the C library's heap: freed memory goes back to the kernel instead of staying in one
/// arena per thread. A node's agent needs a third less memory after its first image pull.
const HEAP_BOUNDS: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
];

/// Place this process, then become another program. Used by `up` for what it starts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Cgroup directory to join first
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Network namespace to enter
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<OsString>,
}

/// Becomes `args.argv`; returns only when that failed.
pub(crate) fn exec(args: &Args) -> anyhow::Result<Infallible> {
    nix::unistd::setsid().context("cannot start a session of its own")?;
    if let Some(cgroup) = &args.cgroup {
        join_cgroup(cgroup)?;
    }
    if let Some(netns) = &args.netns {
        enter_netns(netns)?;
    }
    let (program, rest) = args.argv.split_first().ok_or_else(|| anyhow!("no program given"))?;
    let mut command = Command::new(program);
    command.args(rest);
    for variable in PROXY_VARIABLES {
        command.env_remove(variable);
    }
    command.envs(HEAP_BOUNDS);
    let error = command.exec();
    Err(anyhow!("cannot run {}: {error}", program.to_string_lossy()))
}

/// Moves the calling process into a cgroup.
fn join_cgroup(cgroup: &Path) -> anyhow::Result<()> {
    // Zero stands for the writer.
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot join cgroup {}", cgroup.display()))
}

/// Moves the calling thread into a network namespace; call it while there is only one thread.
pub(crate) fn enter_netns(path: &Path) -> anyhow::Result<()> {
    let namespace = File::open(path)
        .with_context(|| format!("cannot open network namespace {}", path.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter network namespace {}: run as root", path.display()))
}

/// Runs a long-lived service on a runtime of its own until it ends or a signal asks it to.
pub(crate) fn run_until_stopped<F, T>(workers: usize, service: F) -> anyhow::Result<T>
where
    F: AsyncFnOnce(CancellationToken) -> anyhow::Result<T>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch signals")?;
        let on_signal = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("asked to stop");
            on_signal.cancel();
        });
        service(stop).await
    })
}
