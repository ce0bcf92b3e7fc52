//! Where maps and links are pinned, and the file system that holds them.

use std::io;
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::ABI_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

/// `statfs` type of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The pin directory of this ABI version.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    pub(super) maps: PathBuf,
    pub(super) links: PathBuf,
}

impl Pins {
    pub(super) fn under(bpffs: &Path) -> Self {
        let version = bpffs.join("bowline").join(format!("v{ABI_VERSION}"));
        Self { maps: version.join("maps"), links: version.join("links") }
    }

    /// Mounts the file system if there is none, and makes the directories.
    pub(super) fn prepare(bpffs: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(bpffs)?;
        if !is_bpffs(bpffs)? {
            mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
        }
        let pins = Self::under(bpffs);
        std::fs::create_dir_all(&pins.maps)?;
        std::fs::create_dir_all(&pins.links)?;
        Ok(pins)
    }
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type().0 == BPF_FS_MAGIC)
}
