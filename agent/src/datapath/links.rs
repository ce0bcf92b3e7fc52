//! Attaches programs so that they outlive the agent, and replaces them without a gap.
//!
//! Guarantees: an attached program stays attached when the agent dies; attaching again replaces the
//! program between one packet (or system call) and the next. A pinned link whose cgroup or
//! interface is gone is made anew.
//! From Linux 6.6 on packets are seen through TCX links; below, through a filter of the clsact
//! queueing discipline, which has no pin because it lives as long as its interface.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, TcAttachType};
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::features::{Feature, Features};
use super::kernel::Attached;
use super::netlink::{Question, attribute, field};
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

/// The place of our filter among those of an interface.
const FILTER: NlOptions = NlOptions { priority: 1, handle: TcHandle::new(0, 1), classid: None };

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
        PacketHook::Clsact => attach_filter(programs, which, ifindex).map(drop),
        PacketHook::Tcx => {
            let place = packet_place(pins, which, ifindex);
            attach_at(programs, &place, || format!("interface {ifindex}"))
        }
    }
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
            let found = attach_filter(programs, which, ifindex)?;
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

/// Attaches a packet program in place of an earlier agent's, which may have used another hook:
/// packets are seen by one of them or for a moment by both.
pub(super) fn take_over_packets(
    programs: &mut Programs,
    pins: &Pins,
    which: PacketProgram,
    ifindex: u32,
    hook: PacketHook,
) -> Result<(), AttachProgramFailed> {
    attach_packets(programs, pins, which, ifindex, hook)?;
    forget_other_hook(pins, which, ifindex, hook).map_err(|source| AttachProgramFailed::Link {
        program: which.name(),
        target: format!("interface {ifindex}"),
        source,
    })
}

fn forget_other_hook(
    pins: &Pins,
    which: PacketProgram,
    ifindex: u32,
    hook: PacketHook,
) -> io::Result<()> {
    if hook == PacketHook::Clsact {
        return remove_if_there(&packet_pin(pins, which, ifindex));
    }
    forget_filter(which, ifindex)
}

/// Removes our filter from an interface, if it is there; one of others in its place stays.
fn forget_filter(which: PacketProgram, ifindex: u32) -> io::Result<()> {
    let Some(name) = interface_name(ifindex) else { return Ok(()) };
    let direction = direction(which);
    let Some(number) = filter_program(ifindex, direction)? else { return Ok(()) };
    if !syscall::program_facts(number)?.is_some_and(|program| program.is_named(which.name())) {
        return Ok(());
    }
    filter_in_place(&name, direction)?.detach().map_err(io::Error::other)
}

/// Whatever is in our filter's place.
fn filter_in_place(name: &str, direction: TcAttachType) -> io::Result<SchedClassifierLink> {
    let NlOptions { priority, handle, classid } = FILTER;
    SchedClassifierLink::attached(name, direction, priority, handle, classid)
}

/// Removes our filters from an interface of the calling thread's network namespace.
pub(crate) fn forget_filters(ifindex: u32) -> io::Result<()> {
    use PacketProgram::{FromPod, FromUplink, ToPod};
    [FromPod, FromUplink, ToPod].into_iter().try_for_each(|which| forget_filter(which, ifindex))
}

const fn direction(which: PacketProgram) -> TcAttachType {
    match which {
        PacketProgram::ToPod => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
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

/// The same for an uplink or tunnel device.
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

/// Attaches a packet program by clsact where it is not attached. Says what there was instead.
fn attach_filter(
    programs: &mut Programs,
    which: PacketProgram,
    ifindex: u32,
) -> Result<Option<&'static str>, AttachProgramFailed> {
    let failed = |interface: &str, message: String| AttachProgramFailed::Filter {
        program: which.name(),
        interface: interface.to_owned(),
        message,
    };
    let name = interface_name(ifindex)
        .ok_or_else(|| failed(&ifindex.to_string(), "it does not exist".to_owned()))?;
    let unknown = |error: io::Error| failed(&name, error.to_string());
    let direction = direction(which);
    let wanted = syscall::program_number(programs.fd(which.name())?).map_err(unknown)?;
    let there = filter_program(ifindex, direction).map_err(unknown)?;
    if there == Some(wanted) {
        return Ok(None);
    }
    let program = programs.packet(which)?;
    let attached = if there.is_some() {
        filter_in_place(&name, direction)
            .map_err(ProgramError::IOError)
            .and_then(|existing| program.attach_to_link(existing))
    } else {
        match qdisc_add_clsact(&name) {
            Err(error) if !already_there(&error) => return Err(failed(&name, error.to_string())),
            _ => {}
        }
        program.attach_with_options(&name, direction, TcAttachOptions::Netlink(FILTER))
    };
    let link = attached.and_then(|link| program.take_link(link));
    // Dropping the link would take the filter away; it is meant to outlive the agent.
    std::mem::forget(link.map_err(|error| failed(&name, error.to_string()))?);
    Ok(Some(match there {
        None => "its filter was gone",
        Some(_) => "another program was in its place",
    }))
}

/// The number of the program in our filter's place; none if there is no such filter.
fn filter_program(ifindex: u32, direction: TcAttachType) -> io::Result<Option<u32>> {
    // As the kernel's pkt_sched.h, rtnetlink.h and pkt_cls.h have them.
    const GET_FILTER: u16 = 46;
    const CLSACT_INGRESS: u32 = 0xffff_fff2;
    const CLSACT_EGRESS: u32 = 0xffff_fff3;
    const KIND: u16 = 1;
    const OPTIONS: u16 = 2;
    const BPF_PROGRAM: u16 = 11;
    /// Of a `tcmsg`: family, interface, handle, parent, priority and protocol.
    const MESSAGE: usize = 20;
    let parent = match direction {
        TcAttachType::Egress => CLSACT_EGRESS,
        _ => CLSACT_INGRESS,
    };
    let body = [0, ifindex, 0, parent, 0].map(u32::to_ne_bytes).concat();
    let mut found = None;
    let read = |body: &[u8]| {
        let handle = u32::from_ne_bytes(field(body, 8)?);
        let priority = u32::from_ne_bytes(field(body, 16)?) >> 16;
        let attributes = body.get(MESSAGE..)?;
        let ours = handle == u32::from(FILTER.handle)
            && priority == u32::from(FILTER.priority)
            && attribute(attributes, KIND)? == b"bpf\0";
        let program = attribute(attribute(attributes, OPTIONS)?, BPF_PROGRAM)?;
        ours.then_some(u32::from_ne_bytes(field(program, 0)?))
    };
    let question = Question { kind: GET_FILTER, flags: libc::NLM_F_DUMP, body };
    question.ask(SockProtocol::NetlinkRoute, |_, body| found = found.or_else(|| read(body)))?;
    Ok(found)
}

/// The same for a packet program by its name, as those see it who look.
pub(super) fn filter_of(program: &str, ifindex: u32) -> io::Result<Option<u32>> {
    let egress = program == PacketProgram::ToPod.name();
    let direction = if egress { TcAttachType::Egress } else { TcAttachType::Ingress };
    filter_program(ifindex, direction)
}

/// What runs where this pin says.
pub(super) fn program_of(pin: &Path) -> io::Result<Attached> {
    let Some(link) = syscall::open_pin(pin)? else {
        return Ok(Attached::Not("its pin is gone"));
    };
    let info = syscall::link_info(link.as_fd())?;
    // The kernel takes the place away from a link that is detached.
    Ok(if info.target as u32 == 0 {
        Attached::Not("it is detached")
    } else {
        Attached::Runs(info.program)
    })
}

fn already_there(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}
