//! Loads the BPF object: creates the maps or takes over the pinned ones, and has the kernel verify
//! every program.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use bowline_ebpf_abi::Plain;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::MapSizes;
use super::condition::LoadedProgram;
use super::features::{Feature, Features};
use super::links::PacketHook;
use super::netns;
use super::pins::Pins;
use super::syscall::{self, AttachPoint};

/// The object that build.rs found; empty when there was none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bowline.bpf.o"));

/// The BPF object of this build; empty when there was none. For those who load it themselves, as
/// the packet tables do.
pub fn object() -> &'static [u8] {
    OBJECT
}

/// A key or value of a map, for those who open maps of [`object`] through aya.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Raw<T>(pub T);

// SAFETY: `Plain` promises that the type is nothing but its bytes, and any bytes make one.
unsafe impl<T: Plain> aya::Pod for Raw<T> {}

/// The programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadProgramsFailed {
    #[error("this build holds no BPF objects; build with cargo xtask build")]
    NotBuilt,
    #[error("the BPF object was not taken: {}", chain(.0))]
    Object(EbpfError),
    #[error("the kernel refused program {program}: {}", brief(.source))]
    Refused { program: String, source: ProgramError },
    #[error("the BPF object holds no program {0}")]
    Missing(&'static str),
}

/// An error with what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// A refusal on one line: the verifier's last words are the ones that say why.
fn brief(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return chain(error);
    };
    let log = verifier_log.to_string();
    let statistics = |line: &&str| {
        ["verification time", "stack depth", "processed "].iter().any(|s| line.starts_with(s))
    };
    let words = log.lines().rev().filter(|line| !line.trim().is_empty());
    let words = words.skip_while(statistics).take(2).collect::<Vec<_>>();
    let words: Vec<&str> = words.into_iter().rev().collect();
    format!("{io_error}: {}", words.join(": "))
}

/// A program at the host side of a veth or at the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketProgram {
    FromPod,
    ToPod,
    FromUplink,
}

impl PacketProgram {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
        }
    }
}

/// Socket programs and where they go.
pub(super) const SOCKET_PROGRAMS: [(&str, AttachPoint); 9] = [
    ("connect4", AttachPoint::Connect4),
    ("connect6", AttachPoint::Connect6),
    ("sendmsg4", AttachPoint::SendMsg4),
    ("sendmsg6", AttachPoint::SendMsg6),
    ("recvmsg4", AttachPoint::RecvMsg4),
    ("recvmsg6", AttachPoint::RecvMsg6),
    ("getpeername4", AttachPoint::GetPeerName4),
    ("getpeername6", AttachPoint::GetPeerName6),
    ("established", AttachPoint::SockOps),
];

/// Loaded programs. Dropping them detaches nothing that is pinned.
#[derive(Debug)]
pub(super) struct Programs {
    object: Ebpf,
}

impl Programs {
    pub(super) fn load(
        pins: &Pins,
        sizes: &MapSizes,
        features: &Features,
        socket_cgroup: &Path,
    ) -> Result<Self, LoadProgramsFailed> {
        if OBJECT.is_empty() {
            return Err(LoadProgramsFailed::NotBuilt);
        }
        // Kernels below 5.11 count map memory against this limit. Where it may not be raised the
        // maps are refused with a message of their own.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let can_set_retval = u32::from(features.uses(Feature::SetRetval));
        let (last_peer, lines) = (sizes.peers - 1, sizes.service_lines());
        let connections_row = sizes.connections_row();
        // No namespace has the number 0: datagrams of the node's own unconnected sockets to ports
        // that a service has not are not refused then, as those of pods are not.
        let node_netns = netns::cookie(socket_cgroup).unwrap_or_else(|error| {
            tracing::warn!(%error, "the number of the node's network namespace is not known");
            0
        });
        let maps: &PathBuf = &pins.maps;
        let mut loader = EbpfLoader::new();
        loader
            .default_map_pin_directory(maps)
            .override_global("CAN_SET_RETVAL", &can_set_retval, true)
            .override_global("LAST_PEER", &last_peer, true)
            .override_global("LINES", &lines, true)
            .override_global("CONNECTIONS_ROW", &connections_row, true)
            .override_global("NODE_NETNS", &node_netns, true);
        for (name, size) in sizes.by_map() {
            loader.map_max_entries(name, size);
        }
        let mut object = loader.load(OBJECT).map_err(LoadProgramsFailed::Object)?;
        for (name, program) in object.programs_mut() {
            let loaded = match program {
                Program::CgroupSockAddr(program) => program.load(),
                Program::SockOps(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => continue,
            };
            loaded.map_err(|source| {
                tracing::debug!("program {name}: {}", chain(&source));
                LoadProgramsFailed::Refused { program: name.to_owned(), source }
            })?;
        }
        drop(loader);
        // Loading read the kernel's type information, tens of megabytes.
        super::memory::give_back();
        Ok(Self { object })
    }

    /// All of them, for those who look. `cgroup` and `uplinks` are where those run that do not
    /// run at pods.
    pub(super) fn listed(
        &self,
        hook: PacketHook,
        cgroup: &Path,
        uplinks: &[u32],
    ) -> Vec<LoadedProgram> {
        let describe = |(name, program): (&str, &Program)| {
            let number = syscall::program_number(program.fd().ok()?.as_fd()).ok()?;
            let events = matches!(program, Program::SockOps(_));
            let socket = events || matches!(program, Program::CgroupSockAddr(_));
            let places = match name {
                _ if socket => vec![format!("cgroup {}", cgroup.display())],
                "from_uplink" => uplinks.iter().map(|link| format!("link {link}")).collect(),
                _ => Vec::new(),
            };
            let direction = if name == PacketProgram::ToPod.name() { "egress" } else { "ingress" };
            let hook = match hook {
                _ if events => "sock_ops".to_owned(),
                _ if socket => name.to_owned(),
                PacketHook::Tcx => format!("tcx {direction}"),
                PacketHook::Clsact => format!("clsact {direction}"),
            };
            Some(LoadedProgram { name: name.to_owned(), number, hook, places })
        };
        let mut all: Vec<LoadedProgram> = self.object.programs().filter_map(describe).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.object.program(name).is_some()
    }

    pub(super) fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadProgramsFailed> {
        let program = self.object.program(name).ok_or(LoadProgramsFailed::Missing(name))?;
        let fd = program
            .fd()
            .map_err(|source| LoadProgramsFailed::Refused { program: name.to_owned(), source })?;
        Ok(fd.as_fd())
    }

    pub(super) fn packet(
        &mut self,
        program: PacketProgram,
    ) -> Result<&mut SchedClassifier, LoadProgramsFailed> {
        let name = program.name();
        match self.object.program_mut(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(LoadProgramsFailed::Missing(name)),
        }
    }
}
