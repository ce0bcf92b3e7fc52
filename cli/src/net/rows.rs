//! The rows of `bowline net`, as tables.

use std::fmt::Display;
use std::net::SocketAddr;

use bowline_agent::datapath::{
    AffinityRow, BackendRow, CounterRow, MapRow, PodRow, RouteRow, ServiceRow, Snapshot,
};

use super::What;
use super::status::fill;
use crate::output::{self, Format, Table};

/// Stands for what is not known.
const UNKNOWN: &str = "-";

/// Prints one kind of rows.
pub(super) fn print(what: &What, snapshot: &Snapshot, format: Format) -> anyhow::Result<()> {
    let table = match (what, format) {
        (What::Services, Format::Table) => services(&snapshot.services),
        (What::Backends, Format::Table) => backends(&snapshot.backends),
        (What::Pods, Format::Table) => pods(&snapshot.pods),
        (What::Routes, Format::Table) => routes(&snapshot.routes),
        (What::Counters, Format::Table) => counters(&snapshot.counters),
        (What::Affinity, Format::Table) => affinity(&snapshot.affinity),
        (What::Drops, Format::Table) => counters(&drops(snapshot)),
        (What::Maps(_), Format::Table) => maps(&snapshot.maps),
        (What::Services, _) => return output::document(&snapshot.services, format),
        (What::Backends, _) => return output::document(&snapshot.backends, format),
        (What::Pods, _) => return output::document(&snapshot.pods, format),
        (What::Routes, _) => return output::document(&snapshot.routes, format),
        (What::Counters, _) => return output::document(&snapshot.counters, format),
        (What::Affinity, _) => return output::document(&snapshot.affinity, format),
        (What::Drops, _) => return output::document(&drops(snapshot), format),
        (What::Maps(_), _) => return output::document(&snapshot.maps, format),
        // The others have tables of their own.
        _ => return Ok(()),
    };
    Ok(table.print()?)
}

fn services(rows: &[ServiceRow]) -> Table {
    let mut table = Table::new([
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
    ]);
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
        ]);
    }
    table
}

fn backends(rows: &[BackendRow]) -> Table {
    let mut table =
        Table::new(["service", "service address", "backend address", "protocol", "id", "pod"]);
    for row in rows {
        table.row([
            known(row.service.as_ref()),
            format!("{}:{}", row.service_address, row.service_port),
            format!("{}:{}", row.address, row.port),
            row.protocol.to_owned(),
            row.id.to_string(),
            known(row.target.as_ref()),
        ]);
    }
    table
}

fn pods(rows: &[PodRow]) -> Table {
    let mut table = Table::new(["namespace", "name", "address", "link", "mac", "netns"]);
    for row in rows {
        table.row([
            known(row.namespace.as_ref()),
            known(row.name.as_ref()),
            row.address.to_string(),
            row.ifindex.to_string(),
            row.mac.clone(),
            known(row.netns.as_ref().map(|path| path.display())),
        ]);
    }
    table
}

fn routes(rows: &[RouteRow]) -> Table {
    let mut table = Table::new(["pod range", "node", "link"]);
    for row in rows {
        table.row([row.cidr.clone(), row.node.to_string(), row.ifindex.to_string()]);
    }
    table
}

fn affinity(rows: &[AffinityRow]) -> Table {
    let mut table = Table::new(["service", "address", "client", "backend", "pod", "idle"]);
    for row in rows {
        let address = row.service_address.zip(row.service_port);
        table.row([
            known(row.service.as_ref()),
            known(address.map(|(address, port)| SocketAddr::new(address, port))),
            row.client.clone(),
            known(row.backend),
            known(row.target.as_ref()),
            format!("{} s", row.idle_seconds),
        ]);
    }
    table
}

fn drops(snapshot: &Snapshot) -> Vec<CounterRow> {
    snapshot.counters.iter().filter(|row| row.dropped).cloned().collect()
}

fn counters(rows: &[CounterRow]) -> Table {
    let mut table = Table::new(["reason", "direction", "dropped", "packets", "bytes"]);
    for row in rows {
        table.row([
            row.reason.to_owned(),
            row.direction.to_owned(),
            if row.dropped { "yes" } else { "no" }.to_owned(),
            row.packets.to_string(),
            row.bytes.to_string(),
        ]);
    }
    table
}

fn maps(rows: &[MapRow]) -> Table {
    let mut table = Table::new(["map", "used", "size", "full", "raised by"]);
    for row in rows {
        let (used, size) = (row.used.to_string(), row.size.to_string());
        let full = fill(Some(row.used), row.size, row.pressure, false);
        table.row([row.name.to_owned(), used, size, full, row.flag.unwrap_or(UNKNOWN).to_owned()]);
    }
    table
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
        };
        let text = pods(&[row]).render(false);
        let expected = "default   web   10.240.0.2   7   02:00:00:00:00:01   /d/sandboxes/u/net\n";
        assert_eq!(text, expected);
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
        };
        let text = services(&[row]).render(false);
        assert_eq!(text, "1   -   -   10.9.8.7   80/TCP   3   5   2   0   0\n");
    }
}
