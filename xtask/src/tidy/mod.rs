//! `cargo xtask tidy`: the project's habits, as far as a program can check them.
//!
//! Guarantees: looks at every file that git tracks or would track; reports each violation with
//! file, line, rule and what to do, sorted; every rule has a test that shows it firing.
//!
//! Does not: parse Rust. It separates code, comments and strings, which is enough for these rules
//! and keeps them independent of compiler releases.

mod lock;
mod manifest;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// No options: the rules are the same for everybody.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, message: message.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

/// Check the tree and print what is wrong.
pub(crate) fn run(_args: &Args) -> Result<()> {
    check()
}

/// Check the tree; any violation is an error.
pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let listing = process::output(Command::new("git").current_dir(&root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let deny = std::fs::read_to_string(root.join("deny.toml")).context("cannot read deny.toml")?;
    let bans = lock::bans(&deny);
    let mut violations = Vec::new();
    let mut count = 0;
    for path in listing.lines() {
        violations.extend(check_file(&root, path)?);
        if path.ends_with("Cargo.lock") {
            let locked = std::fs::read_to_string(root.join(path));
            let locked = locked.with_context(|| format!("cannot read {path}"))?;
            violations.extend(lock::check(path, &locked, &bans));
        }
        count += 1;
    }
    if violations.is_empty() {
        eprintln!("tidy: {count} files, nothing to complain about");
        return Ok(());
    }
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    bail!("tidy: {} violations in {count} files", violations.len())
}

fn check_file(root: &Path, path: &str) -> Result<Vec<Violation>> {
    let full = root.join(path);
    let extension = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default();
    if !matches!(extension, "rs" | "toml" | "yaml" | "yml" | "md" | "sh") || !full.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&full).with_context(|| format!("cannot read {path}"))?;
    Ok(check_text(path, extension, &text))
}

fn check_text(path: &str, extension: &str, text: &str) -> Vec<Violation> {
    match extension {
        "rs" => rules::check_rust(path, text),
        "toml" if path.ends_with("Cargo.toml") => {
            let mut violations = manifest::check(path, text);
            violations.extend(rules::check_places(path, text));
            violations
        }
        _ => rules::check_places(path, text),
    }
}
