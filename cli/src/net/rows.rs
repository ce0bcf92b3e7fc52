//! The rows of `bowline net`, as tables.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;

use bowline_agent::datapath::{
    AffinityRow, BackendRow, CounterRow, MapRow, PodRow, RouteRow, ServiceRow, Snapshot, link_names,
};

use super::What;
use super::reasons::meaning;
use super::status::{self, fill};
use crate::output::{self, Format, Table};

/// Stands for what is not known.
const UNKNOWN: &str = "-";

/// Prints one kind of rows. `netns`: the node's network namespace, if it is not this one.
pub(super) fn print(
    what: &What,
    snapshot: &Snapshot,
    netns: Option<&Path>,
    format: Format,
) -> anyhow::Result<()> {
    if !format.is_table() {
        return document(what, snapshot, format);
    }
    let devices = match (what, format) {
        // Without their names, links still have numbers.
        (What::Pods | What::Routes, Format::Wide) => link_names(netns).unwrap_or_default(),
        _ => BTreeMap::new(),
    };
    let table = match what {
        What::Services => services(&snapshot.services, format),
        What::Backends => backends(snapshot, format),
        What::Pods => pods(&snapshot.pods, &devices, format),
        What::Routes => routes(&snapshot.routes, &devices, format),
        What::Counters => counters(&snapshot.counters, format),
        What::Affinity => affinity(&snapshot.affinity, format),
        What::Drops => counters(&drops(snapshot), format),
        What::Maps(_) => maps(&snapshot.maps, format),
        // The others have tables of their own.
        _ => return Ok(()),
    };
    Ok(table.print()?)
}

fn document(what: &What, snapshot: &Snapshot, format: Format) -> anyhow::Result<()> {
    match what {
        What::Services => output::document(&snapshot.services, format),
        What::Backends => output::document(&snapshot.backends, format),
        What::Pods => output::document(&snapshot.pods, format),
        What::Routes => output::document(&snapshot.routes, format),
        What::Counters => output::document(&snapshot.counters, format),
        What::Affinity => output::document(&snapshot.affinity, format),
        What::Drops => output::document(&drops(snapshot), format),
        What::Maps(_) => output::document(&snapshot.maps, format),
        _ => Ok(()),
    }
}

fn services(rows: &[ServiceRow], format: Format) -> Table {
    let columns = [
        "id",
        "namespace",
        "name",
        "address",
        "port",
        "backends",
        "connections",
        "refused",
        "packets",
        "bytes",
    ];
    let mut table = Table::with_more(format, columns, ["slots", "affinity", "line"]);
    for row in rows {
        table.row([
            row.id.to_string(),
            known(row.namespace.as_ref()),
            known(row.name.as_ref()),
            row.address.to_string(),
            format!("{}/{}", row.port, row.protocol),
            row.backends.to_string(),
            row.connections.to_string(),
            row.refused.to_string(),
            row.packets.to_string(),
            row.bytes.to_string(),
            slots(row),
            seconds(row.affinity_seconds.map(Into::into)),
            known(row.line),
        ]);
    }
    table
}

/// The first and the last.
fn slots(row: &ServiceRow) -> String {
    match row.slots {
        0 => UNKNOWN.to_owned(),
        1 => row.first_slot.to_string(),
        count => format!("{}-{}", row.first_slot, row.first_slot.saturating_add(count - 1)),
    }
}

fn backends(snapshot: &Snapshot, format: Format) -> Table {
    let columns = ["service", "service address", "backend address", "protocol", "id", "pod"];
    let mut table = Table::with_more(format, columns, ["slot", "state", "node"]);
    for row in &snapshot.backends {
        table.row([
            known(row.service.as_ref()),
            format!("{}:{}", row.service_address, row.service_port),
            format!("{}:{}", row.address, row.port),
            row.protocol.to_owned(),
            row.id.to_string(),
            known(row.target.as_ref()),
            row.slot.to_string(),
            row.state.to_owned(),
            node_of(row, snapshot),
        ]);
    }
    table
}

/// Where a backend is, as far as the node's maps of pods and routes know.
fn node_of(row: &BackendRow, snapshot: &Snapshot) -> String {
    if snapshot.pods.iter().any(|pod| pod.address == row.address) {
        return "this one".to_owned();
    }
    known(snapshot.node_of(row.address))
}

fn pods(rows: &[PodRow], devices: &BTreeMap<u32, String>, format: Format) -> Table {
    let columns = ["namespace", "name", "address", "link", "mac", "netns"];
    let mut table = Table::with_more(format, columns, ["device", "flows", "uid"]);
    for row in rows {
        table.row([
            known(row.namespace.as_ref()),
            known(row.name.as_ref()),
            row.address.to_string(),
            row.ifindex.to_string(),
            row.mac.clone(),
            known(row.netns.as_ref().map(|path| path.display())),
            known(devices.get(&row.ifindex)),
            if row.has_flows { "yes" } else { "no" }.to_owned(),
            known(row.uid.as_ref()),
        ]);
    }
    table
}

fn routes(rows: &[RouteRow], devices: &BTreeMap<u32, String>, format: Format) -> Table {
    let mut table = Table::with_more(format, ["pod range", "node", "link"], ["device", "way"]);
    for row in rows {
        table.row([
            row.cidr.to_string(),
            row.node.to_string(),
            row.ifindex.to_string(),
            known(devices.get(&row.ifindex)),
            if row.tunnel { "tunnel" } else { "native" }.to_owned(),
        ]);
    }
    table
}

fn affinity(rows: &[AffinityRow], format: Format) -> Table {
    let columns = ["service", "address", "client", "backend", "pod", "idle"];
    let mut table = Table::with_more(format, columns, ["let go after", "left"]);
    for row in rows {
        let address = row.service_address.zip(row.service_port);
        let limit = row.affinity_seconds.map(u64::from);
        table.row([
            known(row.service.as_ref()),
            known(address.map(|(address, port)| SocketAddr::new(address, port))),
            row.client.clone(),
            known(row.backend),
            known(row.target.as_ref()),
            format!("{} s", row.idle_seconds),
            seconds(limit),
            seconds(limit.map(|limit| limit.saturating_sub(row.idle_seconds))),
        ]);
    }
    table
}

fn drops(snapshot: &Snapshot) -> Vec<CounterRow> {
    snapshot.counters.iter().filter(|row| row.dropped).cloned().collect()
}

fn counters(rows: &[CounterRow], format: Format) -> Table {
    let columns = ["reason", "direction", "dropped", "packets", "bytes"];
    let mut table = Table::with_more(format, columns, ["meaning"]);
    for row in rows {
        table.row([
            row.reason.to_owned(),
            row.direction.to_owned(),
            if row.dropped { "yes" } else { "no" }.to_owned(),
            row.packets.to_string(),
            row.bytes.to_string(),
            meaning(row.reason).to_owned(),
        ]);
    }
    table
}

fn maps(rows: &[MapRow], format: Format) -> Table {
    let columns = ["map", "used", "size", "full", "raised by"];
    let mut table = Table::with_more(format, columns, status::SHAPE);
    for row in rows {
        let (used, size) = (row.used.to_string(), row.size.to_string());
        let full = fill(Some(row.used), row.size, row.pressure, false);
        let flag = row.flag.unwrap_or(UNKNOWN).to_owned();
        let cells = [row.name.to_owned(), used, size, full, flag];
        table.row(cells.into_iter().chain(status::shape(&row.shape)));
    }
    table
}

fn seconds(count: Option<u64>) -> String {
    known(count.map(|count| format!("{count} s")))
}

fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn pods_show_their_namespace_paths() {
        let row = PodRow {
            namespace: Some("default".to_owned()),
            name: Some("web".to_owned()),
            uid: None,
            address: IpAddr::V4(Ipv4Addr::new(10, 240, 0, 2)),
            ifindex: 7,
            mac: "02:00:00:00:00:01".to_owned(),
            netns: Some("/d/sandboxes/u/net".into()),
            has_flows: true,
        };
        let text = pods(std::slice::from_ref(&row), &BTreeMap::new(), Format::Table).render(false);
        let expected = "default   web   10.240.0.2   7   02:00:00:00:00:01   /d/sandboxes/u/net\n";
        assert_eq!(text, expected);
        let devices = BTreeMap::from([(7, "bl0".to_owned())]);
        let text = pods(&[row], &devices, Format::Wide).render(false);
        assert_eq!(text, format!("{}   bl0   yes   -\n", expected.trim_end()));
    }

    #[test]
    fn what_has_no_name_is_still_shown() {
        let row = ServiceRow {
            id: 1,
            namespace: None,
            name: None,
            address: IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7)),
            port: 80,
            protocol: "TCP",
            backends: 3,
            connections: 5,
            refused: 2,
            packets: 0,
            bytes: 0,
            first_slot: 4,
            slots: 3,
            affinity_seconds: Some(600),
            line: None,
        };
        let text = services(std::slice::from_ref(&row), Format::Table).render(false);
        assert_eq!(text, "1   -   -   10.9.8.7   80/TCP   3   5   2   0   0\n");
        let text = services(&[row], Format::Wide).render(false);
        assert!(text.ends_with("   0   4-6   600 s   -\n"), "{text}");
    }

    #[test]
    fn backends_are_where_pods_and_routes_say() {
        let backend = |address: &str| BackendRow {
            service: None,
            service_address: IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7)),
            service_port: 80,
            protocol: "TCP",
            id: 1,
            address: address.parse().unwrap(),
            port: 80,
            target: None,
            slot: 5,
            state: "active",
        };
        let route = |cidr: &str, node: &str| RouteRow {
            cidr: cidr.parse().unwrap(),
            node: node.parse().unwrap(),
            ifindex: 2,
            tunnel: true,
        };
        let snapshot = Snapshot {
            backends: vec![backend("10.240.1.9"), backend("10.240.2.9")],
            routes: vec![route("10.240.1.0/24", "172.30.0.2")],
            ..Snapshot::default()
        };
        let text = backends(&snapshot, Format::Wide).render(false);
        let ends: Vec<&str> = text.lines().filter_map(|it| it.split("active").nth(1)).collect();
        assert_eq!(ends, ["   172.30.0.2", "   -"]);
        let devices = BTreeMap::from([(2, "bl-vxlan".to_owned())]);
        let text = routes(&snapshot.routes, &devices, Format::Wide).render(false);
        assert_eq!(text, "10.240.1.0/24   172.30.0.2   2   bl-vxlan   tunnel\n");
    }
}
