//! Kernel settings of the network namespace that the calling thread is in.
//!
//! `/proc/sys/net` shows the settings of the reader's own network namespace, so what is set here
//! touches this node alone.

use std::{fs, io};

/// A kernel setting could not be written.
#[derive(Debug, thiserror::Error)]
#[error("setting {name}={value}: {source}")]
pub(crate) struct SetSysctlFailed {
    name: String,
    value: String,
    source: io::Error,
}

/// Reads a setting; `None` where this kernel does not have it.
pub(crate) fn read(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|text| text.trim().to_owned())
}

/// Writes a setting.
pub(crate) fn write(name: &str, value: &str) -> Result<(), SetSysctlFailed> {
    fs::write(path(name), value).map_err(|source| SetSysctlFailed {
        name: name.replace('/', "."),
        value: value.to_owned(),
        source,
    })
}

/// Writes a setting that not every kernel has.
pub(crate) fn write_if_present(name: &str, value: &str) -> Result<(), SetSysctlFailed> {
    match write(name, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Names use slashes, because names of links may hold dots.
fn path(name: &str) -> String {
    format!("/proc/sys/{name}")
}
