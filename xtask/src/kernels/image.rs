//! A guest's file system: a shell, the test binary with its libraries, and the kernel's modules.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::release::Kernel;
use crate::{process, workspace};

/// What the guest runs first.
const INIT: &str = include_str!("init.sh");

/// What is the same in every guest.
pub(crate) fn base(test_binary: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "tmp", "run", "modules"] {
        archive.directory(directory);
    }
    let busybox = program("busybox")?;
    archive.file("/bin/busybox", &read(&busybox)?);
    archive.file("/init", INIT.as_bytes());
    let stripped = workspace::target().join("kernels/datapath-tests");
    process::output(Command::new("strip").arg("-o").arg(&stripped).arg(test_binary))?;
    archive.file("/datapath-tests", &read(&stripped)?);
    let mut libraries: Vec<PathBuf> = libraries(&stripped)?;
    for name in ["ip", "tc"] {
        let path = program(name)?;
        archive.file(&format!("/usr/bin/{name}"), &read(&path)?);
        libraries.extend(self::libraries(&path)?);
    }
    libraries.sort_unstable();
    libraries.dedup();
    for library in libraries {
        archive.file(&library.to_string_lossy(), &read(&library)?);
    }
    Ok(archive.finish())
}

/// The whole of one guest; gives the path of the file.
pub(crate) fn of(kernel: &Kernel, base: &[u8], filters: &[&str]) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for (number, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        // The shell sorts names.
        archive.file(&format!("/modules/{number:02}-{name}"), &read(module)?);
    }
    archive.file("/filters", filters.join(" ").as_bytes());
    let path = kernel.directory.join("initramfs");
    std::fs::write(&path, [base, &archive.finish()].concat())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn program(name: &str) -> Result<PathBuf> {
    workspace::find_program(name).with_context(|| format!("no program {name}: run the set-up"))
}

/// The shared libraries of a program and its loader, as the loader itself finds them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = process::output(Command::new("ldd").arg(program))?;
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}
