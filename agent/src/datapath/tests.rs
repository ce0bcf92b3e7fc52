//! Filters of the clsact queueing discipline, which kernels below 6.6 need in place of TCX links;
//! here both exist, so the older way is tested too.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::features::Features;
use super::pins::Pins;
use super::programs::{PacketProgram, Programs};
use super::syscall::instruction::{ALLOW, EXIT};
use super::{MapSizes, PacketHook, links, syscall};

const LOOPBACK: u32 = 1;

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn filters_replace_each_other_and_outlive_their_maker() {
    let directory = std::env::temp_dir().join(format!("bowline-clsact-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let bpffs = directory.join("bpf");
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let pins = Pins::prepare(&bpffs).unwrap();
        replaced(&pins);
        let _ = umount2(&bpffs, MntFlags::MNT_DETACH);
    });
    let outcome = thread.join();
    let _ = fs::remove_dir_all(&directory);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn replaced(pins: &Pins) {
    let features = Features::probe(BTreeSet::new());
    let load = || {
        let cgroup = Path::new("/sys/fs/cgroup");
        Programs::load(pins, &MapSizes::default(), &features, cgroup)
            .unwrap_or_else(|e| panic!("{e}"))
    };
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
    links::forget_filters(LOOPBACK).unwrap();
    assert!(filters().is_empty());
    others_stay(pins);
}

/// A filter of somebody else, in the place where ours would be.
fn others_stay(pins: &Pins) {
    let program = syscall::load_program(None, &[ALLOW, EXIT]).unwrap();
    let path = pins.links.join("others");
    syscall::pin(program.as_fd(), &path).unwrap();
    let place = ["filter", "add", "dev", "lo", "ingress", "prio", "1", "handle", "1", "bpf", "da"];
    tc(&[&place[..], &["object-pinned", path.to_str().unwrap()]].concat());
    assert_eq!(filters().len(), 1);
    links::forget_filters(LOOPBACK).unwrap();
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
