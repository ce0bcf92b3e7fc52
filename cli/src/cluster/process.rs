//! Starting a process of a cluster, and noticing that it ended too early.
//!
//! Guarantees: a started process outlives `up`; its output goes to its log file.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

use super::namespaces;
use super::plan::{Process, SELF};

/// How much of a log is looked at for its last words.
const LAST_WORDS_BYTES: usize = 4096;

/// A process that `up` started.
#[derive(Debug)]
pub(crate) struct Started {
    name: String,
    log: PathBuf,
    child: Child,
}

/// Starts a process in its cgroup and namespace.
pub(crate) fn start(process: &Process, cgroup_root: &Path) -> anyhow::Result<Started> {
    let this = std::env::current_exe().context("cannot find the path of this program")?;
    let log = open_log(&process.log)?;
    let again = log.try_clone().with_context(|| format!("cannot use {}", process.log.display()))?;
    let mut command = Command::new(&this);
    command.arg("internal-exec").arg("--cgroup").arg(cgroup_root.join(&process.cgroup));
    if let Some(namespace) = &process.namespace {
        command.arg("--netns").arg(namespaces::path(namespace));
    }
    command.arg("--");
    let mut words = process.command.iter();
    match words.next() {
        Some(program) if program == SELF => command.arg(&this),
        Some(program) => command.arg(program),
        None => bail!("{} has no command", process.name),
    };
    command.args(words).stdin(Stdio::null()).stdout(log).stderr(again);
    let child = command.spawn().with_context(|| format!("cannot start {}", process.name))?;
    Ok(Started { name: process.name.clone(), log: process.log.clone(), child })
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let log = options.create(true).append(true).open(path);
    log.with_context(|| format!("cannot open {}", path.display()))
}

impl Started {
    /// Fails when the process has ended, with its last words.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let status = self.child.try_wait().with_context(|| format!("cannot ask {}", self.name))?;
        let Some(status) = status else { return Ok(()) };
        let log = fs::read(&self.log).unwrap_or_default();
        let words = last_words(&log).unwrap_or_else(|| "it said nothing".to_owned());
        bail!("{} ended at its start ({status}): {words}", self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The last line of the log, if there is one.
    pub(crate) fn last_words(&self) -> Option<String> {
        last_words(&fs::read(&self.log).unwrap_or_default())
    }

    /// The last warning or error of the log, if there is one.
    pub(crate) fn last_complaint(&self) -> Option<String> {
        last_complaint(&fs::read(&self.log).unwrap_or_default())
    }
}

fn last_words(log: &[u8]) -> Option<String> {
    last_line(log, |line| !line.is_empty())
}

/// After its time, a line of a log has its level.
fn last_complaint(log: &[u8]) -> Option<String> {
    let is_level = |word: &str| matches!(word, "WARN" | "ERROR");
    last_line(log, |line| line.split_whitespace().nth(1).is_some_and(is_level))
}

fn last_line(log: &[u8], wanted: impl Fn(&str) -> bool) -> Option<String> {
    let tail = &log[log.len().saturating_sub(LAST_WORDS_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().map(str::trim).find(|line| wanted(line))?;
    Some(line.trim_start_matches("error: ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_the_last_line_that_says_something() {
        assert_eq!(last_words(b"one\nerror: two\n\n  \n").as_deref(), Some("two"));
        assert_eq!(last_words(b""), None);
        let long = [b"x".repeat(10_000), b"\nend".to_vec()].concat();
        assert_eq!(last_words(&long).as_deref(), Some("end"));
    }

    #[test]
    fn a_complaint_is_a_warning_or_an_error() {
        let log = b"T  INFO a: one\nT  WARN a: two\nT ERROR a: three\nT  INFO a: WARN\n";
        assert_eq!(last_complaint(log).as_deref(), Some("T ERROR a: three"));
        assert_eq!(last_complaint(b"T  INFO a: WARN of b\n"), None);
    }
}
