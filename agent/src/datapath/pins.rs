//! Where maps and links are pinned, and the file system that holds them.

use std::io;
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::ABI_VERSION;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use super::layouts::Layouts;

/// What all builds pin is in this directory.
const PARENT: &str = "bowline";

/// `statfs` type of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Where a data plane is pinned there is none that this build reads.
#[derive(Debug, thiserror::Error)]
pub enum FindPinsFailed {
    #[error(
        "nothing is pinned at {}: is an agent at work with {}?",
        path.display(),
        bpffs.display()
    )]
    Nothing { path: PathBuf, bpffs: PathBuf },
    #[error("{} cannot be looked at: {source}", path.display())]
    NotRead { path: PathBuf, source: io::Error },
    #[error(
        "{} is no directory: somebody else put it there; remove it and start the agent",
        path.display()
    )]
    NoDirectory { path: PathBuf },
    #[error(
        "{} is on no BPF file system, so that nothing is pinned there: name the one that the \
         node's agent was given by --bpffs",
        path.display()
    )]
    NoBpfFileSystem { path: PathBuf },
    #[error(
        "{} has the data plane of another build (layouts {found}; this build reads \
         {ABI_VERSION}): use the bowline of that build, or start this build's agent",
        path.display()
    )]
    OtherBuild { path: PathBuf, found: String },
    #[error(
        "{} is not filled yet from the data plane of another build (layouts {found}): look again \
         when this build's agent has started",
        path.display()
    )]
    NotFilled { path: PathBuf, found: String },
    #[error(
        "{} has maps with other layouts than this build's, under the same number \
         ({ABI_VERSION}): use the bowline of the build whose agent is at work there",
        path.display()
    )]
    OtherLayouts { path: PathBuf },
    #[error(
        "{} has nothing of bowline's, but {names}: somebody else put that there; is an agent at \
         work with another BPF file system?",
        path.display()
    )]
    Strangers { path: PathBuf, names: String },
}

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
        let directory = bpffs.join(PARENT).join(format!("v{version}"));
        let [layouts, maps, links] = ["layouts", "maps", "links"].map(|name| directory.join(name));
        Self { directory, layouts, maps, links }
    }

    /// Those of this build, for who reads what an agent has pinned.
    pub(super) fn to_read(bpffs: &Path) -> Result<Self, FindPinsFailed> {
        let pins = Self::under(bpffs);
        let parent = bpffs.join(PARENT);
        let nothing = || FindPinsFailed::Nothing { path: parent.clone(), bpffs: bpffs.into() };
        if !is_directory(&parent)? {
            return Err(nothing());
        }
        let others = Self::versions(&parent)
            .map_err(|source| FindPinsFailed::NotRead { path: parent.clone(), source })?;
        let found = || others.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ");
        if !is_directory(&pins.directory)? {
            let names = names_in(&parent)?;
            return Err(match (others.is_empty(), names.is_empty()) {
                (false, _) => FindPinsFailed::OtherBuild { path: parent, found: found() },
                (true, false) => FindPinsFailed::Strangers { path: parent, names },
                (true, true) => nothing(),
            });
        }
        let path = pins.directory.clone();
        if !is_bpffs(&path).is_ok_and(|is| is) {
            return Err(FindPinsFailed::NoBpfFileSystem { path });
        }
        if !is_directory(&pins.maps)? {
            return Err(FindPinsFailed::Nothing { path: pins.maps, bpffs: bpffs.into() });
        }
        match (pins.layouts.exists(), others.is_empty()) {
            (false, false) => Err(FindPinsFailed::NotFilled { path, found: found() }),
            // Somebody took it away; the maps are whole.
            (false, true) => Ok(pins),
            (true, _) if Layouts::pinned(&pins.layouts) != Some(Layouts::own()) => {
                Err(FindPinsFailed::OtherLayouts { path })
            }
            (true, _) => Ok(pins),
        }
    }

    /// The numbers of other layouts that there are sets of.
    fn versions(parent: &Path) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(parent)? {
            let name = entry?.file_name();
            let version =
                name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok());
            found.extend(version.filter(|version| *version != ABI_VERSION));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Those of builds with other layouts.
    pub(super) fn of_other_versions(bpffs: &Path) -> io::Result<Vec<Self>> {
        let versions = Self::versions(&bpffs.join(PARENT))?.into_iter();
        Ok(versions.map(|version| Self::of_version(bpffs, version)).collect())
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

/// False where nothing is.
fn is_directory(path: &Path) -> Result<bool, FindPinsFailed> {
    let path = path.to_path_buf();
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(FindPinsFailed::NoDirectory { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FindPinsFailed::NotRead { path, source }),
    }
}

/// The first few, in words.
fn names_in(path: &Path) -> Result<String, FindPinsFailed> {
    const FEW: usize = 3;
    let failed = |source| FindPinsFailed::NotRead { path: path.to_path_buf(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let more = names.len().saturating_sub(FEW);
    names.truncate(FEW);
    let names = names.join(", ");
    Ok(if more > 0 { format!("{names} and {more} more") } else { names })
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type().0 == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a directory that has these files; a name with a slash at its end is a
    /// directory.
    fn said(names: &[&str]) -> String {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match name.ends_with('/') {
                true => std::fs::create_dir_all(&path).unwrap(),
                false => std::fs::write(&path, "").unwrap(),
            }
        }
        let error = Pins::to_read(root.path()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error.replace(&root.path().display().to_string(), "/fs")
    }

    #[test]
    fn what_is_no_data_plane_of_this_build_is_named_with_what_to_do() {
        let nothing = "nothing is pinned at /fs/bowline: is an agent at work with /fs?";
        assert_eq!(said(&[]), nothing);
        assert_eq!(said(&["bowline/"]), nothing);
        let own = format!("bowline/v{ABI_VERSION}");
        for (names, starts) in [
            (&["bowline"][..], "/fs/bowline is no directory: somebody else".to_owned()),
            (&[&own], format!("/fs/{own} is no directory: somebody else")),
            (
                &["bowline/v4/", "bowline/other/"],
                format!(
                    "/fs/bowline has the data plane of another build (layouts 4; this build reads \
                     {ABI_VERSION}): use the bowline of that build, or start this build's agent"
                ),
            ),
            (
                &["bowline/v99/", "bowline/v4/"],
                "/fs/bowline has the data plane of another build (layouts 4 and 99;".to_owned(),
            ),
            (
                &["bowline/vx/", "bowline/d", "bowline/c", "bowline/b"],
                "/fs/bowline has nothing of bowline's, but b, c, d and 1 more: somebody".to_owned(),
            ),
            (&[&format!("{own}/maps/")], format!("/fs/{own} is on no BPF file system")),
        ] {
            let said = said(names);
            assert!(said.starts_with(&starts), "{names:?}: {said}");
        }
    }

    #[test]
    fn a_file_system_that_is_none_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Pins::to_read(file.path()).unwrap_err().to_string();
        assert!(error.ends_with("/bowline cannot be looked at: Not a directory (os error 20)"));
    }
}
