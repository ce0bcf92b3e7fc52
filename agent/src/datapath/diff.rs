//! What differs between the API and a node's maps: the plan of a reconcile, without doing it.
//!
//! Guarantees: reads only, and needs no agent: what should be there is computed from the API's
//! objects by the agent's own planning, what is there is read from the pins. Empty for a node that
//! is as it should be. The API does not know the numbers of interfaces and programs: those are
//! compared with what the agent said when it started, as far as it did.
//! Not guaranteed: one moment's truth; a change that is under way shows until the maps have it. Not
//! compared: which interface is a pod's, and filters of clsact, which have no pin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use bowline_ebpf_abi::{
    Address, Mac, Pod as PodEntry, Route, RouteKey, ServiceKey, map, route_flags,
};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;

use super::condition::{Condition, LoadedProgram};
use super::names::Names;
use super::pins::Pins;
use super::programs::{PacketProgram, SOCKET_PROGRAMS};
use super::store::MapStore;
use super::syscall;
use super::table::{ReadMapsFailed, Table};
use super::verify::Shown;
use crate::network::{first_of_each, hardware_address, pod_mac};
use crate::plan::services::{
    BackendAddress, Place, ProgrammedService, ServiceStep, plan, service_table,
};

/// All that the API says which a node's maps are made from.
#[derive(Clone, Debug, Default)]
pub struct ApiObjects {
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
    pub nodes: Vec<Node>,
    /// Those of this node; others do no harm.
    pub pods: Vec<Pod>,
}

/// One thing that is not the same in the API and on the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// `service`, `pod`, `route` or `program`; `line`, `address` or `span` for what does not follow
    /// from the services in the maps.
    pub kind: &'static str,
    pub object: String,
    /// `missing`, `extra` or `changed`, as seen from the node.
    pub difference: &'static str,
    pub api: Option<String>,
    pub node: Option<String>,
}

/// Compares the API with the maps and programs that are pinned under `bpffs`. The agent's own
/// files tell the names of pods that are gone, and which programs it attached where.
pub fn differences(
    objects: &ApiObjects,
    node_name: &str,
    bpffs: &Path,
    names_file: &Path,
    condition_file: &Path,
) -> Result<Vec<Difference>, ReadMapsFailed> {
    let pins = Pins::to_read(bpffs)?;
    let names = Names::read(names_file);
    let loaded = Condition::read(condition_file).programs;
    let mut found = services(objects, node_name, &pins)?;
    found.extend(pods(objects, node_name, &pins, &names)?);
    found.extend(routes(objects, node_name, &pins, &uplinks(&loaded))?);
    found.extend(programs(&pins, &loaded)?);
    found.sort();
    Ok(found)
}

fn services(
    objects: &ApiObjects,
    node_name: &str,
    pins: &Pins,
) -> Result<Vec<Difference>, ReadMapsFailed> {
    let named = |node: &&Node| node.metadata.name.as_deref() == Some(node_name);
    let place = Place::new(node_name, objects.nodes.iter().find(named));
    let wanted = service_table(&objects.services, &objects.slices, place);
    let mut store = MapStore::open(pins)?;
    let writer = store.recover()?;
    let steps = plan(&wanted, writer.programmed());
    let found = steps.iter().map(|step| {
        let key = step.key().shown();
        let programmed = writer.programmed().get(step.key());
        match step {
            ServiceStep::Remove { .. } => Difference {
                kind: "service",
                object: key,
                difference: "extra",
                api: None,
                node: programmed.map(|service| counted(service.backends.len())),
            },
            ServiceStep::Add { wanted, .. } => Difference {
                kind: "service",
                object: format!("{}/{} {key}", wanted.namespace, wanted.name),
                difference: "missing",
                api: Some(counted(wanted.backends.len())),
                node: None,
            },
            ServiceStep::Change { wanted, .. } => {
                let (api, node) = sides(wanted.backends.keys().copied(), programmed);
                Difference {
                    kind: "service",
                    object: format!("{}/{} {key}", wanted.namespace, wanted.name),
                    difference: "changed",
                    api: Some(api),
                    node: Some(node),
                }
            }
        }
    });
    let mut found: Vec<Difference> = found.collect();
    found.extend(followers(&store)?);
    Ok(found)
}

/// What connect() reads before SERVICES and does not follow from it.
fn followers(store: &MapStore) -> Result<Vec<Difference>, ReadMapsFailed> {
    let of_maps = |kind, object: String, difference| Difference {
        kind,
        object,
        difference,
        api: None,
        node: Some("differs from the map SERVICES".to_owned()),
    };
    let services = store.services.all_written();
    let (lines, wrong) = store.wanted_lines(&services)?;
    let lines = wrong.into_iter().map(|(place, had)| match lines.get(&place) {
        Some(line) if had == ServiceKey::default() => of_maps("line", line.key.shown(), "missing"),
        Some(line) => of_maps("line", line.key.shown(), "changed"),
        None => of_maps("line", had.shown(), "extra"),
    });
    let mut found: Vec<Difference> = lines.collect();
    let wanted: BTreeSet<Address> = services.iter().map(|(key, _)| key.address).collect();
    let there: BTreeSet<Address> = store.addresses.table().keys()?.into_iter().collect();
    let missing = wanted.difference(&there).map(|address| (address, "missing"));
    let extra = there.difference(&wanted).map(|address| (address, "extra"));
    let addresses = missing.chain(extra);
    found.extend(addresses.map(|(address, how)| of_maps("address", address.shown(), how)));
    let edition = store.edition.get(&0)?.unwrap_or_default();
    let outside = wanted.iter().filter(|address| !edition.spans(address));
    found.extend(outside.map(|address| of_maps("span", address.shown(), "missing")));
    Ok(found)
}

fn counted(backends: usize) -> String {
    format!("{backends} backends")
}

/// What each side has that the other has not.
fn sides(
    wanted: impl Iterator<Item = BackendAddress>,
    programmed: Option<&ProgrammedService>,
) -> (String, String) {
    let wanted: BTreeSet<BackendAddress> = wanted.collect();
    let there: BTreeSet<BackendAddress> =
        programmed.iter().flat_map(|service| service.backends.iter().copied()).collect();
    let only = |mine: &BTreeSet<BackendAddress>, other: &BTreeSet<BackendAddress>| {
        let own: Vec<String> = mine
            .difference(other)
            .map(|backend| {
                std::net::SocketAddr::new(backend.address.into(), backend.port.get()).to_string()
            })
            .collect();
        match own.len() {
            0 => counted(mine.len()),
            _ => format!("{}, of them only here: {}", counted(mine.len()), own.join(" ")),
        }
    };
    (only(&wanted, &there), only(&there, &wanted))
}

fn pods(
    objects: &ApiObjects,
    node_name: &str,
    pins: &Pins,
    names: &Names,
) -> Result<Vec<Difference>, ReadMapsFailed> {
    let table: Table<Address, PodEntry> = Table::open(&pins.maps, map::PODS)?;
    let there: BTreeMap<IpAddr, PodEntry> =
        table.entries()?.into_iter().map(|(address, entry)| (address.into(), entry)).collect();
    let mut known: BTreeSet<IpAddr> = BTreeSet::new();
    let mut uids: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for pod in &objects.pods {
        let Some(spec) = &pod.spec else { continue };
        if spec.node_name.as_deref() != Some(node_name) || spec.host_network == Some(true) {
            continue;
        }
        uids.extend(pod.metadata.uid.as_deref());
        let addresses = pod_addresses(pod);
        known.extend(&addresses);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if !matches!(phase, Some("Succeeded" | "Failed")) {
            found.extend(pod_differences(&name_of(pod), &addresses, &there));
        }
    }
    // A pod that is starting has its address on the node first.
    let is_known = |address: &IpAddr| {
        known.contains(address)
            || names.pods.get(address).is_some_and(|pod| uids.contains(pod.uid.as_str()))
    };
    let extra = there.keys().filter(|address| !is_known(address)).map(|address| Difference {
        kind: "pod",
        object: names
            .pods
            .get(address)
            .map_or_else(|| address.to_string(), |pod| format!("{}/{}", pod.namespace, pod.name)),
        difference: "extra",
        api: None,
        node: Some(address.to_string()),
    });
    found.extend(extra);
    Ok(found)
}

/// What of a pod that lives is missing, or is not as its addresses ask for: all of them are behind
/// one interface, and the pod's hardware address follows from its IPv4 address.
fn pod_differences(
    name: &str,
    addresses: &BTreeSet<IpAddr>,
    there: &BTreeMap<IpAddr, PodEntry>,
) -> Vec<Difference> {
    let mac = first_of_each(addresses.iter().copied()).0.map(|v4| Mac::new(pod_mac(v4.into())));
    let link = addresses.iter().find_map(|address| there.get(address)).map(|entry| entry.ifindex);
    let shown = |address: &IpAddr, mac: Option<Mac>, link: Option<u32>| {
        let mac = mac.map(|mac| hardware_address(&mac.octets()));
        let parts = [mac, link.map(|link| format!("link {link}"))];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{address} at {}", parts.join(", "))
    };
    let differs = |address: &IpAddr| {
        let difference = |difference, api, node| {
            Some(Difference {
                kind: "pod",
                object: name.to_owned(),
                difference,
                api: Some(api),
                node,
            })
        };
        let Some(entry) = there.get(address) else {
            return difference("missing", address.to_string(), None);
        };
        let is_right = mac.is_none_or(|mac| mac == entry.mac) && link == Some(entry.ifindex);
        let node = Some(shown(address, Some(entry.mac), Some(entry.ifindex)));
        if is_right { None } else { difference("changed", shown(address, mac, link), node) }
    };
    addresses.iter().filter_map(differs).collect()
}

fn pod_addresses(pod: &Pod) -> BTreeSet<IpAddr> {
    let Some(status) = &pod.status else { return BTreeSet::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    all.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()).collect()
}

fn name_of(pod: &Pod) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// The interfaces where the agent attached the program that receives from other nodes: the uplink,
/// and the tunnel where there is one.
fn uplinks(loaded: &[LoadedProgram]) -> Vec<u32> {
    let name = PacketProgram::FromUplink.name();
    let program = loaded.iter().find(|program| program.name == name);
    let places = program.into_iter().flat_map(|program| &program.places);
    places.filter_map(|place| place.strip_prefix("link ")?.parse().ok()).collect()
}

/// Whether packets to this range get to the node that has it.
fn leads(range: IpAddr, route: &Route, node: &BTreeSet<IpAddr>, uplinks: &[u32]) -> bool {
    let (first_v4, first_v6) = first_of_each(node.iter().copied());
    let has_tunnel = route.flags & route_flags::TUNNEL != 0;
    let wanted = match range {
        IpAddr::V6(_) if !has_tunnel => first_v6.map(IpAddr::V6),
        _ => first_v4.map(IpAddr::V4),
    };
    // Where the agent said nothing, any interface will do.
    let link = uplinks.get(usize::from(has_tunnel)).copied();
    let link_is_right = uplinks.is_empty() || link == Some(route.ifindex);
    wanted == Some(route.node.into()) && link_is_right
}

fn routes(
    objects: &ApiObjects,
    node_name: &str,
    pins: &Pins,
    uplinks: &[u32],
) -> Result<Vec<Difference>, ReadMapsFailed> {
    let table: Table<RouteKey, Route> = Table::open(&pins.maps, map::ROUTES)?;
    let there: BTreeMap<String, (IpAddr, Route)> = table
        .entries()?
        .iter()
        .map(|(key, route)| (key.shown(), (key.address.into(), *route)))
        .collect();
    // The ranges of each other node, and the addresses it may be reached by.
    let mut wanted: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for node in &objects.nodes {
        let (Some(spec), Some(status)) = (&node.spec, &node.status) else { continue };
        let internal = status.addresses.iter().flatten().filter(|a| a.type_ == "InternalIP");
        let addresses: BTreeSet<IpAddr> =
            internal.filter_map(|address| address.address.parse().ok()).collect();
        if node.metadata.name.as_deref() == Some(node_name) || addresses.is_empty() {
            continue;
        }
        for range in spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr) {
            wanted.insert(range.clone(), addresses.clone());
        }
    }
    let mut found = Vec::new();
    let difference = |range: &str, difference, api: Option<String>, node: Option<&Route>| {
        let node = node.map(|route| {
            let tunnel = if route.flags & route_flags::TUNNEL != 0 { "tunnel" } else { "link" };
            format!("via {} by {tunnel} {}", IpAddr::from(route.node), route.ifindex)
        });
        Difference { kind: "route", object: range.to_owned(), difference, api, node }
    };
    for (range, addresses) in &wanted {
        let api: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let api = Some(format!("via {}", api.join(" or ")));
        match there.get(range) {
            None => found.push(difference(range, "missing", api, None)),
            Some((network, route)) if !leads(*network, route, addresses, uplinks) => {
                found.push(difference(range, "changed", api, Some(route)));
            }
            Some(_) => {}
        }
    }
    let extra = there.iter().filter(|(range, _)| !wanted.contains_key(*range));
    found.extend(extra.map(|(range, (_, route))| difference(range, "extra", None, Some(route))));
    Ok(found)
}

/// Programs whose link is not pinned, hangs on nothing any more or runs another program than the
/// agent loaded.
fn programs(pins: &Pins, loaded: &[LoadedProgram]) -> Result<Vec<Difference>, ReadMapsFailed> {
    let mut wanted: Vec<(&str, Option<u32>)> =
        SOCKET_PROGRAMS.iter().map(|(name, _)| (*name, None)).collect();
    // Filters of clsact have no pins.
    if loaded.iter().any(|program| program.hook.starts_with("tcx")) {
        let table: Table<Address, PodEntry> = Table::open(&pins.maps, map::PODS)?;
        let links: BTreeSet<u32> = table.entries()?.iter().map(|(_, pod)| pod.ifindex).collect();
        for which in [PacketProgram::FromPod, PacketProgram::ToPod] {
            wanted.extend(links.iter().map(|link| (which.name(), Some(*link))));
        }
        let name = PacketProgram::FromUplink.name();
        wanted.extend(uplinks(loaded).into_iter().map(|link| (name, Some(link))));
    }
    let mut found = Vec::new();
    for (name, interface) in wanted {
        let pin = interface.map_or_else(|| name.to_owned(), |link| format!("{name}-{link}"));
        let path = pins.links.join(&pin);
        let read = |source| ReadMapsFailed::NotOpened { path: path.clone(), source };
        let info = match syscall::open_pin(&path).map_err(read)? {
            Some(link) => Some(syscall::link_info(link.as_fd()).map_err(read)?),
            None => None,
        };
        let number = loaded.iter().find(|program| program.name == name).map(|it| it.number);
        let node = match info {
            None => None,
            // The lower half is the interface, or the cgroup's number: zero when it is gone.
            Some(info) if info.target as u32 == 0 => Some("attached to nothing".to_owned()),
            Some(info) if number.is_some_and(|number| number != info.program) => {
                Some(format!("program {}", info.program))
            }
            Some(_) => continue,
        };
        let difference = if node.is_none() { "missing" } else { "changed" };
        found.push(Difference { kind: "program", object: pin, difference, api: None, node });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pods_entries_are_compared_by_their_values() {
        let addresses = BTreeSet::from([ip("10.240.1.5"), ip("fd00::5")]);
        let entry = |ifindex, last| {
            let mac = Mac::new([0x0a, b'b', 10, 240, 1, last]);
            PodEntry { ifindex, mac, flags: 0 }
        };
        let differs = |entries: &[(&str, PodEntry)]| {
            let there = entries.iter().map(|(text, entry)| (ip(text), *entry)).collect();
            let found = pod_differences("default/web", &addresses, &there);
            let text = |it: Difference| {
                format!("{} {} {}", it.difference, it.api.unwrap(), it.node.unwrap_or_default())
            };
            found.into_iter().map(text).collect::<Vec<_>>()
        };
        let (right, other_mac, other_link) = (entry(7, 5), entry(7, 6), entry(8, 5));
        assert!(differs(&[("10.240.1.5", right), ("fd00::5", right)]).is_empty());
        assert_eq!(differs(&[("10.240.1.5", right)]), ["missing fd00::5 "]);
        assert_eq!(
            differs(&[("10.240.1.5", other_mac), ("fd00::5", right)]),
            [format!("changed {0}:05, link 7 {0}:06, link 7", "10.240.1.5 at 0a:62:0a:f0:01")]
        );
        assert_eq!(
            differs(&[("10.240.1.5", right), ("fd00::5", other_link)]),
            ["changed fd00::5 at 0a:62:0a:f0:01:05, link 7 fd00::5 at 0a:62:0a:f0:01:05, link 8"]
        );
    }

    #[test]
    fn a_route_is_compared_with_its_way() {
        let node = BTreeSet::from([ip("172.30.0.12"), ip("fd00:172::12")]);
        let route = |node: &str, ifindex, flags| Route { node: ip(node).into(), ifindex, flags };
        let (v4, v6) = (ip("10.240.2.0"), ip("fd00:10:240:2::"));
        let tunnel = route_flags::TUNNEL;
        for (range, route, links, expected) in [
            (v4, route("172.30.0.12", 2, 0), &[2, 3][..], true),
            (v6, route("fd00:172::12", 2, 0), &[2, 3], true),
            (v6, route("172.30.0.12", 3, tunnel), &[2, 3], true),
            (v4, route("172.30.0.12", 9, 0), &[], true),
            (v4, route("172.30.0.13", 2, 0), &[2, 3], false),
            (v4, route("172.30.0.12", 3, 0), &[2, 3], false),
            (v4, route("172.30.0.12", 2, tunnel), &[2, 3], false),
            (v4, route("172.30.0.12", 3, tunnel), &[2], false),
            (v6, route("172.30.0.12", 2, 0), &[2, 3], false),
            (v6, route("fd00:172::12", 3, tunnel), &[2, 3], false),
        ] {
            assert_eq!(leads(range, &route, &node, links), expected, "{range} {route:?}");
        }
    }
}
