//! What somebody pinned, by the kernel's own account.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What a descriptor of something that was pinned is of. The kernel describes each kind otherwise,
/// and does not say which one it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Map,
    Program,
    Link,
    Other,
}

impl Object {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Map => "a map",
            Self::Program => "a program",
            Self::Link => "a program's link",
            Self::Other => "something else",
        }
    }
}

pub(super) fn object(descriptor: BorrowedFd<'_>) -> io::Result<Object> {
    let path = format!("/proc/thread-self/fd/{}", descriptor.as_raw_fd());
    let name = std::fs::read_link(path)?;
    Ok(match name.to_str() {
        Some("anon_inode:bpf-map") => Object::Map,
        Some("anon_inode:bpf-prog") => Object::Program,
        Some("anon_inode:bpf_link" | "anon_inode:bpf-link") => Object::Link,
        _ => Object::Other,
    })
}
