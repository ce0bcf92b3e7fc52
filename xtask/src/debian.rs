//! Packages of other Debian releases, downloaded and unpacked below `target`, installed nowhere.
//!
//! Guarantees: the machine's own apt is left alone: a state of its own lists the other release,
//! from the mirror that the machine already uses, with its signatures checked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite of Debian's archive, as a separate apt sees it. Dropping it leaves its directory.
pub(crate) struct Suite {
    state: PathBuf,
}

impl Suite {
    /// Reads the suite's list of packages into the directory `state`, which is emptied first.
    pub(crate) fn open(state: &Path, suite: &str) -> Result<Self> {
        if state.exists() {
            std::fs::remove_dir_all(state)
                .with_context(|| format!("cannot remove {}", state.display()))?;
        }
        for directory in ["lists/partial", "cache/archives/partial", "parts", "unpacked"] {
            let path = state.join(directory);
            std::fs::create_dir_all(&path)
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        let archive = if suite.ends_with("-security") { "debian-security" } else { "debian" };
        let address = mirror(archive)?;
        let source = format!("deb [signed-by={KEYRING}] {address} {suite} main\n");
        for (name, content) in [("sources.list", source.as_str()), ("status", "")] {
            let path = state.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let suite = Self { state: state.to_path_buf() };
        process::output(&mut suite.apt("apt-get", &["update", "-q"]))?;
        Ok(suite)
    }

    /// What a package depends on, and what that depends on in turn.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let only = ["--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"];
        let quiet = ["--no-replaces", "--no-enhances", "depends", "--recurse", package];
        let text = process::output(&mut self.apt("apt-cache", &[&only[..], &quiet].concat()))?;
        let names = text.lines().filter_map(|line| line.split_once("epends: "));
        Ok(names.map(|(_, name)| name.trim().to_owned()).collect())
    }

    /// Downloads the packages and unpacks them into one directory, which is given back.
    pub(crate) fn unpack(&self, packages: &[&str]) -> Result<PathBuf> {
        process::output(&mut self.apt("apt-get", &[&["download", "-q"], packages].concat()))?;
        let unpacked = self.state.join("unpacked");
        let files = std::fs::read_dir(&self.state)?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_package = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
        let files: Vec<PathBuf> = files.filter(is_package).collect();
        ensure!(files.len() == packages.len(), "apt-get downloaded {} packages", files.len());
        for file in files {
            process::output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked))?;
        }
        Ok(unpacked)
    }

    /// Removes the state and what was unpacked.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.state).context("cannot remove the separate apt state")
    }

    fn apt(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.state);
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "parts"),
            ("Dir::Etc::preferencesparts", "parts"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.state.join(path).display()));
        }
        command.args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root"]).args(args);
        command
    }
}

/// Where this machine gets one of Debian's archives from. A mirror that it has no source for is
/// taken to lie beside the main one.
fn mirror(archive: &str) -> Result<String> {
    let mut texts = Vec::new();
    for directory in ["/etc/apt/sources.list.d", "/etc/apt"] {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|e| e == "list" || e == "sources") {
                texts.extend(std::fs::read_to_string(path));
            }
        }
    }
    let find = |archive: &str| texts.iter().find_map(|text| parse_mirror(text, archive));
    let beside = |main: String| Some(format!("{}/{archive}", main.strip_suffix("/debian")?));
    find(archive)
        .or_else(|| find("debian").and_then(beside))
        .context("no Debian mirror in this machine's apt sources")
}

/// Find the address whose path is the archive, in either format of apt's sources.
fn parse_mirror(text: &str, archive: &str) -> Option<String> {
    let is_archive = |word: &&str| {
        let path = word.trim_end_matches('/').strip_suffix(archive);
        word.contains("://") && path.is_some_and(|path| path.ends_with('/'))
    };
    text.lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .find(is_archive)
        .map(|address| address.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_mirror;

    #[test]
    fn finds_the_archive_in_both_formats() {
        let deb822 = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\n";
        let one_line = "# a comment\ndeb [arch=amd64] http://mirror.test/debian/ bookworm main\n";
        for text in [deb822, one_line] {
            let found = parse_mirror(text, "debian");
            assert_eq!(found.as_deref(), Some("http://mirror.test/debian"), "{text}");
        }
    }

    #[test]
    fn tells_security_updates_and_other_vendors_apart() {
        let text = "deb http://mirror.test/debian-security bookworm-security main\n\
                    URIs: http://vendor.test/apt\n# deb http://mirror.test/debian sid main\n";
        assert_eq!(parse_mirror(text, "debian"), None);
        let found = parse_mirror(text, "debian-security");
        assert_eq!(found.as_deref(), Some("http://mirror.test/debian-security"));
    }
}
