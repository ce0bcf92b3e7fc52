//! Two releases of kubectl, taken from the Debian releases that carry them.
//!
//! The machine's own apt is left alone: a separate state below `target/tools` lists the other
//! Debian release, from the mirror that the machine already uses, with its signatures checked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, workspace};

/// A kubectl release and where Debian has it.
#[derive(Clone, Copy)]
pub(crate) struct Release {
    pub(crate) version: &'static str,
    suite: &'static str,
}

/// The oldest and the newest release that bowline is tested with.
pub(crate) const RELEASES: [Release; 2] =
    [Release { version: "1.32", suite: "trixie" }, Release { version: "1.36", suite: "sid" }];

/// Where the program of a release is kept.
pub(crate) fn path(release: Release) -> PathBuf {
    workspace::target().join("tools").join(format!("kubectl-{}", release.version))
}

/// Download and unpack it, unless it is there.
pub(crate) fn install(release: Release) -> Result<()> {
    let wanted = path(release);
    if wanted.is_file() {
        return Ok(());
    }
    eprintln!(
        "downloading kubectl {} from Debian {}: a client the tests run unmodified",
        release.version, release.suite
    );
    let mirror = mirror()?;
    let state = workspace::target().join("tools").join(format!("apt-{}", release.suite));
    prepare(&state, &mirror, release.suite)?;
    process::output(&mut apt(&state, &["update", "-q"]))?;
    process::output(&mut apt(&state, &["download", "-q", "kubectl"]))?;
    unpack(&state, &wanted)
}

/// A separate apt state: no list, cache, status or preference of the machine is read or written.
fn prepare(state: &Path, mirror: &Mirror, suite: &str) -> Result<()> {
    for directory in ["lists/partial", "cache/archives/partial", "parts"] {
        let path = state.join(directory);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    let source = format!("deb [signed-by={}] {} {suite} main\n", mirror.keyring, mirror.address);
    for (name, content) in [("sources.list", source.as_str()), ("status", "")] {
        let path = state.join(name);
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn apt(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.current_dir(state);
    for (option, path) in [
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::Etc::sourceparts", "parts"),
        ("Dir::Etc::preferencesparts", "parts"),
        ("Dir::State::lists", "lists"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", "cache"),
    ] {
        command.arg("-o").arg(format!("{option}={}", state.join(path).display()));
    }
    command.args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root"]).args(args);
    command
}

fn unpack(state: &Path, wanted: &Path) -> Result<()> {
    let package = std::fs::read_dir(state)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt-get downloaded no package")?;
    let unpacked = state.join("unpacked");
    process::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    std::fs::rename(unpacked.join("usr/bin/kubectl"), wanted)
        .context("the package holds no kubectl")?;
    std::fs::remove_dir_all(state).context("cannot remove the separate apt state")
}

/// The Debian mirror that this machine uses, and the keyring for it.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    address: String,
    keyring: String,
}

fn mirror() -> Result<Mirror> {
    let mut texts = Vec::new();
    for directory in ["/etc/apt/sources.list.d", "/etc/apt"] {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|e| e == "list" || e == "sources") {
                texts.extend(std::fs::read_to_string(path));
            }
        }
    }
    texts
        .iter()
        .find_map(|text| parse_mirror(text))
        .context("no Debian mirror in this machine's apt sources; kubectl cannot be downloaded")
}

/// Find the address whose path is Debian's archive, in either format of apt's sources.
fn parse_mirror(text: &str) -> Option<Mirror> {
    let is_archive =
        |word: &&str| word.contains("://") && word.trim_end_matches('/').ends_with("/debian");
    let address = text
        .lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .find(is_archive)?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    Some(Mirror { address: address.to_owned(), keyring: keyring.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::parse_mirror;

    #[test]
    fn finds_the_archive_in_both_formats() {
        let deb822 = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\n";
        let one_line = "# a comment\ndeb [arch=amd64] http://mirror.test/debian bookworm main\n";
        for text in [deb822, one_line] {
            let found = parse_mirror(text).map(|m| m.address);
            assert_eq!(found.as_deref(), Some("http://mirror.test/debian"), "{text}");
        }
    }

    #[test]
    fn ignores_security_updates_and_other_vendors() {
        let text = "deb http://mirror.test/debian-security bookworm-security main\n\
                    URIs: http://vendor.test/apt\n# deb http://mirror.test/debian sid main\n";
        assert_eq!(parse_mirror(text), None);
    }
}
