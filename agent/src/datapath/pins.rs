//! Where maps and links are pinned, and the file system that holds them.

use std::io;
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::ABI_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

/// `statfs` type of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The pin directory of an ABI version.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    pub(super) directory: PathBuf,
    /// The description of the maps' layouts.
    pub(super) layouts: PathBuf,
    pub(super) maps: PathBuf,
    pub(super) links: PathBuf,
}

impl Pins {
    /// Those of this build.
    pub(super) fn under(bpffs: &Path) -> Self {
        Self::of_version(bpffs, ABI_VERSION)
    }

    fn of_version(bpffs: &Path, version: u32) -> Self {
        let directory = bpffs.join("bowline").join(format!("v{version}"));
        let [layouts, maps, links] = ["layouts", "maps", "links"].map(|name| directory.join(name));
        Self { directory, layouts, maps, links }
    }

    /// Those of builds with other layouts.
    pub(super) fn of_other_versions(bpffs: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(bpffs.join("bowline"))? {
            let name = entry?.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix('v')?.parse().ok());
            let other = version.filter(|version| *version != ABI_VERSION);
            found.extend(other.map(|version| Self::of_version(bpffs, version)));
        }
        Ok(found)
    }

    /// Mounts the file system if there is none, and makes the directories.
    pub(super) fn prepare(bpffs: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(bpffs)?;
        if !is_bpffs(bpffs)? {
            mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
        }
        let pins = Self::under(bpffs);
        pins.make()?;
        Ok(pins)
    }

    /// Makes the directories that are missing.
    pub(super) fn make(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.maps)?;
        std::fs::create_dir_all(&self.links)
    }
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type().0 == BPF_FS_MAGIC)
}
