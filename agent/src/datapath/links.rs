//! Attaches programs so that they outlive the agent, and replaces them without a gap.
//!
//! Guarantees: an attached program stays attached when the agent dies; attaching again replaces the
//! program between one packet (or system call) and the next. A pinned link whose cgroup or
//! interface is gone is made anew.
//! From Linux 6.6 on packets are seen through TCX links; below, through filters, see `filters`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::features::{Feature, Features};
use super::filters::{self, Whose};
use super::kernel::Attached;
use super::object::{Object, object};
use super::pins::Pins;
use super::programs::{LoadProgramsFailed, PacketProgram, Programs, SOCKET_PROGRAMS};
use super::syscall::{self, AttachPoint};

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachProgramFailed {
    #[error(transparent)]
    Program(#[from] LoadProgramsFailed),
    #[error("opening cgroup {} failed: {source}", path.display())]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("attaching {program} to {target} failed: {source}")]
    Link { program: &'static str, target: String, source: io::Error },
    #[error("attaching {program} to interface {interface} by clsact failed: {message}")]
    Filter { program: &'static str, interface: String, message: String },
}

/// How this kernel shows packets to programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketHook {
    Tcx,
    Clsact,
}

impl PacketHook {
    /// The one to use with these features.
    pub(super) fn of(features: &Features) -> Self {
        if features.uses(Feature::Tcx) { Self::Tcx } else { Self::Clsact }
    }
}

/// What an attached program is, and what it hangs on.
struct Place {
    program: &'static str,
    pin: PathBuf,
    target: Target,
    point: AttachPoint,
}

/// The places of all socket programs. The directory must stay open as long as they are used.
fn socket_places(
    pins: &Pins,
    cgroup: &Path,
) -> Result<(File, impl Iterator<Item = Place>), AttachProgramFailed> {
    let not_opened = |source| AttachProgramFailed::Cgroup { path: cgroup.to_path_buf(), source };
    let directory = File::open(cgroup).map_err(not_opened)?;
    let identity = directory.metadata().map_err(not_opened)?.ino();
    let descriptor = directory.as_raw_fd() as u32;
    let links = pins.links.clone();
    let places = SOCKET_PROGRAMS.into_iter().map(move |(program, point)| Place {
        program,
        pin: links.join(program),
        target: Target { descriptor, identity },
        point,
    });
    Ok((directory, places))
}

fn packet_place(pins: &Pins, which: PacketProgram, ifindex: u32) -> Place {
    let point = match which {
        PacketProgram::ToPod => AttachPoint::TcxEgress,
        _ => AttachPoint::TcxIngress,
    };
    let identity = u64::from(ifindex) | u64::from(point as u32) << 32;
    let target = Target { descriptor: ifindex, identity };
    Place { program: which.name(), pin: packet_pin(pins, which, ifindex), target, point }
}

/// Attaches all socket programs to the cgroup and to all below it.
pub(super) fn attach_sockets(
    programs: &Programs,
    pins: &Pins,
    cgroup: &Path,
) -> Result<(), AttachProgramFailed> {
    let (_open, places) = socket_places(pins, cgroup)?;
    for place in places {
        attach_at(programs, &place, || format!("cgroup {}", cgroup.display()))?;
    }
    Ok(())
}

/// Attaches a packet program to an interface of the calling thread's network namespace.
pub(super) fn attach_packets(
    programs: &mut Programs,
    pins: &Pins,
    which: PacketProgram,
    ifindex: u32,
    hook: PacketHook,
) -> Result<(), AttachProgramFailed> {
    match hook {
        PacketHook::Clsact => filters::attach(programs, which, ifindex).map(drop),
        PacketHook::Tcx => {
            let place = packet_place(pins, which, ifindex);
            attach_at(programs, &place, || format!("interface {ifindex}"))
        }
    }
}

/// Attaches a packet program in place of an earlier agent's. One that `waits`, beside another
/// build's, is the first to see packets also where its own was left behind.
pub(super) fn take_over_packets(
    programs: &mut Programs,
    pins: &Pins,
    which: PacketProgram,
    ifindex: u32,
    (hook, waits): (PacketHook, bool),
) -> Result<(), AttachProgramFailed> {
    if waits && hook == PacketHook::Clsact {
        filters::forget(which, ifindex, Whose::Own)
            .map_err(|source| not_forgotten(which, ifindex, source))?;
    }
    attach_packets(programs, pins, which, ifindex, hook)
}

fn not_forgotten(which: PacketProgram, ifindex: u32, source: io::Error) -> AttachProgramFailed {
    let target = format!("interface {ifindex}");
    AttachProgramFailed::Link { program: which.name(), target, source }
}

fn attach_at(
    programs: &Programs,
    place: &Place,
    target: impl Fn() -> String,
) -> Result<(), AttachProgramFailed> {
    let program = programs.fd(place.program)?;
    attach(program, &place.pin, &place.target, place.point).map_err(|source| {
        AttachProgramFailed::Link { program: place.program, target: target(), source }
    })
}

/// Attaches the socket programs that are not attached as they should be; says which and why.
pub(super) fn repair_sockets(
    programs: &Programs,
    pins: &Pins,
    cgroup: &Path,
) -> Result<Vec<LinkRepair>, AttachProgramFailed> {
    let (_open, places) = socket_places(pins, cgroup)?;
    let mut repairs = Vec::new();
    for place in places {
        let target = || format!("cgroup {}", cgroup.display());
        repairs.extend(repair_at(programs, &place, target)?);
    }
    Ok(repairs)
}

/// The same for a packet program.
pub(super) fn repair_packets(
    programs: &mut Programs,
    pins: &Pins,
    which: PacketProgram,
    ifindex: u32,
    hook: PacketHook,
) -> Result<Option<LinkRepair>, AttachProgramFailed> {
    let target = || interface_name(ifindex).unwrap_or_else(|| ifindex.to_string());
    match hook {
        PacketHook::Clsact => {
            let found = filters::attach(programs, which, ifindex)?;
            let program = which.name();
            Ok(found.map(|found| LinkRepair { program, target: target(), found }))
        }
        PacketHook::Tcx => repair_at(programs, &packet_place(pins, which, ifindex), target),
    }
}

/// A program that had to be attached again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkRepair {
    pub(super) program: &'static str,
    pub(super) target: String,
    pub(super) found: &'static str,
}

fn repair_at(
    programs: &Programs,
    place: &Place,
    target: impl Fn() -> String,
) -> Result<Option<LinkRepair>, AttachProgramFailed> {
    let program = programs.fd(place.program)?;
    let found = damage(program, place).map_err(|source| AttachProgramFailed::Link {
        program: place.program,
        target: target(),
        source,
    })?;
    let Some(found) = found else { return Ok(None) };
    match attach_at(programs, place, &target) {
        // The kernel is still letting go of the link whose pin was removed: at the next look.
        Err(AttachProgramFailed::Link { source, .. })
            if source.raw_os_error() == Some(libc::EEXIST) =>
        {
            return Ok(None);
        }
        attached => attached?,
    }
    Ok(Some(LinkRepair { program: place.program, target: target(), found }))
}

/// What is wrong with an attached program, if anything is.
fn damage(program: BorrowedFd<'_>, place: &Place) -> io::Result<Option<&'static str>> {
    let Some(link) = syscall::open_pin(&place.pin)? else {
        return Ok(Some("its pin was gone"));
    };
    let info = syscall::link_info(link.as_fd())?;
    Ok(if info.target != place.target.identity {
        Some("it was detached")
    } else if info.program != syscall::program_number(program)? {
        Some("another program was in its place")
    } else {
        None
    })
}

/// Forgets what an earlier agent attached to an interface, which this one does not use: by another
/// hook, or by clsact of a build with other map layouts.
pub(super) fn forget_predecessors(
    pins: &Pins,
    which: PacketProgram,
    ifindex: u32,
    hook: PacketHook,
) -> Result<(), AttachProgramFailed> {
    let done = match hook {
        PacketHook::Tcx => filters::forget(which, ifindex, Whose::Anyones),
        PacketHook::Clsact => remove_if_there(&packet_pin(pins, which, ifindex))
            .and_then(|()| filters::forget(which, ifindex, Whose::Others)),
    };
    done.map_err(|source| not_forgotten(which, ifindex, source))
}

/// The name of an interface of the calling thread's network namespace, if it exists.
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    // nix takes the C library's null pointer for success and gives an empty name then.
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    (!name.is_empty()).then(|| name.to_string_lossy().into_owned())
}

/// Removes the pins of a pod's interface. Where the interface still exists its programs go with
/// them; the filters of clsact go with the interface.
pub(super) fn forget_pod(pins: &Pins, ifindex: u32) -> io::Result<()> {
    for which in [PacketProgram::FromPod, PacketProgram::ToPod] {
        remove_if_there(&packet_pin(pins, which, ifindex))?;
    }
    Ok(())
}

/// Removes pins of pods' interfaces that are not `known`.
pub(super) fn forget_strays(pins: &Pins, known: impl Fn(u32) -> bool) -> io::Result<()> {
    let of_pods = [PacketProgram::FromPod.name(), PacketProgram::ToPod.name()];
    for entry in std::fs::read_dir(&pins.links)? {
        let entry = entry?;
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.split_once('-'));
        let Some((program, Ok(ifindex))) =
            parts.map(|(program, ifindex)| (program, ifindex.parse()))
        else {
            continue;
        };
        if of_pods.contains(&program) && !known(ifindex) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the pin of an uplink or tunnel device.
pub(super) fn forget_uplink(pins: &Pins, ifindex: u32) -> io::Result<()> {
    remove_if_there(&packet_pin(pins, PacketProgram::FromUplink, ifindex))
}

fn packet_pin(pins: &Pins, which: PacketProgram, ifindex: u32) -> PathBuf {
    pins.links.join(format!("{}-{ifindex}", which.name()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What a link hangs on: how it is named when it is made, and how the kernel names it after.
struct Target {
    descriptor: u32,
    identity: u64,
}

fn attach(
    program: BorrowedFd<'_>,
    path: &Path,
    target: &Target,
    point: AttachPoint,
) -> io::Result<()> {
    if let Some(link) = syscall::open_pin(path)? {
        let mine = syscall::link_info(link.as_fd())?.target == target.identity;
        if mine {
            match syscall::update_link(link.as_fd(), program) {
                // What the link hung on is gone; one with the same number took its place.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                result => return result,
            }
        }
        // The new link comes first: for a moment there may be two, never none.
        let fresh = syscall::create_link(program, target.descriptor, point)?;
        std::fs::remove_file(path)?;
        return syscall::pin(fresh.as_fd(), path);
    }
    let link = syscall::create_link(program, target.descriptor, point)?;
    syscall::pin(link.as_fd(), path)
}

/// What runs where this pin says.
pub(super) fn program_of(pin: &Path) -> io::Result<Attached> {
    let Some(link) = syscall::open_pin(pin)? else {
        return Ok(Attached::Not("its pin is gone"));
    };
    if object(link.as_fd())? != Object::Link {
        return Ok(Attached::Not("something else is pinned in its place"));
    }
    let info = syscall::link_info(link.as_fd())?;
    // The kernel takes the place away from a link that is detached.
    Ok(if info.target as u32 == 0 {
        Attached::Not("it is detached")
    } else {
        Attached::Runs(info.program)
    })
}
