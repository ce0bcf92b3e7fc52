//! Two releases of kubectl, taken from the Debian releases that carry them.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::debian::Suite;
use crate::workspace;

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
    let state = workspace::target().join("tools").join(format!("apt-{}", release.suite));
    let suite = Suite::open(&state, release.suite)?;
    let unpacked = suite.unpack(&["kubectl"])?;
    std::fs::rename(unpacked.join("usr/bin/kubectl"), wanted)
        .context("the package holds no kubectl")?;
    suite.remove()
}
