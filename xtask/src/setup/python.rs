//! The Python client of Kubernetes, in a virtual environment of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{process, workspace};

/// The release that bowline is tested with.
pub(crate) const CLIENT: &str = "kubernetes==37.0.2";

/// The environment; its name holds the release, so that another one makes it anew.
fn environment() -> PathBuf {
    workspace::target().join("tools").join(CLIENT.replace("==", "-python-"))
}

/// Whether all of it is there.
pub(crate) fn is_installed() -> bool {
    environment().join("complete").is_file()
}

/// Make the environment, unless it is there.
pub(crate) fn install() -> Result<()> {
    if is_installed() {
        return Ok(());
    }
    let environment = environment();
    eprintln!("installing {CLIENT} from PyPI: a client the tests run unmodified");
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let mut pip = Command::new(environment.join("bin/pip"));
    process::run(pip.args(["install", "--quiet", "--disable-pip-version-check", CLIENT]))?;
    std::fs::write(environment.join("complete"), CLIENT)?;
    Ok(())
}
