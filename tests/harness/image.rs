//! The images of the tests: the static workload and a shell, in two versions that differ in one
//! environment variable.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::artifacts;
use crate::command::{command, output};

/// The versions; each says its own name in its answers.
pub const TAGS: [&str; 2] = ["v1", "v2"];

/// An OCI layout that holds them, made when it is absent or older than the workload.
pub(crate) fn layout() -> Result<PathBuf> {
    let workload = artifacts::workload()?;
    let layout = artifacts::target().join("images/workload");
    if is_fresh(&layout, &workload) {
        return Ok(layout);
    }
    let building = layout.with_extension(format!("{}", std::process::id()));
    if let Some(parent) = building.parent() {
        fs::create_dir_all(parent)?;
    }
    build(&building, &workload)?;
    if layout.exists() {
        fs::remove_dir_all(&layout)?;
    }
    fs::rename(&building, &layout).context("cannot put the image in place")?;
    Ok(layout)
}

fn is_fresh(layout: &Path, workload: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    match (changed(&layout.join("index.json")), changed(workload)) {
        (Some(image), Some(program)) => image > program,
        _ => false,
    }
}

fn build(layout: &Path, workload: &Path) -> Result<()> {
    umoci(&["init", "--layout", &text(layout)])?;
    let base = format!("{}:v1", layout.display());
    umoci(&["new", "--image", &base])?;
    umoci(&["insert", "--image", &base, &text(workload), "/workload"])?;
    umoci(&["insert", "--image", &base, "/bin/busybox", "/bin/sh"])?;
    for tag in TAGS {
        umoci(&[
            "config",
            "--image",
            &base,
            "--tag",
            tag,
            "--config.entrypoint",
            "/workload",
            "--config.cmd",
            "serve",
            "--config.env",
            &format!("VERSION={tag}"),
        ])?;
    }
    Ok(())
}

fn umoci(arguments: &[&str]) -> Result<()> {
    output(command("umoci").args(arguments)).context("cannot build an image")?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
