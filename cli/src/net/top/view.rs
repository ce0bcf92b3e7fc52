//! From counts at two moments to lines with rates. No I/O.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use bowline_agent::datapath::{Amounts, NodeTraffic};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::By;

/// What is shown at one moment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    pub(super) time: String,
    #[serde(default)]
    pub(super) services: Vec<Line>,
    #[serde(default)]
    pub(super) pods: Vec<Line>,
    /// Reasons for which something was dropped, with the place.
    pub(super) drops: Vec<Line>,
    /// What could not be read.
    pub(super) problem: Option<String>,
}

/// A service, a pod, or a reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    pub(super) so_far: Option<Amounts>,
    /// None when it was not there at the moment before.
    pub(super) per_second: Option<Rates>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rates {
    pub(super) connections: f64,
    pub(super) packets: f64,
    pub(super) bytes: f64,
    pub(super) drops: f64,
}

impl Rates {
    /// Counts that went back began anew: a service was removed and made again.
    fn of(before: &Amounts, now: &Amounts, seconds: f64) -> Self {
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        Self {
            connections: rate(before.connections, now.connections),
            packets: rate(before.packets, now.packets),
            bytes: rate(before.bytes, now.bytes),
            drops: rate(before.drops, now.drops),
        }
    }
}

impl By {
    pub(super) const ALL: [Self; 4] = [Self::Connections, Self::Packets, Self::Bytes, Self::Drops];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Drops => "drops",
        }
    }

    pub(super) fn rate(self, of: &Rates) -> f64 {
        match self {
            Self::Connections => of.connections,
            Self::Packets => of.packets,
            Self::Bytes => of.bytes,
            Self::Drops => of.drops,
        }
    }

    pub(super) fn amount(self, of: &Amounts) -> u64 {
        match self {
            Self::Connections => of.connections,
            Self::Packets => of.packets,
            Self::Bytes => of.bytes,
            Self::Drops => of.drops,
        }
    }
}

impl View {
    /// By what happens now, then by what happened so far, then by name.
    pub(super) fn sort(&mut self, by: By) {
        for (lines, by) in
            [(&mut self.services, by), (&mut self.pods, by), (&mut self.drops, By::Drops)]
        {
            let rate = |line: &Line| line.per_second.as_ref().map_or(0.0, |rates| by.rate(rates));
            let amount = |line: &Line| line.so_far.as_ref().map_or(0, |so_far| by.amount(so_far));
            lines.sort_by(|a, b| {
                let order = rate(b).total_cmp(&rate(a));
                order
                    .then_with(|| (Reverse(amount(a)), &a.name).cmp(&(Reverse(amount(b)), &b.name)))
            });
        }
    }
}

/// What tells a line from others, of whatever moment: its node, and what it is there.
type Key = (Option<String>, Kind);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Service(SocketAddr, &'static str),
    /// By its addresses.
    Pod(String),
    Reason(&'static str, &'static str),
}

/// Counts of one moment.
#[derive(Debug)]
pub(super) struct Sample {
    at: Instant,
    nodes: BTreeSet<Option<String>>,
    lines: BTreeMap<Key, Line>,
}

impl Sample {
    pub(super) fn new(at: Instant) -> Self {
        Self { at, nodes: BTreeSet::new(), lines: BTreeMap::new() }
    }

    /// Adds what a node says; it has a name if there are several.
    pub(super) fn add(&mut self, node: Option<&str>, traffic: NodeTraffic, numeric: bool) {
        let node = node.map(str::to_owned);
        let mut add = |kind: Kind, line: Line| drop(self.lines.insert((node.clone(), kind), line));
        for service in traffic.services {
            let end = SocketAddr::new(service.address, service.port);
            let address = format!("{end}/{}", service.protocol);
            let name = service.name.filter(|_| !numeric);
            let name = name.map(|name| format!("{name}:{}/{}", service.port, service.protocol));
            let name = name.unwrap_or_else(|| address.clone());
            let line = Line { name, address, so_far: Some(service.so_far), ..Line::default() };
            add(Kind::Service(end, service.protocol), line);
        }
        for pod in traffic.pods {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let address = addresses.join(",");
            let name = pod.name.filter(|_| !numeric).unwrap_or_else(|| address.clone());
            let (kind, node) = (Kind::Pod(address.clone()), node.clone());
            add(kind, Line { name, node, address, so_far: pod.so_far, per_second: None });
        }
        for row in traffic.reasons.into_iter().filter(|row| row.dropped) {
            let so_far = Amounts { bytes: row.bytes, drops: row.packets, ..Amounts::default() };
            let name = format!("{} {}", row.reason, row.direction);
            let line = Line { name, so_far: Some(so_far), ..Line::default() };
            add(Kind::Reason(row.reason, row.direction), line);
        }
        self.nodes.insert(node);
    }
}

/// The moment before.
#[derive(Debug, Default)]
pub(super) struct Before(Option<Sample>);

impl Before {
    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// What is shown now, and remembered for the next time. Services and reasons are of all nodes
    /// together; each node is compared with itself, so that one that was not read for a moment has
    /// not done everything in the next.
    pub(super) fn view(&mut self, now: Sample) -> View {
        let mut services: BTreeMap<&Kind, Line> = BTreeMap::new();
        let mut reasons: BTreeMap<&Kind, Line> = BTreeMap::new();
        let mut view = View { time: format!("{:.3}", Timestamp::now()), ..View::default() };
        for (key, line) in &now.lines {
            let line = Line { per_second: self.rates(key, line, now.at), ..line.clone() };
            let of_all = match &key.1 {
                Kind::Service(..) => &mut services,
                Kind::Reason(..) => &mut reasons,
                Kind::Pod(_) => {
                    view.pods.push(line);
                    continue;
                }
            };
            match of_all.entry(&key.1) {
                Entry::Vacant(place) => drop(place.insert(line)),
                Entry::Occupied(mut place) => place.get_mut().add(line),
            }
        }
        view.services = services.into_values().collect();
        view.drops = reasons.into_values().collect();
        self.0 = Some(now);
        view
    }

    fn rates(&self, key: &Key, line: &Line, now: Instant) -> Option<Rates> {
        let before = self.0.as_ref()?;
        let seconds = (now - before.at).as_secs_f64();
        let so_far = match before.lines.get(key) {
            Some(line) => line.so_far?,
            // Its first packet.
            None if matches!(key.1, Kind::Reason(..)) && before.nodes.contains(&key.0) => {
                Amounts::default()
            }
            None => return None,
        };
        (seconds > 0.0).then(|| Rates::of(&so_far, &line.so_far.unwrap_or_default(), seconds))
    }
}

impl Line {
    /// Adds the same of another node.
    pub(super) fn add(&mut self, other: Self) {
        if self.name == self.address {
            // A node may have the name that another one does not know yet.
            self.name = other.name;
        }
        if let Some(more) = other.so_far {
            let sum = self.so_far.get_or_insert_default();
            sum.connections += more.connections;
            sum.packets += more.packets;
            sum.bytes += more.bytes;
            sum.drops += more.drops;
        }
        if let Some(more) = other.per_second {
            let sum = self.per_second.get_or_insert_default();
            sum.connections += more.connections;
            sum.packets += more.packets;
            sum.bytes += more.bytes;
            sum.drops += more.drops;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bowline_agent::datapath::{CounterRow, PodTraffic, ServiceTraffic};

    use super::*;

    fn amounts(connections: u64, bytes: u64) -> Amounts {
        Amounts { connections, packets: 0, bytes, drops: 0 }
    }

    fn traffic(services: &[(&str, u8, Amounts)], drops: u64) -> NodeTraffic {
        let service = |(name, last, so_far): &(&str, u8, Amounts)| ServiceTraffic {
            name: (!name.is_empty()).then(|| format!("default/{name}")),
            address: [10, 9, 0, *last].into(),
            port: 80,
            protocol: "TCP",
            so_far: *so_far,
        };
        let pod = PodTraffic {
            name: Some("default/web".to_owned()),
            addresses: vec![[10, 240, 0, 2].into()],
            so_far: Some(amounts(1, 2)),
        };
        let reason = |dropped| CounterRow {
            reason: "no-backend",
            direction: "socket",
            dropped,
            packets: drops,
            bytes: 0,
        };
        NodeTraffic {
            services: services.iter().map(service).collect(),
            pods: vec![pod],
            reasons: if drops > 0 { vec![reason(true), reason(false)] } else { Vec::new() },
        }
    }

    #[test]
    fn rates_are_for_the_time_between_two_moments() {
        let start = Instant::now();
        let mut before = Before::default();
        let mut look = |after: u64, services: &[(&str, u8, Amounts)], drops| {
            let mut sample = Sample::new(start + Duration::from_secs(after));
            sample.add(None, traffic(services, drops), false);
            before.view(sample)
        };
        let first = look(0, &[("a", 1, amounts(10, 100)), ("b", 2, amounts(50, 0))], 0);
        assert!(first.services.iter().all(|line| line.per_second.is_none()));
        let now = [("a", 1, amounts(14, 300)), ("b", 2, amounts(5, 0)), ("c", 3, amounts(9, 0))];
        let mut next = look(2, &now, 8);
        next.sort(By::Connections);
        let names: Vec<&str> = next.services.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["default/a:80/TCP", "default/c:80/TCP", "default/b:80/TCP"]);
        let rates = next.services[0].per_second.unwrap();
        assert_eq!((rates.connections, rates.bytes), (2.0, 100.0));
        assert_eq!(next.services[1].per_second, None, "nobody knows when it began");
        assert_eq!(next.services[2].per_second, Some(Rates::default()), "it began anew");
        assert_eq!(next.drops.len(), 1);
        assert_eq!(next.drops[0].per_second.unwrap().drops, 4.0);
        next.sort(By::Drops);
        assert_eq!(next.services[0].name, "default/a:80/TCP");
        next.sort(By::Bytes);
        assert_eq!(next.services[0].so_far.unwrap().bytes, 300);
    }

    #[test]
    fn services_are_of_all_nodes_and_pods_of_one() {
        let mut sample = Sample::new(Instant::now());
        sample.add(Some("node1"), traffic(&[("", 1, amounts(1, 0))], 2), false);
        sample.add(Some("node2"), traffic(&[("a", 1, amounts(2, 0))], 3), false);
        let view = Before::default().view(sample);
        assert_eq!(view.services.len(), 1);
        assert_eq!(view.services[0].name, "default/a:80/TCP");
        assert_eq!(view.services[0].so_far.unwrap().connections, 3);
        assert_eq!(view.drops[0].so_far.unwrap().drops, 5);
        let nodes: Vec<_> = view.pods.iter().map(|line| line.node.as_deref().unwrap()).collect();
        assert_eq!(nodes, ["node1", "node2"]);
    }

    #[test]
    fn a_node_that_was_not_read_for_a_moment_did_not_do_everything_in_the_next() {
        let start = Instant::now();
        let mut before = Before::default();
        let mut look = |after: u64, nodes: &[&str]| {
            let mut sample = Sample::new(start + Duration::from_secs(after));
            for node in nodes {
                let so_far = amounts(1000 + after, 0);
                sample.add(Some(node), traffic(&[("a", 1, so_far)], 1 + after), false);
            }
            let view = before.view(sample);
            let rate = |lines: &[Line], by: By| {
                lines[0].per_second.as_ref().map_or(0.0, |rates| by.rate(rates))
            };
            (rate(&view.services, By::Connections), rate(&view.drops, By::Drops))
        };
        assert_eq!(look(0, &["node1", "node2"]), (0.0, 0.0));
        assert_eq!(look(1, &["node1", "node2"]), (2.0, 2.0));
        assert_eq!(look(2, &["node1"]), (1.0, 1.0));
        assert_eq!(look(3, &["node1", "node2"]), (1.0, 1.0));
        assert_eq!(look(4, &["node1", "node2"]), (2.0, 2.0));
    }

    #[test]
    fn numbers_instead_of_names() {
        let mut sample = Sample::new(Instant::now());
        sample.add(None, traffic(&[("a", 1, amounts(1, 0))], 0), true);
        let view = Before::default().view(sample);
        assert_eq!(view.services[0].name, "10.9.0.1:80/TCP");
        assert_eq!(view.pods[0].name, "10.240.0.2");
    }
}
