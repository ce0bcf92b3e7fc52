//! What differs between the API and a node's maps: the plan of a reconcile, without doing it.
//!
//! Guarantees: reads only, and needs no agent: what should be there is computed from the API's
//! objects by the agent's own planning, what is there is read from the pins. Empty for a node that
//! is as it should be. Not guaranteed: one moment's truth; a change that is under way shows until
//! the maps have it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use bowline_ebpf_abi::{Address, Pod as PodEntry, Route, RouteKey, map};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;

use super::names::Names;
use super::pins::Pins;
use super::programs::{PacketProgram, SOCKET_PROGRAMS};
use super::store::MapStore;
use super::table::{ReadMapsFailed, Table};
use super::verify::Shown;
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
    /// `service`, `pod`, `route` or `program`.
    pub kind: &'static str,
    pub object: String,
    /// `missing`, `extra` or `changed`, as seen from the node.
    pub difference: &'static str,
    pub api: Option<String>,
    pub node: Option<String>,
}

/// Compares the API with the maps that are pinned under `bpffs`.
pub fn differences(
    objects: &ApiObjects,
    node_name: &str,
    bpffs: &Path,
    names_file: &Path,
) -> Result<Vec<Difference>, ReadMapsFailed> {
    let pins = Pins::under(bpffs);
    let names = Names::read(names_file);
    let mut found = services(objects, node_name, &pins)?;
    found.extend(pods(objects, node_name, &pins, &names)?);
    found.extend(routes(objects, node_name, &pins)?);
    found.extend(programs(&pins)?);
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
    let writer = MapStore::open(pins)?.recover()?;
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
    Ok(found.collect())
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
    let there: BTreeSet<IpAddr> = table.keys()?.into_iter().map(IpAddr::from).collect();
    let mut addressed: BTreeMap<IpAddr, (String, bool)> = BTreeMap::new();
    let mut uids: BTreeSet<&str> = BTreeSet::new();
    for pod in &objects.pods {
        let Some(spec) = &pod.spec else { continue };
        if spec.node_name.as_deref() != Some(node_name) || spec.host_network == Some(true) {
            continue;
        }
        uids.extend(pod.metadata.uid.as_deref());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let lives = !matches!(phase, Some("Succeeded" | "Failed"));
        for address in pod_addresses(pod) {
            addressed.insert(address, (name_of(pod), lives));
        }
    }
    let missing = addressed
        .iter()
        .filter(|(address, (_, lives))| *lives && !there.contains(address))
        .map(|(address, (name, _))| Difference {
            kind: "pod",
            object: name.clone(),
            difference: "missing",
            api: Some(address.to_string()),
            node: None,
        });
    // A pod that is starting has its address on the node first.
    let known = |address: &IpAddr| {
        addressed.contains_key(address)
            || names.pods.get(address).is_some_and(|pod| uids.contains(pod.uid.as_str()))
    };
    let extra = there.iter().filter(|address| !known(address)).map(|address| Difference {
        kind: "pod",
        object: names
            .pods
            .get(address)
            .map_or_else(|| address.to_string(), |pod| format!("{}/{}", pod.namespace, pod.name)),
        difference: "extra",
        api: None,
        node: Some(address.to_string()),
    });
    Ok(missing.chain(extra).collect())
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

fn routes(
    objects: &ApiObjects,
    node_name: &str,
    pins: &Pins,
) -> Result<Vec<Difference>, ReadMapsFailed> {
    let table: Table<RouteKey, Route> = Table::open(&pins.maps, map::ROUTES)?;
    let there: BTreeMap<String, IpAddr> =
        table.entries()?.iter().map(|(key, route)| (key.shown(), route.node.into())).collect();
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
    let route = |range: &str, difference, api: Option<String>, node: Option<IpAddr>| Difference {
        kind: "route",
        object: range.to_owned(),
        difference,
        api,
        node: node.map(|node| format!("via {node}")),
    };
    for (range, addresses) in &wanted {
        let api: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let api = Some(format!("via {}", api.join(" or ")));
        match there.get(range) {
            None => found.push(route(range, "missing", api, None)),
            Some(node) if !addresses.contains(node) => {
                found.push(route(range, "changed", api, Some(*node)));
            }
            Some(_) => {}
        }
    }
    let extra = there.iter().filter(|(range, _)| !wanted.contains_key(*range));
    found.extend(extra.map(|(range, node)| route(range, "extra", None, Some(*node))));
    Ok(found)
}

/// Programs whose link is not pinned. Below Linux 6.6 packet programs have no links.
fn programs(pins: &Pins) -> Result<Vec<Difference>, ReadMapsFailed> {
    let read = |source| ReadMapsFailed::NotOpened { path: pins.links.clone(), source };
    let mut pinned = BTreeSet::new();
    for entry in std::fs::read_dir(&pins.links).map_err(read)? {
        pinned.insert(entry.map_err(read)?.file_name().to_string_lossy().into_owned());
    }
    let mut wanted: Vec<String> =
        SOCKET_PROGRAMS.iter().map(|(name, _)| (*name).to_owned()).collect();
    if pinned.iter().any(|pin| pin.contains('-')) {
        let table: Table<Address, PodEntry> = Table::open(&pins.maps, map::PODS)?;
        let links: BTreeSet<u32> = table.entries()?.iter().map(|(_, pod)| pod.ifindex).collect();
        for which in [PacketProgram::FromPod, PacketProgram::ToPod] {
            wanted.extend(links.iter().map(|link| format!("{}-{link}", which.name())));
        }
    }
    let missing = wanted.into_iter().filter(|pin| !pinned.contains(pin)).map(|pin| Difference {
        kind: "program",
        object: pin,
        difference: "missing",
        api: None,
        node: None,
    });
    Ok(missing.collect())
}
