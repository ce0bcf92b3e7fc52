//! The images of the tests: the static workload and a shell, in two versions that differ in one
//! environment variable.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::artifacts;
use crate::command::{command, output};

/// The versions; each says its own name in its answers.
pub const TAGS: [&str; 2] = ["v1", "v2"];

/// No run takes so long.
const OLD: Duration = Duration::from_hours(3);

/// An OCI layout that holds them, made when this build of the workload has none. It is never taken
/// away from under another test: each build has its own, and those of builds long gone go.
pub(crate) fn layout() -> Result<PathBuf> {
    let workload = artifacts::workload()?;
    let built = fs::metadata(&workload)?.modified()?;
    let number = built.duration_since(UNIX_EPOCH)?.as_nanos();
    let images = artifacts::target().join("images");
    let layout = images.join(format!("workload-{number}"));
    if layout.exists() {
        return Ok(layout);
    }
    let building = images.join(format!("making-{}", std::process::id()));
    fs::create_dir_all(&images)?;
    build(&building, &workload)?;
    // Another test may have been faster.
    if fs::rename(&building, &layout).is_err() {
        fs::remove_dir_all(&building)?;
        ensure!(layout.exists(), "cannot put the image in place at {}", layout.display());
    }
    name(&images, &layout)?;
    remove_old(&images, &layout)?;
    Ok(layout)
}

/// The name that README uses: a link to the newest.
fn name(images: &Path, layout: &Path) -> Result<()> {
    let (link, name) =
        (images.join(format!("link-{}", std::process::id())), images.join("workload"));
    symlink(layout.file_name().context("no name")?, &link)?;
    // Earlier builds had a directory there.
    if fs::symlink_metadata(&name).is_ok_and(|there| there.is_dir()) {
        fs::remove_dir_all(&name)?;
    }
    fs::rename(&link, &name).context("cannot name the image")
}

fn remove_old(images: &Path, but: &Path) -> Result<()> {
    for entry in fs::read_dir(images)? {
        let path = entry?.path();
        // What others remove meanwhile is gone, too.
        let Ok(data) = fs::symlink_metadata(&path) else { continue };
        let is_old = data.modified()?.elapsed().is_ok_and(|age| age > OLD);
        if is_old && data.is_dir() && path != but {
            drop(fs::remove_dir_all(&path));
        }
    }
    Ok(())
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
