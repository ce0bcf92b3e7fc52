//! What will happen to a connection or a datagram, step by step: which hook sees it, what it finds
//! in which map, which backends it may get, and how packets get to each of them.
//!
//! Guarantees: reads only; told from the pinned maps, the programs' links and the kernel's own
//! links, neighbours and routes, those in the pods of this node included, not from the API (but
//! which node has a range is what the API said last). What changes while it reads may show in
//! either state. The way is followed on this node: what the other end makes of a packet is not
//! told.

mod inside;
mod services;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bowline_api::cidr::Cidr;
use bowline_ebpf_abi::{
    Address, Pod, Reason, Route, RouteKey, ServiceKey, U16Be, map, protocol, route_flags,
};
use k8s_openapi::api::core::v1::Node;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::kernel::{
    Attached, NeighbourRow, ReadKernelFailed, Seen, packet_program, pinned_program,
};
use super::names::Names;
use super::pins::Pins;
use super::snapshot::protocol_name;
use super::table::{ReadMapsFailed, Table};
use crate::network::{LinkSeen, Lookup, hardware_address};
use crate::watch::Checkpoint;

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
pub enum ExplainFailed {
    #[error(transparent)]
    Maps(#[from] ReadMapsFailed),
    #[error(transparent)]
    Kernel(#[from] ReadKernelFailed),
}

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// A pod of the node, by one of its addresses.
    Pod(IpAddr),
    /// A process of the node itself, or a pod on its network.
    Node,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub from: Client,
    pub to: SocketAddr,
    pub udp: bool,
    /// Steps and faults have addresses only, no names of objects.
    pub numeric: bool,
}

impl Question {
    /// Its number in the IP header.
    const fn protocol(&self) -> u8 {
        if self.udp { protocol::UDP } else { protocol::TCP }
    }
}

/// Where a node's data plane is.
#[derive(Clone, Debug)]
pub struct NodePlace {
    pub bpffs: PathBuf,
    /// The node's network namespace; none for the calling thread's.
    pub netns: Option<PathBuf>,
    pub names_file: PathBuf,
    pub condition_file: PathBuf,
}

/// One thing that is looked at on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// A hook, a map or a table of the kernel.
    pub at: String,
    pub looks_up: String,
    pub finds: String,
    /// Whether it is not as it should be.
    pub fault: bool,
}

/// How it ends, as far as this node has a part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It gets on its way.
    Sent,
    /// It is refused on purpose: the reason is in the last step.
    Refused,
    /// It gets lost, or goes a way that it should not.
    Broken,
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub client: String,
    pub to: SocketAddr,
    pub protocol: String,
    /// `namespace/name`, if the destination is a service's.
    pub service: Option<String>,
    /// Whom it may come to: the service's backends, or the destination itself.
    pub candidates: Vec<SocketAddr>,
    /// The one of them that the client stays with already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<SocketAddr>,
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    /// What is wrong, in words.
    pub faults: Vec<String>,
    /// Where a client in the same place can be started to try it out.
    #[serde(skip)]
    pub netns: Option<PathBuf>,
    /// The cgroup that the socket hooks are attached to.
    #[serde(skip)]
    pub socket_cgroup: Option<PathBuf>,
}

/// Tells what will happen.
pub fn explain(place: &NodePlace, question: &Question) -> Result<Explanation, ExplainFailed> {
    let mut way = Way::begin(place, question)?;
    let sender = match question.from {
        Client::Pod(address) => {
            let Some(sender) = way.client(address)? else { return Ok(way.told) };
            Some(sender)
        }
        Client::Node => {
            way.node();
            None
        }
    };
    let candidates = match way.socket_hook()? {
        true => way.balance(sender.as_ref())?,
        false => Some(vec![question.to]),
    };
    let Some(candidates) = candidates else { return Ok(way.told) };
    if let Some(reason) = way.refused_by_link(sender.as_ref()) {
        way.refused("from_pod", question.to, "pods send there to nobody", reason);
        return Ok(way.told);
    }
    way.told.candidates = candidates;
    let ends = way.told.kept.map_or_else(|| way.told.candidates.clone(), |kept| vec![kept]);
    way.deliver(&ends, sender.as_ref())?;
    Ok(way.told)
}

/// What becomes of the packets of a pod that PODS does not have.
const REFUSED_SOURCE: &str = "its packets are refused [spoofed-source]";

fn too_small(link: &LinkSeen, size: &LinkSeen) -> String {
    format!(
        "mtu {}, and {} of the client has {}: large packets are dropped or fragmented",
        link.mtu, size.name, size.mtu
    )
}

/// What is known on the way.
struct Way<'a> {
    place: &'a NodePlace,
    question: &'a Question,
    pins: Pins,
    names: Names,
    condition: Condition,
    /// No socket hook runs: what a pod sends is balanced packet by packet.
    by_packets: bool,
    told: Explanation,
}

/// The client pod's link on the node.
struct Sender {
    pod: Pod,
    link: LinkSeen,
    /// The pod's own end of it, if its namespace could be seen.
    inner: Option<LinkSeen>,
}

impl<'a> Way<'a> {
    fn begin(place: &'a NodePlace, question: &'a Question) -> Result<Self, ExplainFailed> {
        let condition = Condition::read(&place.condition_file);
        let told = Explanation {
            client: String::new(),
            to: question.to,
            protocol: protocol_name(question.protocol()).to_owned(),
            service: None,
            candidates: Vec::new(),
            kept: None,
            steps: Vec::new(),
            outcome: Outcome::Sent,
            faults: Vec::new(),
            netns: None,
            socket_cgroup: condition.socket_cgroup(),
        };
        let pins = Pins::to_read(&place.bpffs).map_err(ReadMapsFailed::from)?;
        let names = Names::read(&place.names_file);
        Ok(Self { place, question, pins, names, condition, by_packets: false, told })
    }

    fn step(&mut self, at: impl Display, looks_up: impl Display, finds: impl Display) {
        let (at, looks_up, finds) = (at.to_string(), looks_up.to_string(), finds.to_string());
        self.told.steps.push(Step { at, looks_up, finds, fault: false });
    }

    fn fault(&mut self, at: impl Display, looks_up: impl Display, finds: impl Display) {
        self.told.faults.push(format!("{at}: {looks_up}: {finds}"));
        self.step(at, looks_up, finds);
        if let Some(step) = self.told.steps.last_mut() {
            step.fault = true;
        }
        self.told.outcome = Outcome::Broken;
    }

    fn refused(&mut self, at: impl Display, looks_up: impl Display, why: &str, reason: Reason) {
        self.step(at, looks_up, format!("{why}: refused [{}]", reason.name()));
        self.told.outcome = Outcome::Refused;
    }

    fn key(&self) -> ServiceKey {
        let to = self.question.to;
        ServiceKey::new(to.ip().into(), U16Be::new(to.port()), self.question.protocol())
    }

    fn target(&self, end: &SocketAddr) -> String {
        match self.names.targets.get(end).filter(|_| !self.question.numeric) {
            Some(name) => format!("{end} {name}"),
            None => end.to_string(),
        }
    }

    /// `NAMESPACE/NAME ADDRESS`.
    fn pod(&self, address: IpAddr) -> String {
        match self.names.pods.get(&address).filter(|_| !self.question.numeric) {
            Some(pod) => format!("{}/{} {address}", pod.namespace, pod.name),
            None => address.to_string(),
        }
    }

    fn node(&mut self) {
        "the node".clone_into(&mut self.told.client);
        self.told.netns.clone_from(&self.place.netns);
        self.step("client", "the node", "a process in the node's own network namespace");
    }

    /// Nothing if the node has no such pod.
    fn client(&mut self, address: IpAddr) -> Result<Option<Sender>, ExplainFailed> {
        let name = self.pod(address);
        self.told.client.clone_from(&name);
        self.told.netns = self.names.pods.get(&address).map(|pod| pod.netns.clone());
        let pods: Table<Address, Pod> = Table::open(&self.pins.maps, map::PODS)?;
        let Some(pod) = pods.get(&address.into())? else {
            let finds = match self.told.netns {
                Some(_) => format!("pod {name} has no entry in PODS: {REFUSED_SOURCE}"),
                // Nobody's address.
                None => format!("no entry: {REFUSED_SOURCE}"),
            };
            self.fault(map::PODS, address, finds);
            return Ok(None);
        };
        let seen = Seen::inside(self.place.netns.as_deref(), &[])?;
        let Some(link) = seen.links.get(&pod.ifindex).cloned() else {
            self.fault("links", format!("link {}", pod.ifindex), "there is no such link");
            return Ok(None);
        };
        let finds = format!("behind {} (link {}, mtu {})", link.name, link.index, link.mtu);
        if link.up {
            self.step("client", &name, finds);
        } else {
            self.fault("client", &name, format!("{finds}, which is down"));
        }
        let inner = self.inside_client(&pod, address, &link);
        Ok(Some(Sender { pod, link, inner }))
    }

    /// Whether anything balances from here on.
    fn socket_hook(&mut self) -> Result<bool, ExplainFailed> {
        let mut balances = true;
        let family = if self.question.to.is_ipv4() { 4 } else { 6 };
        let hooks: &[&str] = if self.question.udp { &["connect", "sendmsg"] } else { &["connect"] };
        for hook in hooks {
            let hook = format!("{hook}{family}");
            let at = self.told.socket_cgroup.as_ref();
            let at = at.map_or_else(|| "cgroup".to_owned(), |path| format!("{}", path.display()));
            match pinned_program(&self.pins.links.join(&hook))? {
                Attached::Runs(number) => self.step(hook, at, format!("program {number} runs")),
                Attached::Not(why) => {
                    let instead = match self.question.from {
                        Client::Pod(_) => "Packets are balanced one by one",
                        Client::Node => "Nothing balances what the node itself sends",
                    };
                    self.fault(hook, at, format!("no program of bowline: {why}. {instead}"));
                    balances &= matches!(self.question.from, Client::Pod(_));
                    self.by_packets = true;
                }
            }
        }
        Ok(balances)
    }

    /// What a pod's link refuses by its destination.
    fn refused_by_link(&self, sender: Option<&Sender>) -> Option<Reason> {
        let to = Address::from(self.question.to.ip());
        match sender {
            Some(_) if to.is_multicast() => Some(Reason::Multicast),
            Some(_) if to.is_broadcast() => Some(Reason::Broadcast),
            _ => None,
        }
    }

    /// How packets get to each candidate.
    fn deliver(
        &mut self,
        ends: &[SocketAddr],
        sender: Option<&Sender>,
    ) -> Result<(), ExplainFailed> {
        let pods: Table<Address, Pod> = Table::open(&self.pins.maps, map::PODS)?;
        let routes: Table<RouteKey, Route> = Table::open(&self.pins.maps, map::ROUTES)?;
        let addresses: Vec<IpAddr> = ends.iter().map(SocketAddr::ip).collect();
        let seen = Seen::inside(self.place.netns.as_deref(), &addresses)?;
        if let Some(sender) = sender {
            self.ways_out(&addresses, sender);
            self.packet_hook("from_pod", &sender.link)?;
        }
        for end in ends {
            let address: Address = end.ip().into();
            match (pods.get(&address)?, routes.get(&RouteKey::of(address))?, sender) {
                (Some(pod), _, Some(sender)) => self.by_pod(end, &pod, &seen, Some(sender)),
                (None, Some(route), Some(sender)) => self.by_node(end, &route, &seen, sender),
                (pod, _, _) => {
                    if pod.is_none() && self.names.pods.contains_key(&end.ip()) {
                        let finds = format!(
                            "pod {} has no entry in PODS: {REFUSED_SOURCE}",
                            self.pod(end.ip())
                        );
                        self.fault(map::PODS, end.ip(), finds);
                    } else if let (Some((range, node)), true) =
                        (self.range_of(end.ip()), sender.is_some())
                    {
                        let finds = format!(
                            "no route of ROUTES covers it, and it is in {range} of {node}: it is \
                             left to the node's stack"
                        );
                        self.fault(map::ROUTES, self.target(end), finds);
                    } else if sender.is_some() {
                        let other = format!("{} and {}", map::PODS, map::ROUTES);
                        self.step(other, end.ip(), "nothing: it is left to the node's stack");
                    }
                    self.by_stack(end, &seen);
                    if let Some(pod) = pod {
                        self.by_pod(end, &pod, &seen, None);
                    }
                }
            }
        }
        Ok(())
    }

    fn packet_hook(&mut self, program: &'static str, link: &LinkSeen) -> Result<(), ExplainFailed> {
        let netns = self.place.netns.as_deref();
        let found = packet_program(netns, &self.pins, &self.condition, program, link.index)?;
        let at = format!("{} (link {})", link.name, link.index);
        match found {
            Attached::Runs(number) => self.step(program, at, format!("program {number} runs")),
            Attached::Not(why) => {
                let finds = format!("no program of bowline: {why}. The node's stack forwards");
                self.fault(program, at, finds);
            }
        }
        Ok(())
    }

    /// The range of another node that the address is in, and that node, by what the API said last.
    fn range_of(&self, address: IpAddr) -> Option<(Cidr, String)> {
        let run_dir = self.place.names_file.parent()?;
        let own = |node: &Node| {
            let status = node.status.iter();
            let mut addresses = status.flat_map(|status| status.addresses.iter().flatten());
            addresses.any(|it| it.address.parse() == Ok(address))
        };
        let client = match self.question.from {
            Client::Pod(client) => Some(client),
            Client::Node => None,
        };
        let nodes = Checkpoint::below(run_dir).nodes();
        nodes.into_iter().filter(|node| !own(node)).find_map(|node| {
            let spec = node.spec?;
            let ranges = spec.pod_cidrs.into_iter().flatten().chain(spec.pod_cidr);
            let ranges: Vec<Cidr> = ranges.filter_map(|text| text.parse().ok()).collect();
            // This node's ranges are in no route.
            let is_own = client.is_some_and(|it| ranges.iter().any(|range| range.contains(it)));
            let range = ranges.iter().find(|range| range.contains(address) && !is_own)?;
            let name = node.metadata.name.filter(|_| !self.question.numeric);
            Some((*range, name.unwrap_or_else(|| "another node".to_owned())))
        })
    }

    fn by_pod(&mut self, end: &SocketAddr, pod: &Pod, seen: &Seen, sender: Option<&Sender>) {
        let looks_up = self.target(end);
        let mac = hardware_address(&pod.mac.octets());
        match seen.links.get(&pod.ifindex) {
            None => {
                let finds = format!("behind link {}, which there is not", pod.ifindex);
                self.fault(map::PODS, looks_up, finds);
            }
            Some(link) if !link.up => {
                self.fault(map::PODS, looks_up, format!("behind {}, which is down", link.name));
            }
            Some(link) => {
                let finds = format!("a pod of this node, behind {}, {mac}", link.name);
                self.step(map::PODS, looks_up, finds);
                self.inside_target(end.ip(), pod, link);
                let size = sender.map(|sender| sender.inner.as_ref().unwrap_or(&sender.link));
                if let Some(size) = size.filter(|size| size.mtu > link.mtu) {
                    let finds = too_small(link, size);
                    self.fault("links", &link.name, finds);
                }
            }
        }
    }

    fn by_node(&mut self, end: &SocketAddr, route: &Route, seen: &Seen, sender: &Sender) {
        let looks_up = self.target(end);
        let node = IpAddr::from(route.node);
        let tunnel = route.flags & route_flags::TUNNEL != 0;
        let name = seen.link_name(route.ifindex);
        let through = if tunnel { ", through the tunnel" } else { "" };
        let Some(link) = seen.links.get(&route.ifindex) else {
            let finds = format!("node {node} by link {}, which there is not", route.ifindex);
            self.fault(map::ROUTES, looks_up, finds);
            return;
        };
        let finds = format!("node {node} by {name} (mtu {}){through}", link.mtu);
        if !link.up {
            self.fault(map::ROUTES, &looks_up, format!("{finds}, which is down"));
            return;
        }
        self.step(map::ROUTES, &looks_up, finds);
        let size = sender.inner.as_ref().unwrap_or(&sender.link);
        if size.mtu > link.mtu {
            self.fault("links", &name, too_small(link, size));
        }
        if tunnel {
            self.under_tunnel(node, link);
            return;
        }
        self.neighbour(node, route.ifindex, &name, seen);
        // What programs do not see goes by it.
        if let Some(Lookup::Nowhere(kind)) = seen.lookups.get(&end.ip()) {
            self.fault(
                "kernel routes",
                end.ip(),
                format!("{kind}: the node itself cannot reach it"),
            );
        }
    }

    /// The way of the packets that the tunnel makes.
    fn under_tunnel(&mut self, node: IpAddr, tunnel: &LinkSeen) {
        /// What VXLAN adds over IPv4: its header, UDP's, IP's and an Ethernet header.
        const OVERHEAD: u32 = 50;
        let seen = match Seen::inside(self.place.netns.as_deref(), &[node]) {
            Ok(seen) => seen,
            Err(error) => return self.fault("kernel routes", node, error),
        };
        let end = SocketAddr::new(node, 0);
        self.by_stack(&end, &seen);
        let Some(Lookup::Out { link, gateway, .. }) = seen.lookups.get(&node) else { return };
        let Some(under) = seen.links.get(link) else { return };
        if !under.up {
            self.fault("links", &under.name, "is down");
        }
        if under.mtu < tunnel.mtu + OVERHEAD {
            let finds = format!(
                "mtu {}, and {} with its {OVERHEAD} bytes needs {}: large packets are dropped or \
                 fragmented",
                under.mtu,
                tunnel.name,
                tunnel.mtu + OVERHEAD
            );
            self.fault("links", &under.name, finds);
        }
        self.neighbour(gateway.unwrap_or(node), *link, &under.name, &seen);
    }

    fn neighbour(&mut self, address: IpAddr, ifindex: u32, link: &str, seen: &Seen) {
        let known = |row: &&NeighbourRow| row.ifindex == ifindex && row.address == address;
        let looks_up = format!("{address} on {link}");
        match seen.neighbours.iter().find(known) {
            Some(row) if row.state == "failed" => {
                self.fault("neighbours", looks_up, "failed: nobody answered at this address");
            }
            Some(row) => {
                let mac = row.mac.as_deref().unwrap_or("no answer yet");
                self.step("neighbours", looks_up, format!("{mac}, {}", row.state));
            }
            None => self.step("neighbours", looks_up, "not known yet: is asked for"),
        }
    }

    fn by_stack(&mut self, end: &SocketAddr, seen: &Seen) {
        let looks_up = end.ip();
        match seen.lookups.get(&end.ip()) {
            Some(Lookup::Own) => self.step("kernel routes", looks_up, "the node itself"),
            Some(Lookup::Out { link, gateway, node }) => {
                let name = seen.link_name(*link);
                let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                let through = node.map(|node| format!(", through the tunnel to {node}"));
                let mtu = seen.links.get(link).map_or(0, |link| link.mtu);
                let finds = format!("{name} (mtu {mtu}){via}{}", through.unwrap_or_default());
                self.step("kernel routes", looks_up, finds);
            }
            Some(Lookup::Nowhere(kind)) => self.fault("kernel routes", looks_up, kind),
            None => self.fault("kernel routes", looks_up, "were not asked"),
        }
    }
}
