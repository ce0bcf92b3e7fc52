//! What programs hang on. Filters of the clsact queueing discipline, which kernels below 6.6 need
//! in place of TCX links: here both exist, so the older way is tested too. And links that somebody
//! detached or gave another program.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_ebpf_abi::{Reason, Traffic, map};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::features::Features;
use super::filters as clsact;
use super::filters::Whose;
use super::pins::Pins;
use super::programs::{PacketProgram, Programs};
use super::syscall::instruction::{ALLOW, EXIT};
use super::syscall::{AttachPoint, LinkInfo};
use super::table::Table;
use super::{MapSizes, PacketHook, links, syscall};

const LOOPBACK: u32 = 1;

/// Runs `test` in a network namespace of its own, with pins of its own.
fn with_pins(name: &str, test: impl FnOnce(&Pins) + Send + 'static) {
    let directory = std::env::temp_dir().join(format!("bowline-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let bpffs = directory.join("bpf");
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let pins = Pins::prepare(&bpffs).unwrap();
        test(&pins);
        let _ = umount2(&bpffs, MntFlags::MNT_DETACH);
    });
    let outcome = thread.join();
    let _ = fs::remove_dir_all(&directory);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Where the cgroup2 hierarchy is mounted.
pub(super) fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    line.split(' ').nth(4).unwrap().into()
}

fn load(pins: &Pins, features: &Features) -> Programs {
    let loaded = Programs::load(pins, &MapSizes::default(), features, &cgroup2());
    loaded.unwrap_or_else(|e| panic!("{e}"))
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn filters_replace_each_other_and_outlive_their_maker() {
    with_pins("clsact", replaced);
}

/// A cgroup that goes when this value is dropped.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// What somebody can do to a link without touching its pin.
type Spoil = fn(OwnedFd, AttachPoint);

fn detach(link: OwnedFd, _: AttachPoint) {
    syscall::detach_link(link.as_fd()).unwrap();
}

/// Puts an empty program in the place of ours.
fn update(link: OwnedFd, point: AttachPoint) {
    let socket = (point == AttachPoint::Connect4).then_some(point);
    let foreign = syscall::load_program(socket, &[ALLOW, EXIT]).unwrap();
    syscall::update_link(link.as_fd(), foreign.as_fd()).unwrap();
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn links_that_were_detached_or_given_another_program_are_mended() {
    with_pins("links", |pins| {
        let cgroup = Cgroup(cgroup2().join(format!("bowline-links-{}", std::process::id())));
        fs::create_dir(&cgroup.0).unwrap();
        spoiled_links_are_mended(pins, &cgroup.0);
    });
}

fn spoiled_links_are_mended(pins: &Pins, cgroup: &Path) {
    let features = Features::probe(BTreeSet::new());
    let mut programs = load(pins, &features);
    links::attach_sockets(&programs, pins, cgroup).unwrap();
    let tcx = PacketHook::of(&features) == PacketHook::Tcx;
    let packets = [PacketProgram::FromPod, PacketProgram::ToPod];
    if tcx {
        for which in packets {
            links::attach_packets(&mut programs, pins, which, LOOPBACK, PacketHook::Tcx).unwrap();
        }
    } else {
        eprintln!("SKIPPED: links of packet programs; this kernel has none");
    }
    let mut repair = || {
        let mut found = links::repair_sockets(&programs, pins, cgroup).unwrap();
        for which in packets.into_iter().filter(|_| tcx) {
            let hook = PacketHook::Tcx;
            found
                .extend(links::repair_packets(&mut programs, pins, which, LOOPBACK, hook).unwrap());
        }
        found.into_iter().map(|one| (one.program, one.target, one.found)).collect::<Vec<_>>()
    };
    let socket = ("connect4", AttachPoint::Connect4, format!("cgroup {}", cgroup.display()));
    let packet = |name, point| tcx.then(|| (name, point, "lo".to_owned()));
    let places = [
        Some(socket),
        packet("from_pod", AttachPoint::TcxIngress),
        packet("to_pod", AttachPoint::TcxEgress),
    ];
    let ways: [(Spoil, &str); 2] =
        [(detach, "it was detached"), (update, "another program was in its place")];
    assert_eq!(repair(), [], "healthy");
    for (program, point, target) in places.into_iter().flatten() {
        let pin = match point {
            AttachPoint::Connect4 => pins.links.join(program),
            _ => pins.links.join(format!("{program}-{LOOPBACK}")),
        };
        for (spoil, found) in ways {
            let link = || syscall::open_pin(&pin).unwrap().expect("a pin");
            let before = syscall::link_info(link().as_fd()).unwrap();
            spoil(link(), point);
            let spoiled = syscall::link_info(link().as_fd()).unwrap();
            let moved = |info: LinkInfo| (info.target, info.program);
            assert_ne!(moved(spoiled), moved(before), "{program}: nothing was spoiled");
            assert_eq!(repair(), [(program, target.clone(), found)], "{program}");
            let after = syscall::link_info(link().as_fd()).unwrap();
            assert_eq!(moved(after), moved(before), "{program}: our program at its place");
            assert_eq!(repair(), [], "{program} is mended for good");
        }
    }
}

fn replaced(pins: &Pins) {
    let features = Features::probe(BTreeSet::new());
    let load = || load(pins, &features);
    let attach = |programs: &mut Programs| {
        for which in [PacketProgram::FromPod, PacketProgram::ToPod] {
            links::attach_packets(programs, pins, which, LOOPBACK, PacketHook::Clsact).unwrap();
        }
    };
    attach(&mut load());
    let first = filters();
    assert_eq!(first.len(), 2, "they outlive the programs' owner: {first:?}");
    attach(&mut load());
    let second = filters();
    assert_eq!(second.len(), 2, "replaced, not added: {second:?}");
    assert_ne!(second, first, "by the new programs");
    repaired(&mut load(), pins);
}

/// Only what differs is written.
fn repaired(programs: &mut Programs, pins: &Pins) {
    let mut repair = || {
        let which = [PacketProgram::FromPod, PacketProgram::ToPod];
        let mut repair = |which| {
            links::repair_packets(programs, pins, which, LOOPBACK, PacketHook::Clsact).unwrap()
        };
        which.map(|which| repair(which).map(|repair| repair.found))
    };
    let other = Some("another program was in its place");
    assert_eq!(repair(), [other, other]);
    let changes = TcChanges::follow();
    assert_eq!(repair(), [None, None]);
    assert!(!changes.any());
    tc(&["filter", "del", "dev", "lo", "ingress"]);
    assert!(changes.any());
    assert_eq!(repair(), [Some("its filter was gone"), None]);
    tc(&["qdisc", "del", "dev", "lo", "clsact"]);
    let gone = Some("its filter was gone");
    assert_eq!(repair(), [gone, gone]);
    assert_eq!(filters().len(), 2);
    clsact::forget_all(LOOPBACK).unwrap();
    assert!(filters().is_empty());
    beside_another_build(programs, pins);
    others_stay(pins);
}

/// What a build with other map layouts left is asked after ours, until it is forgotten.
fn beside_another_build(programs: &mut Programs, pins: &Pins) {
    let path = pins.links.join("another");
    syscall::pin(programs.fd("from_pod").unwrap(), &path).unwrap();
    let place =
        ["filter", "add", "dev", "lo", "ingress", "prio", "1", "handle", "999", "bpf", "da"];
    tc(&[&place[..], &["object-pinned", path.to_str().unwrap()]].concat());
    let which = PacketProgram::FromPod;
    links::attach_packets(programs, pins, which, LOOPBACK, PacketHook::Clsact).unwrap();
    let own = format!("handle {:#x}", bowline_ebpf_abi::ABI_VERSION);
    let both = filters();
    assert!(both.len() == 2 && both[0].contains(&own), "{both:?}");
    clsact::forget(which, LOOPBACK, Whose::Own).unwrap();
    assert_eq!(filters(), both[1..]);
    links::attach_packets(programs, pins, which, LOOPBACK, PacketHook::Clsact).unwrap();
    links::forget_predecessors(pins, which, LOOPBACK, PacketHook::Clsact).unwrap();
    assert!(filters().len() == 1 && filters()[0].contains(&own), "{:?}", filters());
    clsact::forget_all(LOOPBACK).unwrap();
}

/// A filter of somebody else, in the place where ours would be.
fn others_stay(pins: &Pins) {
    let program = syscall::load_program(None, &[ALLOW, EXIT]).unwrap();
    let path = pins.links.join("others");
    syscall::pin(program.as_fd(), &path).unwrap();
    let place = ["filter", "add", "dev", "lo", "ingress", "prio", "1", "handle", "1", "bpf", "da"];
    tc(&[&place[..], &["object-pinned", path.to_str().unwrap()]].concat());
    assert_eq!(filters().len(), 1);
    clsact::forget_all(LOOPBACK).unwrap();
    assert_eq!(filters().len(), 1);
}

/// What the kernel tells of changes of filters in this network namespace.
struct TcChanges(OwnedFd);

impl TcChanges {
    fn follow() -> Self {
        const RTMGRP_TC: u32 = 1 << 3;
        let flags = SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let channel = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).unwrap();
        bind(channel.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_TC)).unwrap();
        Self(channel)
    }

    fn any(&self) -> bool {
        recv(self.0.as_raw_fd(), &mut [0; 4096], MsgFlags::empty()).is_ok()
    }
}

fn tc(arguments: &[&str]) {
    assert!(Command::new("tc").args(arguments).status().unwrap().success());
}

/// The BPF filters of the loopback device, as `tc` shows them.
fn filters() -> Vec<String> {
    let show = |direction| {
        let arguments = ["filter", "show", "dev", "lo", direction];
        let output = Command::new("tc").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = ["ingress", "egress"].map(show).concat();
    shown.lines().filter(|line| line.contains(" id ")).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_map_of_another_type_is_not_taken_for_ours() {
    with_pins("types", |pins| {
        let path = pins.maps.join(map::COUNTERS);
        // As COUNTERS, but for the type: what it has would be taken for the first CPU's.
        let size = size_of::<Traffic>();
        let other = syscall::create_array(size, Reason::COUNTERS).unwrap();
        syscall::pin(other.as_fd(), &path).unwrap();
        let opened = Table::<u32, Traffic>::open_per_cpu(&pins.maps, map::COUNTERS);
        let says = format!("{} is a map of the type array, and not the map", path.display());
        let said = opened.unwrap_err().to_string();
        assert!(said.starts_with(&says), "{said}");
    });
}
