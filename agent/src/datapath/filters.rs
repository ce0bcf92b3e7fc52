//! Packet programs as filters of the clsact queueing discipline (tc-bpf(8)): how kernels that have
//! no TCX show packets to programs.
//!
//! A filter has no pin: it lives as long as its interface. All of ours have one priority, at which
//! the kernel asks the filter that was added last first, and the next one when that leaves the
//! packet alone. A build's handle is its ABI version, so that a build with other map layouts stands
//! before its predecessor until it takes over.

use std::io;

use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, TcAttachType};
use bowline_ebpf_abi::ABI_VERSION;
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::links::{AttachProgramFailed, interface_name};
use super::netlink::{Question, attribute, field};
use super::programs::{PacketProgram, Programs};
use super::syscall;

const PRIORITY: u16 = 1;

/// A filter at our priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filter {
    handle: u32,
    /// The number of its program.
    program: u32,
}

/// Which filters of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Own,
    /// Those of builds with other map layouts.
    Others,
    Anyones,
}

impl Whose {
    fn includes(self, handle: u32) -> bool {
        match self {
            Self::Own => handle == ABI_VERSION,
            Self::Others => handle != ABI_VERSION,
            Self::Anyones => true,
        }
    }
}

/// Attaches a packet program where it is not attached. Says what there was instead.
pub(super) fn attach(
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
    let there = own_program(ifindex, direction).map_err(unknown)?;
    if there == Some(wanted) {
        return Ok(None);
    }
    let program = programs.packet(which)?;
    let attached = if there.is_some() {
        in_place(&name, direction, ABI_VERSION)
            .map_err(ProgramError::IOError)
            .and_then(|existing| program.attach_to_link(existing))
    } else {
        match qdisc_add_clsact(&name) {
            Err(error) if !already_there(&error) => return Err(failed(&name, error.to_string())),
            _ => {}
        }
        let options = TcAttachOptions::Netlink(place(ABI_VERSION));
        program.attach_with_options(&name, direction, options)
    };
    let link = attached.and_then(|link| program.take_link(link));
    // Dropping the link would take the filter away; it is meant to outlive the agent.
    std::mem::forget(link.map_err(|error| failed(&name, error.to_string()))?);
    Ok(Some(match there {
        None => "its filter was gone",
        Some(_) => "another program was in its place",
    }))
}

/// Removes filters of ours from an interface, if they are there; filters of others in their places
/// stay.
pub(super) fn forget(which: PacketProgram, ifindex: u32, whose: Whose) -> io::Result<()> {
    let Some(name) = interface_name(ifindex) else { return Ok(()) };
    let direction = direction(which);
    for filter in filters(ifindex, direction)? {
        let program = syscall::program_facts(filter.program)?;
        let ours = program.is_some_and(|program| program.is_named(which.name()));
        if ours && whose.includes(filter.handle) {
            in_place(&name, direction, filter.handle)?.detach().map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// Removes all filters of ours from an interface of the calling thread's network namespace.
pub(crate) fn forget_all(ifindex: u32) -> io::Result<()> {
    use PacketProgram::{FromPod, FromUplink, ToPod};
    [FromPod, FromUplink, ToPod]
        .into_iter()
        .try_for_each(|which| forget(which, ifindex, Whose::Anyones))
}

/// The number of the program in this build's place at an interface, for a packet program by name.
pub(super) fn program_of(program: &str, ifindex: u32) -> io::Result<Option<u32>> {
    let egress = program == PacketProgram::ToPod.name();
    let direction = if egress { TcAttachType::Egress } else { TcAttachType::Ingress };
    own_program(ifindex, direction)
}

const fn direction(which: PacketProgram) -> TcAttachType {
    match which {
        PacketProgram::ToPod => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

const fn place(handle: u32) -> NlOptions {
    let handle = TcHandle::new((handle >> 16) as u16, handle as u16);
    NlOptions { priority: PRIORITY, handle, classid: None }
}

/// Whatever has this handle.
fn in_place(name: &str, direction: TcAttachType, handle: u32) -> io::Result<SchedClassifierLink> {
    let NlOptions { priority, handle, classid } = place(handle);
    SchedClassifierLink::attached(name, direction, priority, handle, classid)
}

fn own_program(ifindex: u32, direction: TcAttachType) -> io::Result<Option<u32>> {
    let all = filters(ifindex, direction)?;
    let own = all.iter().find(|filter| Whose::Own.includes(filter.handle));
    Ok(own.map(|filter| filter.program))
}

/// The filters at our priority, in the kernel's order.
fn filters(ifindex: u32, direction: TcAttachType) -> io::Result<Vec<Filter>> {
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
    let mut found = Vec::new();
    let read = |body: &[u8]| {
        let handle = u32::from_ne_bytes(field(body, 8)?);
        let priority = u32::from_ne_bytes(field(body, 16)?) >> 16;
        let attributes = body.get(MESSAGE..)?;
        let is_bpf = attribute(attributes, KIND)? == b"bpf\0";
        let program = attribute(attribute(attributes, OPTIONS)?, BPF_PROGRAM)?;
        let program = u32::from_ne_bytes(field(program, 0)?);
        (is_bpf && priority == u32::from(PRIORITY)).then_some(Filter { handle, program })
    };
    let question = Question { kind: GET_FILTER, flags: libc::NLM_F_DUMP, body };
    question.ask(SockProtocol::NetlinkRoute, |_, body| found.extend(read(body)))?;
    Ok(found)
}

fn already_there(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}
