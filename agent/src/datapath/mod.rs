//! The eBPF data plane of this node: load, pin, attach, write and read the maps.
//!
//! Guarantees: what was programmed stays in the kernel when the agent dies; [`Datapath::open`]
//! takes it over and replaces the programs one by one without a gap. Writing is by difference and
//! idempotent. A full map is an error that names it, and what it holds keeps working.
//! Interfaces are looked up in the network namespace of the calling thread.
//! Not here: deciding what services and pods there are, kernel routes and links.

#![expect(unsafe_code, reason = "bpf(2) takes pointers; each block says why it is sound")]

mod agents_netns;
mod condition;
mod connections;
mod copy;
mod diff;
mod dump;
mod explain;
mod features;
mod filters;
mod inside;
mod kernel;
mod layouts;
mod links;
mod measure;
pub(crate) mod memory;
mod migrate;
mod mirror;
mod monitor;
mod names;
mod netlink;
mod netns;
mod object;
mod pins;
mod pod_faults;
mod program_facts;
mod programs;
mod resize;
mod scrape;
mod shape;
mod sizes;
mod snapshot;
mod status;
mod store;
mod syscall;
mod table;
#[cfg(test)]
mod tests;
mod traffic;
mod udp;
mod verify;

pub use crate::apply::services::{ApplyServicesFailed, ServiceSummary};
pub use crate::plan::services::{Place, ServiceChanges, ServiceTable, service_table};
pub use agents_netns::{AgentsNetns, agents_netns};
pub use bowline_api::cidr::Cidr;
pub use condition::FullMap;
pub use diff::{ApiObjects, Difference, differences};
pub use dump::{DUMPED, DumpFailed, DumpRow, dump};
pub use explain::{
    Client, ExplainFailed, Explanation, NodePlace, Outcome, Question, Step, explain,
};
pub(crate) use features::missing as missing_features;
pub use features::{Feature, FeatureRow, ParseFeatureFailed};
pub(crate) use filters::forget_all as forget_filters;
pub use kernel::{NeighbourRow, ReadKernelFailed, link_names, namespace_cookie, neighbours};
pub use links::AttachProgramFailed;
pub use measure::{EmptyPrograms, Instructions, Repeat, Repeated, Runs};
pub use migrate::MigrateFailed;
pub use monitor::{Became, Filter, LEASE, ListenFailed, Listener};
pub use pins::FindPinsFailed;
pub use programs::{LoadProgramsFailed, Raw, object};
pub(crate) use scrape::{Fill, Occurred, Programmed, Scrape, ServiceFigures};
pub use shape::MapShape;
pub use sizes::{MapSizes, SetMapSizeFailed};
pub use snapshot::monotonic_ns;
pub(crate) use snapshot::read_drops;
pub use snapshot::{
    AffinityRow, BackendRow, CounterRow, LostPod, MapRow, PodRow, RouteRow, ServiceRow, Snapshot,
};
pub use status::{LoopStatus, MapStatus, ProgramStatus, ReadStatusFailed, RecentDrops, Status};
pub use table::{ReadMapsFailed, WriteMapFailed};
pub use traffic::{Amounts, NodeTraffic, PodTraffic, ServiceTraffic};
pub use udp::StartMoverFailed;
pub use verify::{Repair, Verified, VerifyFailed};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::{Address, Mac, Pod, Route, RouteKey, map, pod_flags, route_flags};

use crate::apply::services::ServiceWriter;
use crate::plan::services::ServiceStep;
use condition::ConditionFile;
use features::Features;
use links::PacketHook;
use migrate::Migration;
use mirror::Mirror;
use names::{Gone, NamesWriter, PodName};
use pins::Pins;
use programs::{PacketProgram, Programs};
use resize::Resize;
use store::MapStore;
use table::Table;
use udp::{Departures, UdpMover};

/// Where the data plane lives and how large it may grow.
#[derive(Clone, Debug)]
pub struct Config {
    /// A BPF file system is mounted here if there is none.
    pub bpffs: PathBuf,
    /// cgroup2 directory: sockets of it and of all below it are balanced.
    pub socket_cgroup: PathBuf,
    /// Name of the interface that leads to the other nodes.
    pub uplink: String,
    /// Name of the VXLAN device (in collect-metadata mode) that [`Hop::Tunnel`] leads through. It
    /// exists already.
    pub tunnel: Option<String>,
    /// Where the names of programmed objects are kept for those who read the maps.
    pub names_file: PathBuf,
    /// Where features and failures are kept for those who look at the data plane.
    pub condition_file: PathBuf,
    pub sizes: MapSizes,
    /// Features to do without although the kernel has them.
    pub disabled_features: BTreeSet<Feature>,
}

/// A pod's link, as the data plane needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// The host side of the veth.
    pub ifindex: u32,
    /// One of each family at most.
    pub addresses: Vec<IpAddr>,
    /// The hardware address of the pod's own side.
    pub mac: [u8; 6],
    /// Path of the pod's network namespace.
    pub netns: PathBuf,
}

/// The node that holds a pod range, by its address, and the way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// Through the uplink, unchanged: both nodes are on one link.
    Uplink(IpAddr),
    /// Through the tunnel device, which wraps the packet for the node.
    Tunnel(IpAddr),
}

/// The data plane could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDatapathFailed {
    #[error("no BPF file system at {}: {source}", path.display())]
    PinDirectory { path: PathBuf, source: io::Error },
    #[error("there is no interface {name} to reach other nodes by: {source}")]
    Interface { name: String, source: nix::Error },
    #[error("this kernel lacks what the data plane cannot do without: {0}")]
    Features(String),
    #[error("resizing map {map} failed: {message}")]
    Resize { map: &'static str, message: String },
    #[error("taking over the data plane of another build failed: {0}")]
    Migrate(#[from] MigrateFailed),
    #[error(transparent)]
    Load(#[from] LoadProgramsFailed),
    #[error(transparent)]
    Attach(#[from] AttachProgramFailed),
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
    #[error(transparent)]
    Write(#[from] WriteMapFailed),
    #[error("starting the writer of {} failed: {source}", path.display())]
    Names { path: PathBuf, source: io::Error },
    #[error("moving UDP sockets off dead backends: {0}")]
    Mover(#[from] StartMoverFailed),
}

/// A pod could not be attached.
#[derive(Debug, thiserror::Error)]
#[error("pod {namespace}/{name} is not attached to the data plane: {source}")]
pub struct AttachPodFailed {
    pub namespace: String,
    pub name: String,
    pub source: Box<PodFailure>,
}

/// What went wrong with a pod's entry or programs.
#[derive(Debug, thiserror::Error)]
pub enum PodFailure {
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
    #[error(transparent)]
    Write(#[from] WriteMapFailed),
    #[error(transparent)]
    Attach(#[from] AttachProgramFailed),
    #[error("removing a pin failed: {0}")]
    Unpin(#[from] io::Error),
}

/// A pod could not be detached.
#[derive(Debug, thiserror::Error)]
#[error("pod address {address} is not detached from the data plane: {source}")]
pub struct DetachPodFailed {
    pub address: IpAddr,
    pub source: Box<PodFailure>,
}

/// The tunnel device: its name, and the number under which it was last seen.
#[derive(Debug)]
struct Tunnel {
    name: String,
    ifindex: u32,
}

/// The data plane of one node. Dropping it detaches nothing.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    programs: Programs,
    hook: PacketHook,
    uplink: u32,
    tunnel: Option<Tunnel>,
    socket_cgroup: PathBuf,
    pods: Mirror<Address, Pod>,
    routes: Mirror<RouteKey, Route>,
    attached: BTreeMap<IpAddr, u32>,
    /// Pods that found no room, by their addresses.
    refused: BTreeMap<IpAddr, String>,
    store: MapStore,
    services: ServiceWriter,
    departures: Departures,
    mover: UdpMover,
    names: NamesWriter,
    condition: ConditionFile,
}

/// Has flows looked up for every pod in the PODS map of this directory. A mark too many costs a
/// look-up, one too few an open connection.
fn mark_pods<E>(maps: &Path) -> Result<(), E>
where
    E: From<ReadMapsFailed> + From<WriteMapFailed>,
{
    let pods: Table<Address, Pod> = Table::open(maps, map::PODS)?;
    for (address, pod) in pods.entries()? {
        pods.put(&address, &Pod { flags: pod.flags | pod_flags::HAS_FLOWS, ..pod })?;
    }
    Ok(())
}

impl Datapath {
    /// Loads the programs and attaches them to the sockets, the uplink and every known pod,
    /// replacing those of an earlier agent; takes over its maps, also those of a build with other
    /// layouts.
    pub fn open(config: Config) -> Result<Self, OpenDatapathFailed> {
        let pins = Pins::prepare(&config.bpffs).map_err(|source| {
            OpenDatapathFailed::PinDirectory { path: config.bpffs.clone(), source }
        })?;
        let number = |name: &str| {
            nix::net::if_::if_nametoindex(name)
                .map_err(|source| OpenDatapathFailed::Interface { name: name.to_owned(), source })
        };
        let uplink = number(&config.uplink)?;
        let tunnel = match config.tunnel {
            Some(name) => Some(Tunnel { ifindex: number(&name)?, name }),
            None => None,
        };
        let features = Features::probe(config.disabled_features);
        let missing = features.missing();
        if !missing.is_empty() {
            return Err(OpenDatapathFailed::Features(missing));
        }
        let mut migration = Migration::begin(&config.bpffs, &pins)?;
        let mut resize = Resize::begin(&pins, &config.sizes)?;
        let mut programs = Programs::load(&pins, &config.sizes, &features, &config.socket_cgroup)?;
        resize.fill()?;
        let hook = PacketHook::of(&features);
        let waits = migration.take_over(&programs)?;

        let pods = Mirror::over(Table::open(&pins.maps, map::PODS)?).comparing(verify::same_pod);
        let mut routes = Mirror::over(Table::open(&pins.maps, map::ROUTES)?);
        routes.adopt_all()?;
        let mut store = MapStore::open(&pins)?;
        let services = store.recover()?;
        store.take_over()?;
        let departures = Departures::recover(services.programmed());
        let mover = UdpMover::start(&pins, config.socket_cgroup.clone())?;

        links::attach_sockets(&programs, &pins, &config.socket_cgroup)?;
        let uplinks: Vec<u32> =
            [uplink].into_iter().chain(tunnel.as_ref().map(|tunnel| tunnel.ifindex)).collect();
        let which = PacketProgram::FromUplink;
        for ifindex in &uplinks {
            links::take_over_packets(&mut programs, &pins, which, *ifindex, (hook, waits))?;
        }
        let mut condition = ConditionFile::start(config.condition_file, features.rows());
        condition.set_programs(programs.listed(hook, &config.socket_cgroup, &uplinks));
        let names = NamesWriter::start(config.names_file.clone())
            .map_err(|source| OpenDatapathFailed::Names { path: config.names_file, source })?;
        let attached = BTreeMap::new();
        let mut datapath = Self {
            pins,
            programs,
            hook,
            uplink,
            tunnel,
            socket_cgroup: config.socket_cgroup,
            pods,
            routes,
            attached,
            refused: BTreeMap::new(),
            store,
            services,
            departures,
            mover,
            names,
            condition,
        };
        datapath.take_over_pods(waits)?;
        migration.finish()?;
        datapath.forget_predecessors(&uplinks)?;
        resize.finish()?;
        Ok(datapath)
    }

    /// Replaces the programs of the pods that an earlier agent attached; forgets those whose
    /// interface is gone, and those that it was about to forget.
    fn take_over_pods(&mut self, waits: bool) -> Result<(), OpenDatapathFailed> {
        for (address, pod) in self.pods.adopt_all()? {
            if links::interface_name(pod.ifindex).is_some() {
                for which in [PacketProgram::FromPod, PacketProgram::ToPod] {
                    let Self { programs, pins, hook, .. } = self;
                    let how = (*hook, waits);
                    links::take_over_packets(programs, pins, which, pod.ifindex, how)?;
                }
                self.attached.insert(address.into(), pod.ifindex);
            } else {
                self.pods.delete(&address)?;
                let path = self.pins.links.clone();
                links::forget_pod(&self.pins, pod.ifindex)
                    .map_err(|source| OpenDatapathFailed::PinDirectory { path, source })?;
            }
        }
        let path = &self.pins.links;
        links::forget_strays(&self.pins, |ifindex| self.attached.values().any(|it| *it == ifindex))
            .map_err(|source| OpenDatapathFailed::PinDirectory { path: path.clone(), source })?;
        let Self { names, attached, .. } = self;
        names.change(|names| names.pods.retain(|address, _| attached.contains_key(address)));
        Ok(())
    }

    /// Forgets the packet programs of earlier agents beside this one's.
    fn forget_predecessors(&self, uplinks: &[u32]) -> Result<(), AttachProgramFailed> {
        use PacketProgram::{FromPod, FromUplink, ToPod};
        let uplinks = uplinks.iter().map(|ifindex| (FromUplink, *ifindex));
        let pods =
            self.attached.values().flat_map(|ifindex| [(FromPod, *ifindex), (ToPod, *ifindex)]);
        uplinks.chain(pods).try_for_each(|(which, ifindex)| {
            links::forget_predecessors(&self.pins, which, ifindex, self.hook)
        })
    }

    /// The attached pods: address and host side interface.
    pub fn pods(&self) -> &BTreeMap<IpAddr, u32> {
        &self.attached
    }

    /// Makes a pod reachable and polices what it sends. May be called again with the same pod.
    pub fn attach_pod(&mut self, pod: &PodLink) -> Result<(), AttachPodFailed> {
        let (done, name) = (self.try_attach_pod(pod), format!("{}/{}", pod.namespace, pod.name));
        match &done {
            Err(PodFailure::Write(error)) => {
                self.refused.extend(pod.addresses.iter().map(|address| (*address, name.clone())));
                self.condition.found_no_room(name, error);
            }
            _ => self.condition.found_room(map::PODS, &name),
        }
        done.map_err(|source| AttachPodFailed {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            source: Box::new(source),
        })
    }

    fn try_attach_pod(&mut self, pod: &PodLink) -> Result<(), PodFailure> {
        let stale: Vec<IpAddr> = self
            .attached
            .iter()
            .filter(|(address, ifindex)| {
                **ifindex == pod.ifindex && !pod.addresses.contains(address)
            })
            .map(|(address, _)| *address)
            .collect();
        for address in stale {
            self.pods.delete(&address.into())?;
            self.attached.remove(&address);
            self.names.change(|names| drop(names.pods.remove(&address)));
        }
        for address in &pod.addresses {
            let key = Address::from(*address);
            let known = self.pods.get(&key)?.filter(|known| known.ifindex == pod.ifindex);
            let flags = known.map_or(0, |known| known.flags);
            let wanted = Pod { ifindex: pod.ifindex, mac: Mac::new(pod.mac), flags };
            // The programs set flags at any time: an entry that is right is not written over.
            if known != Some(wanted) {
                self.pods.put(&key, &wanted)?;
            }
            // A link that was removed by hand is made anew under another number.
            if self.attached.get(address).is_some_and(|old| *old != pod.ifindex) {
                self.forget_link_of(*address)?;
            }
            self.attached.insert(*address, pod.ifindex);
        }
        self.attach_programs(pod.ifindex)?;
        let name = PodName {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            netns: pod.netns.clone(),
        };
        self.names.change(|names| {
            names.pods.extend(pod.addresses.iter().map(|address| (*address, name.clone())));
        });
        Ok(())
    }

    fn attach_programs(&mut self, ifindex: u32) -> Result<(), AttachProgramFailed> {
        for which in [PacketProgram::FromPod, PacketProgram::ToPod] {
            links::attach_packets(&mut self.programs, &self.pins, which, ifindex, self.hook)?;
        }
        Ok(())
    }

    /// Forgets the pod with these addresses, whether or not its interface still exists. May be
    /// called again. Goes on past an address that stays, and gives back the first failure.
    pub fn detach_pod(&mut self, addresses: &[IpAddr]) -> Result<(), DetachPodFailed> {
        let mut done = Ok(());
        for address in addresses {
            // It needs no room any more.
            if let Some(name) = self.refused.remove(address) {
                self.condition.found_room(map::PODS, &name);
            }
            let detached = self
                .try_detach(*address)
                .map_err(|source| DetachPodFailed { address: *address, source: Box::new(source) });
            done = done.and(detached);
        }
        done
    }

    fn try_detach(&mut self, address: IpAddr) -> Result<(), PodFailure> {
        self.pods.delete(&address.into())?;
        self.forget_link_of(address)?;
        // Only now: what failed is tried again under the same number.
        self.attached.remove(&address);
        self.names.change(|names| drop(names.pods.remove(&address)));
        Ok(())
    }

    /// Removes the pins of the link that an address was attached at.
    fn forget_link_of(&self, address: IpAddr) -> io::Result<()> {
        // The number may be a newer pod's by now, or the pod's own with another address.
        let others = |old: u32| self.attached.iter().any(|(a, i)| *i == old && *a != address);
        match self.attached.get(&address).copied().filter(|old| !others(*old)) {
            Some(ifindex) => links::forget_pod(&self.pins, ifindex),
            None => Ok(()),
        }
    }

    /// Sets which node each other pod range is reached by, and how.
    pub fn set_routes(&mut self, wanted: &BTreeMap<Cidr, Hop>) -> Result<(), SetRoutesFailed> {
        let done = self.try_set_routes(wanted);
        let full = match &done {
            Err(SetRoutesFailed::Write(error)) => Some(("routes to other nodes".to_owned(), error)),
            _ => None,
        };
        self.condition.note_full(&[map::ROUTES], full.into_iter());
        done
    }

    fn try_set_routes(&mut self, wanted: &BTreeMap<Cidr, Hop>) -> Result<(), SetRoutesFailed> {
        if wanted.values().any(|hop| matches!(hop, Hop::Tunnel(_))) {
            self.follow_tunnel()?;
        }
        let programmed = self.routes.adopt_all()?;
        let wanted = wanted.iter().map(|(cidr, hop)| {
            let route = match hop {
                Hop::Uplink(node) => Route { node: (*node).into(), ifindex: self.uplink, flags: 0 },
                Hop::Tunnel(node) => Route {
                    node: (*node).into(),
                    ifindex: self.tunnel.as_ref().map_or(0, |tunnel| tunnel.ifindex),
                    flags: route_flags::TUNNEL,
                },
            };
            (RouteKey::new(cidr.network().into(), cidr.prefix().into()), route)
        });
        let wanted: Vec<(RouteKey, Route)> = wanted.collect();
        for (key, _) in &programmed {
            if !wanted.iter().any(|(other, _)| other == key) {
                self.routes.delete(key)?;
            }
        }
        for entry in wanted.iter().filter(|entry| !programmed.contains(entry)) {
            self.routes.put(&entry.0, &entry.1)?;
        }
        Ok(())
    }

    /// Looks the tunnel device up again: one that was removed and made anew has another number,
    /// and no program yet.
    fn follow_tunnel(&mut self) -> Result<(), SetRoutesFailed> {
        let tunnel = self.tunnel.as_mut().ok_or(SetRoutesFailed::NoTunnel)?;
        let ifindex = nix::net::if_::if_nametoindex(tunnel.name.as_str())
            .map_err(|source| SetRoutesFailed::Tunnel { name: tunnel.name.clone(), source })?;
        if ifindex != tunnel.ifindex {
            let which = PacketProgram::FromUplink;
            links::attach_packets(&mut self.programs, &self.pins, which, ifindex, self.hook)?;
            links::forget_uplink(&self.pins, tunnel.ifindex).map_err(SetRoutesFailed::Unpin)?;
            tunnel.ifindex = ifindex;
            let (uplinks, cgroup) = ([self.uplink, ifindex], &self.socket_cgroup);
            self.condition.set_programs(self.programs.listed(self.hook, cgroup, &uplinks));
        }
        Ok(())
    }

    /// Programs exactly these services, writing only what differs.
    pub fn apply_services(
        &mut self,
        wanted: &ServiceTable,
    ) -> Result<ServiceSummary, ApplyServicesFailed> {
        let steps = crate::plan::services::plan(wanted, self.services.programmed());
        let (done, _) = self.take_service_steps(&steps);
        self.departures.keep(&wanted.services);
        self.move_udp_sockets(wanted, &done);
        self.names.replace_services(wanted);
        done
    }

    /// Programs what changed, and leaves all other services as they are.
    pub fn change_services(
        &mut self,
        changes: &ServiceChanges,
    ) -> Result<ServiceSummary, ApplyServicesFailed> {
        let steps = crate::plan::services::plan_changes(changes, self.services.programmed());
        let (done, gone) = self.take_service_steps(&steps);
        changes.removed.iter().for_each(|key| self.departures.remove(key));
        self.move_udp_sockets(&changes.put, &done);
        self.names.follow_services(&changes.put, gone);
        done
    }

    /// Has connected UDP sockets leave the backends that these services have no longer.
    fn move_udp_sockets(
        &mut self,
        put: &ServiceTable,
        done: &Result<ServiceSummary, ApplyServicesFailed>,
    ) {
        let unwritten = done.as_ref().err().map(ApplyServicesFailed::keys).unwrap_or_default();
        self.mover.tell(self.departures.follow(put, &unwritten));
    }

    fn take_service_steps(
        &mut self,
        steps: &[ServiceStep<'_>],
    ) -> (Result<ServiceSummary, ApplyServicesFailed>, Gone) {
        let mut backends = self.services.backends_of(steps);
        let done = self.services.apply(&mut self.store, steps);
        let failures = done.as_ref().err().into_iter().flat_map(|failed| &failed.failures);
        let failures = failures.map(|failure| (failure.service.clone(), &failure.error));
        self.condition.note_full(&[map::SERVICES, map::SLOTS, map::BACKENDS], failures);
        backends.retain(|backend| !self.services.uses(backend));
        let removed = steps.iter().filter(|step| matches!(step, ServiceStep::Remove { .. }));
        let mut addresses: Vec<Address> = removed.map(|step| step.key().address).collect();
        addresses.retain(|address| !self.services.has_address(*address));
        (done, Gone { addresses, backends })
    }
}

/// The routes could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SetRoutesFailed {
    #[error("a route leads through a tunnel, and the data plane was opened without one")]
    NoTunnel,
    #[error("there is no tunnel device {name}: {source}")]
    Tunnel { name: String, source: nix::Error },
    #[error("removing a pin of the tunnel device that was there before failed: {0}")]
    Unpin(io::Error),
    #[error(transparent)]
    Attach(#[from] AttachProgramFailed),
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
    #[error(transparent)]
    Write(#[from] WriteMapFailed),
}
