//! The packet programs in the kernel, run on made-up packets: what comes out, byte for byte with
//! both checksums, and which counters moved. Needs root; says so and does nothing without.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::programs::{TestRun, TestRunOptions};
use bowline_ebpf_abi::{
    Address, Backend, Direction, Flow, FlowKey, Mac, Pod, Reason, Route, RouteKey, Service,
    ServiceKey, Slot, Traffic, U16Be, map, protocol, state,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::features::Features;
use super::pins::Pins;
use super::programs::{PacketProgram, Programs};
use super::table::Table;
use super::{Cidr, MapSizes, PacketHook, links};

const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// Test-run gives every packet the loopback device.
const LOOPBACK: u32 = 1;
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0xff, 1];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
const SYN: u8 = 2;
const ACK: u8 = 16;

/// An Ethernet frame with IPv4 and TCP or UDP, checksums included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    to_mac: [u8; 6],
    from_mac: [u8; 6],
    ether_type: u16,
    first_byte: u8,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    flags: u8,
    /// UDP over IPv4 may go without.
    without_checksum: bool,
}

const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 240, 1, 5), 40_000);
const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 240, 1, 6), 8080);
const REMOTE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 240, 2, 7), 8080);
const VIP_LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 9, 0, 1), 80);
const VIP_REMOTE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 9, 0, 2), 80);
const VIP_EMPTY: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 9, 0, 3), 80);
const VIP_NODE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 9, 0, 4), 80);
const NODE: (Ipv4Addr, u16) = (Ipv4Addr::new(169, 254, 20, 10), 53);
const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 12);

fn tcp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Frame {
    Frame {
        to_mac: HOST_MAC,
        from_mac: [2, 0, 0, 0, 0, 5],
        ether_type: 0x0800,
        first_byte: 0x45,
        fragment: 0,
        ttl: 64,
        protocol: protocol::TCP,
        source,
        destination,
        flags: ACK,
        without_checksum: false,
    }
}

fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Frame {
    Frame { protocol: protocol::UDP, ..tcp(source, destination) }
}

impl Frame {
    fn from(self, source: (Ipv4Addr, u16)) -> Self {
        Self { source, ..self }
    }

    /// As it leaves for a pod of this node.
    fn at_pod(self) -> Self {
        Self { to_mac: POD_MAC, from_mac: self.to_mac, ttl: self.ttl - 1, ..self }
    }

    /// As it leaves for another node; the neighbour table adds hardware addresses later.
    fn at_node(self) -> Self {
        Self { ttl: self.ttl - 1, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let payload = b"seventeen bytes!!";
        let mut segment = [self.source.1, self.destination.1].map(u16::to_be_bytes).concat();
        let checksum_at = if self.protocol == protocol::UDP {
            segment.extend((8 + payload.len() as u16).to_be_bytes());
            segment.extend([0, 0]);
            6
        } else {
            segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 0x10, 0, 0, 0, 0, 0]);
            16
        };
        segment.extend(payload);
        let (from, to) = (self.source.0.octets(), self.destination.0.octets());
        let length = (segment.len() as u16).to_be_bytes();
        let pseudo = [&from[..], &to, &[0, self.protocol], &length].concat();
        if !self.without_checksum {
            let sum = !sum(&[&pseudo[..], &segment].concat());
            segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        // A header length above five words means options.
        let header_length = usize::from(self.first_byte & 0xf).max(5) * 4;
        let mut header = vec![self.first_byte, 0];
        header.extend(((header_length + segment.len()) as u16).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend([from, to].concat());
        header.resize(header_length, 1);
        let sum = !sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let ethernet = [&self.to_mac[..], &self.from_mac, &self.ether_type.to_be_bytes()].concat();
        [ethernet, header, segment].concat()
    }
}

/// The ones' complement sum of words.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Loaded programs and their maps, attached to nothing.
struct Kernel {
    programs: Programs,
    pins: Pins,
    counters: Table<u32, Traffic>,
    bpffs: PathBuf,
}

impl Kernel {
    fn load(directory: &Path) -> Self {
        let bpffs = directory.join("bpf");
        let pins = Pins::prepare(&bpffs).unwrap();
        let programs =
            Programs::load(&pins, &MapSizes::default(), &Features::probe(BTreeSet::new()))
                .unwrap_or_else(|error| panic!("{error}"));
        let counters = Table::open_per_cpu(&pins.maps, map::COUNTERS).unwrap();
        Self { programs, pins, counters, bpffs }
    }

    /// Pods `.5` (the sender: the loopback device) and `.6`, a route, and the services.
    fn program(&self) {
        let pods: Table<Address, Pod> = Table::open(&self.pins.maps, map::PODS).unwrap();
        for (address, ifindex, mac) in
            [(CLIENT, LOOPBACK, [2, 0, 0, 0, 0, 5]), (LOCAL, LOOPBACK, POD_MAC)]
        {
            let pod = Pod { ifindex, mac: Mac::new(mac), flags: 0 };
            pods.put(&address.0.into(), &pod).unwrap();
        }
        let routes: Table<RouteKey, Route> = Table::open(&self.pins.maps, map::ROUTES).unwrap();
        let range: Cidr = "10.240.2.0/24".parse().unwrap();
        let route = Route { node: OTHER_NODE.into(), ifindex: LOOPBACK, flags: 0 };
        routes.put(&RouteKey::new(range.network().into(), range.prefix().into()), &route).unwrap();
        for (id, vip, backend) in [
            (0, VIP_LOCAL, Some(LOCAL)),
            (1, VIP_REMOTE, Some(REMOTE)),
            (2, VIP_EMPTY, None),
            (3, VIP_NODE, Some(NODE)),
        ] {
            self.add_service(id, vip, backend);
        }
    }

    fn add_service(&self, id: u32, vip: (Ipv4Addr, u16), backend: Option<(Ipv4Addr, u16)>) {
        let maps = &self.pins.maps;
        let services: Table<ServiceKey, Service> = Table::open(maps, map::SERVICES).unwrap();
        let slots: Table<u32, Slot> = Table::open(maps, map::SLOTS).unwrap();
        let backends: Table<u32, Backend> = Table::open(maps, map::BACKENDS).unwrap();
        for (index, number) in [protocol::TCP, protocol::UDP].into_iter().enumerate() {
            let key = ServiceKey::new(vip.0.into(), U16Be::new(vip.1), number);
            let first_slot = 2 * id + index as u32;
            let mut service = Service { id, first_slot, ..Service::default() };
            if let Some((address, port)) = backend {
                let (address, port) = (address.into(), U16Be::new(port));
                let entry = Backend { address, port, state: state::ACTIVE, pad: 0 };
                backends.put(&id, &entry).unwrap();
                slots.put(&first_slot, &Slot { backend: id, tag: key.tag() }).unwrap();
                service.slot_count = 1;
            }
            services.put(&key, &service).unwrap();
        }
    }

    fn run(&mut self, program: PacketProgram, frame: &[u8]) -> (i32, Vec<u8>) {
        let mut out = vec![0; 2048];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = self.programs.packet(program).unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value as i32, out)
    }

    fn counters(&self) -> BTreeMap<(Reason, Direction), Traffic> {
        let mut found = BTreeMap::new();
        for reason in Reason::ALL {
            for direction in Direction::ALL {
                let all = self.counters.get_per_cpu(&reason.index(direction)).unwrap();
                let packets = all.iter().map(|traffic| traffic.packets).sum();
                let bytes = all.iter().map(|traffic| traffic.bytes).sum();
                found.insert((reason, direction), Traffic { packets, bytes });
            }
        }
        found
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
    }
}

/// Runs a test on a thread with its own network and mounts. Needs root.
fn in_kernel(name: &str, test: impl FnOnce(Kernel) + Send + 'static) {
    let directory = std::env::temp_dir().join(format!("bowline-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let theirs = directory.clone();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let kernel = Kernel::load(&theirs);
        kernel.program();
        test(kernel);
    });
    let outcome = thread.join();
    let _ = fs::remove_dir_all(&directory);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// One packet: what it is, what goes in, the verdict, what comes out, and what is counted.
struct Row {
    what: &'static str,
    program: PacketProgram,
    frame: Frame,
    verdict: i32,
    out: Frame,
    counted: &'static [Reason],
}

use PacketProgram::{FromPod, FromUplink, ToPod};

fn row(what: &'static str, program: PacketProgram, frame: Frame) -> Row {
    Row { what, program, out: frame.clone(), frame, verdict: NEXT, counted: &[Reason::Stack] }
}

impl Row {
    fn gives(self, verdict: i32, out: Frame, counted: &'static [Reason]) -> Self {
        Self { verdict, out, counted, ..self }
    }

    fn drops(self, counted: &'static [Reason]) -> Self {
        Self { verdict: SHOT, counted, ..self }
    }
}

fn plain_rows() -> Vec<Row> {
    let with = |change: &dyn Fn(&mut Frame)| {
        let mut frame = tcp(CLIENT, LOCAL);
        change(&mut frame);
        frame
    };
    let outside = (Ipv4Addr::new(192, 0, 2, 1), 443);
    vec![
        row("to a pod here", FromPod, tcp(CLIENT, LOCAL)).gives(
            REDIRECT,
            tcp(CLIENT, LOCAL).at_pod(),
            &[Reason::LocalPod],
        ),
        row("to a pod there", FromPod, udp(CLIENT, REMOTE)).gives(
            REDIRECT,
            udp(CLIENT, REMOTE).at_node(),
            &[Reason::RemoteNode],
        ),
        row("to the outside", FromPod, tcp(CLIENT, outside)),
        row("expired", FromPod, with(&|frame| frame.ttl = 1)),
        row("ARP", FromPod, with(&|frame| frame.ether_type = 0x0806)),
        row("IPv6", FromPod, with(&|frame| frame.ether_type = 0x86dd))
            .drops(&[Reason::UnsupportedProtocol]),
        row("another's address", FromPod, tcp(REMOTE, LOCAL)).drops(&[Reason::SpoofedSource]),
        row("wrong version", FromPod, with(&|frame| frame.first_byte = 0x55))
            .drops(&[Reason::Malformed]),
        row("in from a node", FromUplink, tcp(REMOTE, LOCAL)).gives(
            REDIRECT,
            tcp(REMOTE, LOCAL).at_pod(),
            &[Reason::LocalPod],
        ),
        row("in for the node", FromUplink, tcp(REMOTE, outside)),
        row("in, IPv6", FromUplink, with(&|frame| frame.ether_type = 0x86dd)),
        row("from the node", ToPod, tcp(outside, LOCAL)),
    ]
}

fn service_rows() -> Vec<Row> {
    let to_local = &[Reason::Balanced, Reason::LocalPod];
    let to_remote = &[Reason::Balanced, Reason::RemoteNode];
    let mut rows = vec![
        row("nobody there", FromPod, tcp(CLIENT, VIP_EMPTY)).drops(&[Reason::NoBackend]),
        row("a fragment for a service", FromPod, {
            Frame { fragment: 0x2000, ..udp(CLIENT, VIP_LOCAL) }
        }),
        row("another port of a service", FromPod, tcp(CLIENT, (VIP_LOCAL.0, 81))),
    ];
    for make in [tcp, udp] {
        let syn = |to| Frame { flags: SYN, ..make(CLIENT, to) };
        let stack = &[Reason::Balanced, Reason::Stack];
        rows.extend([
            row("a backend here", FromPod, syn(VIP_LOCAL)).gives(
                REDIRECT,
                syn(LOCAL).at_pod(),
                to_local,
            ),
            row("a backend there", FromPod, syn(VIP_REMOTE)).gives(
                REDIRECT,
                syn(REMOTE).at_node(),
                to_remote,
            ),
            row("the node itself", FromPod, syn(VIP_NODE)).gives(NEXT, syn(NODE), stack),
            row("its answer from there", FromUplink, make(REMOTE, CLIENT)).gives(
                REDIRECT,
                Frame {
                    to_mac: [2, 0, 0, 0, 0, 5],
                    ..make(REMOTE, CLIENT).from(VIP_REMOTE).at_pod()
                },
                &[Reason::AnswerTranslated, Reason::LocalPod],
            ),
            row("its answer from the node", ToPod, make(NODE, CLIENT)).gives(
                NEXT,
                make(VIP_NODE, CLIENT),
                &[Reason::AnswerTranslated, Reason::Stack],
            ),
            row("its answer from here", FromPod, make(LOCAL, CLIENT)).gives(
                REDIRECT,
                Frame {
                    to_mac: [2, 0, 0, 0, 0, 5],
                    ..make(LOCAL, CLIENT).from(VIP_LOCAL).at_pod()
                },
                &[Reason::AnswerTranslated, Reason::LocalPod],
            ),
            row("other traffic from there", FromUplink, make((REMOTE.0, 9), CLIENT)).gives(
                REDIRECT,
                Frame { to_mac: [2, 0, 0, 0, 0, 5], ..make((REMOTE.0, 9), CLIENT).at_pod() },
                &[Reason::LocalPod],
            ),
        ]);
    }
    let bare = |to| Frame { without_checksum: true, ..udp((CLIENT.0, 41_000), to) };
    rows.push(row("UDP without checksum", FromPod, bare(VIP_LOCAL)).gives(
        REDIRECT,
        bare(LOCAL).at_pod(),
        to_local,
    ));
    let options = |to| Frame { first_byte: 0x46, ..tcp((CLIENT.0, 42_000), to) };
    rows.push(row("with IP options", FromPod, options(VIP_LOCAL)).gives(
        REDIRECT,
        options(LOCAL).at_pod(),
        to_local,
    ));
    rows
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn packets_come_out_as_the_table_says() {
    in_kernel("packet-table", |mut kernel| {
        for row in plain_rows().into_iter().chain(service_rows()) {
            let (frame, what) = (row.frame.bytes(), row.what);
            let direction = match row.program {
                FromPod => Direction::FromPod,
                ToPod => Direction::ToPod,
                FromUplink => Direction::FromUplink,
            };
            let before = kernel.counters();
            let (verdict, out) = kernel.run(row.program, &frame);
            let mut expected = before;
            for reason in row.counted {
                let traffic = expected.entry((*reason, direction)).or_default();
                traffic.packets += 1;
                traffic.bytes += frame.len() as u64;
            }
            assert_eq!(verdict, row.verdict, "{what}: {:?}", row.frame);
            assert_eq!(out, row.out.bytes(), "{what}: {:?}", row.frame);
            assert_eq!(kernel.counters(), expected, "{what}: {:?}", row.frame);
        }
    });
}

/// Below Linux 6.6 filters stand in for TCX links; here both exist, so the older way is tested too.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn filters_replace_each_other_and_outlive_their_maker() {
    in_kernel("clsact", |mut kernel| {
        let attach = |kernel: &mut Kernel| {
            for which in [FromPod, ToPod] {
                let Kernel { programs, pins, .. } = kernel;
                links::attach_packets(programs, pins, which, LOOPBACK, PacketHook::Clsact).unwrap();
            }
        };
        attach(&mut kernel);
        let first = filters();
        assert_eq!(first.len(), 2, "{first:?}");
        kernel.programs =
            Programs::load(&kernel.pins, &MapSizes::default(), &Features::probe(BTreeSet::new()))
                .unwrap();
        assert_eq!(filters(), first, "they outlive the programs' owner");
        attach(&mut kernel);
        let second = filters();
        assert_eq!(second.len(), 2, "replaced, not added: {second:?}");
        assert_ne!(second, first, "by the new programs");
    });
}

/// The BPF filters of the loopback device, as `tc` shows them.
fn filters() -> Vec<String> {
    let show = |direction| {
        let arguments = ["filter", "show", "dev", "lo", direction];
        let output = std::process::Command::new("tc").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = ["ingress", "egress"].map(show).concat();
    shown.lines().filter(|line| line.contains(" id ")).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn a_flow_that_moves_to_another_backend_needs_a_new_connection() {
    in_kernel("moved-flow", |mut kernel| {
        let syn = Frame { flags: SYN, ..tcp(CLIENT, VIP_LOCAL) };
        let data = tcp(CLIENT, VIP_LOCAL);
        let destination = |out: &[u8]| Ipv4Addr::from(<[u8; 4]>::try_from(&out[30..34]).unwrap());
        let sent_to = |kernel: &mut Kernel, frame: &Frame| {
            destination(&kernel.run(FromPod, &frame.bytes()).1)
        };
        assert_eq!(sent_to(&mut kernel, &syn), LOCAL.0);
        let flows: Table<FlowKey, Flow> = Table::open(&kernel.pins.maps, map::FLOWS).unwrap();
        assert_eq!(flows.keys().unwrap().len(), 2, "both directions");
        // The service's only backend is another now, under the same number.
        kernel.add_service(0, VIP_LOCAL, Some(REMOTE));
        assert_eq!(sent_to(&mut kernel, &data), LOCAL.0, "an open connection stays");
        assert_eq!(sent_to(&mut kernel, &syn), REMOTE.0, "a new one goes where backends are");
    });
}
