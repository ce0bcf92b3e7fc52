//! The packet programs on their own: loaded, attached to nothing, and run on one packet at a time.
//!
//! Needs the BPF object, CAP_BPF and CAP_SYS_ADMIN (to mount a BPF file system that nobody else
//! sees); no cluster, no devices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, RingBuf};
use aya::programs::{Program, SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use bowline_agent::datapath::{Raw, monotonic_ns};
use bowline_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Direction, Edition, Flow, FlowKey, Mac, Plain, Pod,
    Reason, Route, RouteKey, Service, ServiceKey, ServiceTraffic, Slot, Traffic, U16Be, Wanted,
    affinity_kind, map, outcome, protocol, route_flags, size, state,
};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

use crate::frame::difference;
use crate::rows::{Hook, Row, Verdict};

/// What all rows find in the maps, for one family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub name: &'static str,
    pub client: IpAddr,
    pub local: IpAddr,
    /// A pod behind another veth than the one that packets come through.
    pub other: IpAddr,
    pub remote: IpAddr,
    pub tunnelled: IpAddr,
    pub outside: IpAddr,
    pub node: IpAddr,
    /// An address between those of services that is none itself.
    pub nobody: IpAddr,
    pub vips: Vips,
    /// Services have these numbers and this distance.
    first_service: u32,
}

/// A service each for every kind of backend.
#[derive(Clone, Copy, Debug)]
pub struct Vips {
    pub local: IpAddr,
    pub remote: IpAddr,
    pub tunnelled: IpAddr,
    pub empty: IpAddr,
    pub node: IpAddr,
    /// The client itself.
    pub own: IpAddr,
    /// A service that knows its clients again.
    pub sticky: IpAddr,
}

pub const LOCAL: u32 = 0;
pub const REMOTE: u32 = 1;
pub const TUNNELLED: u32 = 2;
pub const EMPTY: u32 = 3;
pub const NODE: u32 = 4;
pub const OWN: u32 = 5;
pub const STICKY: u32 = 6;
const SERVICES: u32 = 7;

/// How long the service that knows its clients again does so.
pub const AFFINITY_SECONDS: u32 = 3600;

pub const CLIENT_PORT: u16 = 40_000;
pub const PORT: u16 = 80;
pub const BACKEND_PORT: u16 = 8080;
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];
pub const LOCAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Test-run gives every packet the loopback device.
pub const DEVICE: u32 = 1;
const OTHER_DEVICE: u32 = 99;
const UPLINK: u32 = 2;
const TUNNEL: u32 = 3;

/// How many rows CONNECTIONS has.
fn cpus() -> u32 {
    aya::util::nr_cpus().unwrap() as u32
}

fn v(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Both families.
pub fn nets() -> [Net; 2] {
    let v4 = Net {
        name: "IPv4",
        client: v("10.240.1.5"),
        local: v("10.240.1.6"),
        other: v("10.240.1.7"),
        remote: v("10.240.2.7"),
        tunnelled: v("10.240.3.8"),
        outside: v("192.0.2.1"),
        node: v("169.254.20.10"),
        nobody: v("10.9.0.8"),
        vips: Vips {
            local: v("10.9.0.1"),
            remote: v("10.9.0.2"),
            tunnelled: v("10.9.0.3"),
            empty: v("10.9.0.4"),
            node: v("10.9.0.5"),
            own: v("10.9.0.6"),
            sticky: v("10.9.0.9"),
        },
        first_service: 0,
    };
    let v6 = Net {
        name: "IPv6",
        client: v("fd00:10:240:1::5"),
        local: v("fd00:10:240:1::6"),
        other: v("fd00:10:240:1::7"),
        remote: v("fd00:10:240:2::7"),
        tunnelled: v("fd00:10:240:3::8"),
        outside: v("2001:db8::1"),
        node: v("fd00:172::11"),
        nobody: v("fd00:10:9::8"),
        vips: Vips {
            local: v("fd00:10:9::1"),
            remote: v("fd00:10:9::2"),
            tunnelled: v("fd00:10:9::3"),
            empty: v("fd00:10:9::4"),
            node: v("fd00:10:9::5"),
            own: v("fd00:10:9::6"),
            sticky: v("fd00:10:9::9"),
        },
        first_service: SERVICES,
    };
    [v4, v6]
}

impl Net {
    /// The number of one of this family's services.
    pub fn service(&self, kind: u32) -> u32 {
        self.first_service + kind
    }

    fn routes(&self) -> [(RouteKey, Route); 2] {
        let (remote, tunnelled, prefix) = match self.client {
            IpAddr::V4(_) => (v("172.30.0.12"), v("172.30.0.13"), 24),
            IpAddr::V6(_) => (v("fd00:172::12"), v("fd00:172::13"), 64),
        };
        let node = Route { node: remote.into(), ifindex: UPLINK, flags: 0 };
        let far = Route { node: tunnelled.into(), ifindex: TUNNEL, flags: route_flags::TUNNEL };
        [
            (RouteKey::new(self.remote.into(), prefix), node),
            (RouteKey::new(self.tunnelled.into(), prefix), far),
        ]
    }

    fn services(&self) -> [(IpAddr, Vec<(IpAddr, u16)>); 7] {
        let Vips { local, remote, tunnelled, empty, node, own, sticky } = self.vips;
        let backend = |address| vec![(address, BACKEND_PORT)];
        [
            (local, backend(self.local)),
            (remote, backend(self.remote)),
            (tunnelled, backend(self.tunnelled)),
            (empty, Vec::new()),
            (node, vec![(self.node, 53)]),
            (own, backend(self.client)),
            (sticky, [backend(self.local), backend(self.remote)].concat()),
        ]
    }
}

type Counters = BTreeMap<(Reason, Direction), (u64, u64)>;
type ServiceCounters = BTreeMap<u32, (u64, u64, u64)>;

/// The loaded programs.
pub struct Lab {
    pub object: Ebpf,
}

/// A client of its family's service with affinity.
fn sticky_key(client: IpAddr) -> AffinityKey {
    let [v4, v6] = nets();
    let net = if client.is_ipv4() { v4 } else { v6 };
    let (kind, client) = (affinity_kind::ADDRESS, client.into());
    AffinityKey { service: net.service(STICKY), kind, client }
}

/// Bytes for what is told: some 20,000 events.
const EVENTS: u32 = 4 << 20;

/// One for all tests of a process: the verifier takes longer than all rows together.
static LOADED: Mutex<Option<Lab>> = Mutex::new(None);

impl Lab {
    /// Runs `work` with loaded programs. Every test finds the same state of the maps.
    pub fn run(work: impl FnOnce(&mut Lab)) {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lab = loaded.take().unwrap_or_else(Self::loaded_apart);
        lab.program();
        lab.reset();
        work(&mut lab);
        // Not after a panic: nobody knows what it left.
        *loaded = Some(lab);
    }

    /// On a thread that has a mount namespace of its own.
    fn loaded_apart() -> Self {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            Self::load()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The pins, which the programs' maps insist on, go at once.
    fn load() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(path);
        // A row for each CPU.
        loader.map_max_entries(map::CONNECTIONS, cpus() * size::CONNECTIONS_ROW);
        loader.map_max_entries(map::EVENTS, EVENTS);
        let mut object = loader.load(bowline_agent::datapath::object()).unwrap();
        for hook in [Hook::FromPod, Hook::ToPod, Hook::FromUplink] {
            let Some(Program::SchedClassifier(program)) = object.program_mut(hook.name()) else {
                panic!("no program {}", hook.name());
            };
            program.load().unwrap_or_else(|error| panic!("{}: {error:#}", hook.name()));
        }
        umount(path).unwrap();
        Self { object }
    }

    fn table<K: Plain, V: Plain>(&mut self, name: &str) -> HashMap<&mut MapData, Raw<K>, Raw<V>> {
        HashMap::try_from(self.object.map_mut(name).unwrap()).unwrap()
    }

    fn array<V: Plain>(&mut self, name: &str, index: u32, value: V) {
        let map = self.object.map_mut(name).unwrap();
        let mut array = Array::<_, Raw<V>>::try_from(map).unwrap();
        array.set(index, Raw(value), 0).unwrap();
    }

    fn program(&mut self) {
        let mut edition = Edition::EMPTY;
        for net in nets() {
            for (key, route) in net.routes() {
                let map = self.object.map_mut(map::ROUTES).unwrap();
                let mut trie = LpmTrie::<_, Raw<Address>, Raw<Route>>::try_from(map).unwrap();
                let key = aya::maps::lpm_trie::Key::new(key.prefix_len, Raw(key.address));
                trie.insert(&key, Raw(route), 0).unwrap();
            }
            for (kind, (vip, backends)) in net.services().into_iter().enumerate() {
                let id = net.service(kind as u32);
                let address = Address::from(vip);
                self.table::<_, u32>(map::ADDRESSES).insert(Raw(address), Raw(0), 0).unwrap();
                edition = edition.with(&address);
                for (index, number) in [protocol::TCP, protocol::UDP].into_iter().enumerate() {
                    self.add_service(id, index as u32, vip, number, &backends);
                }
            }
        }
        self.array(map::EDITION, 0, edition);
    }

    fn add_service(
        &mut self,
        id: u32,
        index: u32,
        vip: IpAddr,
        number: u8,
        backends: &[(IpAddr, u16)],
    ) {
        let key = ServiceKey::new(vip.into(), U16Be::new(PORT), number);
        let first_slot = 4 * id + 2 * index;
        for (n, (address, port)) in backends.iter().enumerate() {
            let (address, port) = ((*address).into(), U16Be::new(*port));
            let backend = 4 * id + n as u32;
            let entry = Backend { address, port, state: state::ACTIVE, ..Backend::default() };
            self.array(map::BACKENDS, backend, entry);
            self.array(map::SLOTS, first_slot + n as u32, Slot { backend, tag: key.tag() });
        }
        let sticky = id % SERVICES == STICKY;
        let affinity_seconds = if sticky { AFFINITY_SECONDS } else { 0 };
        let service = Service {
            id,
            first_slot,
            slot_count: backends.len() as u32,
            affinity_seconds,
            ..Service::default()
        };
        self.table(map::SERVICES).insert(Raw(key), Raw(service), 0).unwrap();
    }

    /// The state of the maps that every row starts from.
    fn reset(&mut self) {
        for net in nets() {
            let pods = [
                (net.client, DEVICE, CLIENT_MAC),
                (net.local, DEVICE, LOCAL_MAC),
                (net.other, OTHER_DEVICE, OTHER_MAC),
            ];
            for (address, ifindex, mac) in pods {
                let pod = Pod { ifindex, mac: Mac::new(mac), flags: 0 };
                self.table(map::PODS).insert(Raw(Address::from(address)), Raw(pod), 0).unwrap();
            }
        }
        let mut flows = self.table::<FlowKey, Flow>(map::FLOWS);
        let keys: Vec<_> = flows.keys().map(Result::unwrap).collect();
        for key in keys {
            flows.remove(&key).unwrap();
        }
        let mut clients = self.table::<AffinityKey, Affinity>(map::AFFINITY);
        let keys: Vec<_> = clients.keys().map(Result::unwrap).collect();
        for key in keys {
            clients.remove(&key).unwrap();
        }
    }

    fn add_flow(&mut self, key: &FlowKey, flow: Flow, seconds_ago: u32) {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: u32 = uptime.split('.').next().unwrap().parse().unwrap();
        let last_used = seconds.wrapping_sub(seconds_ago);
        let flow = Flow { last_used, ..flow };
        self.table(map::FLOWS).insert(Raw(*key), Raw(flow), 0).unwrap();
        // Either end may be the pod that the flow belongs to.
        for address in [key.source, key.destination] {
            let mut pods = self.table::<Address, Pod>(map::PODS);
            if let Ok(Raw(pod)) = pods.get(&Raw(address), 0) {
                pods.insert(Raw(address), Raw(Pod { flags: 1, ..pod }), 0).unwrap();
            }
        }
    }

    /// Makes a client known to the service with affinity, since so many seconds.
    pub fn add_client(&mut self, client: IpAddr, backend: u32, seconds_ago: u64) {
        let key = sticky_key(client);
        // The machine may have been up for less.
        let last_used_ns = monotonic_ns().wrapping_sub(seconds_ago * 1_000_000_000);
        let entry = Affinity { last_used_ns, backend: 4 * key.service + backend, pad: 0 };
        self.table(map::AFFINITY).insert(Raw(key), Raw(entry), 0).unwrap();
    }

    /// The backend that it keeps to, and how many seconds ago that was used.
    pub fn client(&mut self, client: IpAddr) -> (u32, u64) {
        let key = sticky_key(client);
        let Raw(entry): Raw<Affinity> = self.table(map::AFFINITY).get(&Raw(key), 0).unwrap();
        let idle = monotonic_ns().wrapping_sub(entry.last_used_ns);
        (entry.backend - 4 * key.service, idle / 1_000_000_000)
    }

    /// Gives one of a family's services another backend.
    pub fn replace_backend(&mut self, net: &Net, kind: u32, backend: (IpAddr, u16)) {
        let (vip, _) = &net.services()[kind as usize];
        self.add_service(net.service(kind), 0, *vip, protocol::TCP, &[backend]);
    }

    /// Forgets what earlier packets left behind.
    pub fn clear(&mut self) {
        self.reset();
    }

    /// From now on the programs tell of every packet, or of none.
    pub fn listen(&mut self, on: bool) {
        let all = Wanted {
            until_ns: u64::MAX,
            outcomes: outcome::PASSED | outcome::REFUSED,
            ..Wanted::default()
        };
        self.array(map::MONITOR, 0, if on { all } else { Wanted::default() });
    }

    /// How many events were told since the last time.
    pub fn heard(&mut self) -> usize {
        let mut ring = RingBuf::try_from(self.object.map_mut(map::EVENTS).unwrap()).unwrap();
        std::iter::from_fn(|| ring.next().map(drop)).count()
    }

    /// The reasons for which this frame of a pod is refused after others.
    pub fn refusals_of(&mut self, before: &[Vec<u8>], frame: &[u8]) -> Vec<Reason> {
        self.reset();
        for frame in before {
            self.send(Hook::FromPod, frame).unwrap();
        }
        let before = self.counters();
        let (verdict, _) = self.send(Hook::FromPod, frame).unwrap();
        let moved = self.counters().into_iter().filter(|(key, now)| before[key] != *now);
        let reasons: Vec<Reason> = moved.map(|((reason, _), _)| reason).collect();
        assert_eq!(verdict, Verdict::Drop, "{reasons:?}");
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        reasons
    }

    /// All entries of FLOWS.
    pub fn flows(&mut self) -> Vec<(FlowKey, Flow)> {
        let flows = self.table::<FlowKey, Flow>(map::FLOWS);
        flows.iter().map(|entry| entry.unwrap()).map(|(key, flow)| (key.0, flow.0)).collect()
    }

    pub fn send(&mut self, hook: Hook, frame: &[u8]) -> std::io::Result<(Verdict, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let program: &mut SchedClassifier =
            self.object.program_mut(hook.name()).unwrap().try_into().unwrap();
        let result =
            program.test_run(options).map_err(|e| std::io::Error::other(format!("{e:?}")))?;
        out.truncate(result.data_size_out as usize);
        Ok((Verdict::of(result.return_value as i32), out))
    }

    /// How many packets a program has counted, by reason.
    pub fn packets_of(&mut self, hook: Hook) -> BTreeMap<Reason, u64> {
        let counters = self.counters_of(&[hook.direction()]);
        counters.into_iter().map(|((reason, _), (packets, _))| (reason, packets)).collect()
    }

    fn counters(&mut self) -> Counters {
        self.counters_of(&Direction::ALL)
    }

    fn counters_of(&mut self, directions: &[Direction]) -> Counters {
        let map = self.object.map_mut(map::COUNTERS).unwrap();
        let array = PerCpuArray::<_, Raw<Traffic>>::try_from(map).unwrap();
        let mut found = Counters::new();
        for reason in Reason::ALL {
            for direction in directions.iter().copied() {
                let all = array.get(&reason.index(direction), 0).unwrap();
                let packets = all.iter().map(|cpu| cpu.0.packets).sum();
                let bytes = all.iter().map(|cpu| cpu.0.bytes).sum();
                found.insert((reason, direction), (packets, bytes));
            }
        }
        found
    }

    fn service_counters(&mut self) -> ServiceCounters {
        let map = self.object.map_mut(map::SERVICE_COUNTERS).unwrap();
        let array = PerCpuArray::<_, Raw<ServiceTraffic>>::try_from(map).unwrap();
        let mut found = ServiceCounters::new();
        for id in 0..2 * SERVICES {
            let all = array.get(&id, 0).unwrap();
            let sum = |of: fn(&ServiceTraffic) -> u64| all.iter().map(|cpu| of(&cpu.0)).sum();
            found.insert(id, (0, sum(|t| t.packets), sum(|t| t.refused)));
        }
        let map = self.object.map_mut(map::CONNECTIONS).unwrap();
        let rows = Array::<_, u64>::try_from(map).unwrap();
        for (id, (connections, ..)) in &mut found {
            let place = size::SERVICE_LINES + *id;
            let all = (0..cpus()).map(|cpu| cpu * size::CONNECTIONS_ROW + place);
            *connections = all.map(|index| rows.get(&index, 0).unwrap()).sum();
        }
        found
    }

    /// Runs a table and says how many rows it has; panics with all that is wrong.
    pub fn check(&mut self, table: &str, rows: &[Row]) {
        let mut wrong = String::new();
        let mut not_run = 0;
        for row in rows {
            let frame = row.packet.bytes();
            if row.may_be_refused && self.send(row.hook, &frame).is_err() {
                not_run += 1;
                continue;
            }
            if let Err(text) = self.check_row(row) {
                wrong.push_str(&format!("{}:\n{text}\n", row.what));
            }
        }
        println!("packet rows: {table} {0}\nbowline-fact rows {0}", rows.len() - not_run);
        if not_run > 0 {
            println!(
                "packet rows: {table} SKIPPED {not_run}: this kernel does not run such frames"
            );
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }

    fn check_row(&mut self, row: &Row) -> Result<(), String> {
        self.reset();
        for (hook, packet) in &row.before {
            let (verdict, _) = self.send(*hook, &packet.bytes()).map_err(|e| e.to_string())?;
            if verdict == Verdict::Drop {
                return Err("  a packet that went before was dropped\n".to_owned());
            }
        }
        for (key, flow, seconds_ago) in &row.flows {
            self.add_flow(key, *flow, *seconds_ago);
        }
        if let Some((client, backend, seconds_ago)) = row.known {
            self.add_client(client, backend, seconds_ago);
        }
        let frame = row.packet.bytes();
        let (before, services) = (self.counters(), self.service_counters());
        let (verdict, out) = self.send(row.hook, &frame).map_err(|e| e.to_string())?;
        let mut wrong = difference(&row.out.bytes(), &out);
        if verdict != row.verdict {
            wrong.push_str(&format!("  verdict: expected {:?}, found {verdict:?}\n", row.verdict));
        }
        let mut expected = Counters::new();
        for reason in &row.reasons {
            let entry = expected.entry((*reason, row.hook.direction())).or_default();
            *entry = (entry.0 + 1, entry.1 + frame.len() as u64);
        }
        let changed: Counters = self
            .counters()
            .into_iter()
            .map(|(key, now)| (key, (now.0 - before[&key].0, now.1 - before[&key].1)))
            .filter(|(_, moved)| *moved != (0, 0))
            .collect();
        if changed != expected {
            wrong.push_str(&format!("  counters: expected {expected:?}, found {changed:?}\n"));
        }
        let expected: ServiceCounters = row
            .service
            .map(|(id, opened, packets, no)| (id, (opened, packets, no)))
            .into_iter()
            .collect();
        let changed: ServiceCounters = self
            .service_counters()
            .into_iter()
            .map(|(id, now)| {
                let old = services[&id];
                (id, (now.0 - old.0, now.1 - old.1, now.2 - old.2))
            })
            .filter(|(_, moved)| *moved != (0, 0, 0))
            .collect();
        if changed != expected {
            wrong.push_str(&format!("  service: expected {expected:?}, found {changed:?}\n"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}
