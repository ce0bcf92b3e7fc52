//! What services, pods and the node had to do so far, for who watches it grow.
//!
//! Guarantees: reads only. Services and reasons are counted in the maps; pods by the kernel, in
//! their own network namespaces: connections by its TCP, packets and bytes at their links. What a
//! namespace does not tell is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::{Address, Pod, map};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::names::{Names, PodName};
use super::pins::Pins;
use super::scrape::Scrape;
use super::snapshot::{CounterRow, read_counters};
use super::table::{ReadMapsFailed, Table};

/// How much of everything there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Connections; of a service also unconnected UDP sockets.
    pub connections: u64,
    pub packets: u64,
    pub bytes: u64,
    /// What was refused or dropped.
    pub drops: u64,
}

/// One virtual address. Its packets and bytes are those that were translated one by one; others
/// never touch a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTraffic {
    /// `namespace/name`.
    pub name: Option<String>,
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    pub so_far: Amounts,
}

/// One pod of this node. Its connections are those that it made and took; its drops those at its
/// link, and what its listeners and UDP sockets had no room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTraffic {
    /// `namespace/name`.
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub so_far: Option<Amounts>,
}

/// One look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTraffic {
    pub services: Vec<ServiceTraffic>,
    pub pods: Vec<PodTraffic>,
    /// What happened to packets and calls on the node.
    pub reasons: Vec<CounterRow>,
}

impl NodeTraffic {
    /// Reads what is pinned under this BPF file system, with the names that the agent wrote.
    pub fn read(bpffs: &Path, names_file: &Path) -> Result<Self, ReadMapsFailed> {
        let names = Names::read(names_file);
        let maps = Pins::to_read(bpffs)?.maps;
        let scrape = Scrape::open(bpffs)?;
        let services = scrape.services()?.into_iter().map(|service| {
            let figures = scrape.figures(&service)?;
            let name = names.services.get(&service.address());
            Ok(ServiceTraffic {
                name: name.map(|name| format!("{}/{}", name.namespace, name.name)),
                address: service.address(),
                port: service.port(),
                protocol: service.protocol(),
                so_far: Amounts {
                    connections: figures.connections,
                    packets: figures.packets,
                    bytes: figures.bytes,
                    drops: figures.refused,
                },
            })
        });
        let services = services.collect::<Result<Vec<_>, ReadMapsFailed>>()?;
        Ok(Self { services, pods: read_pods(&maps, &names)?, reasons: read_counters(&maps)? })
    }
}

/// A pod has one link, whatever addresses it has.
fn read_pods(maps: &Path, names: &Names) -> Result<Vec<PodTraffic>, ReadMapsFailed> {
    let table: Table<Address, Pod> = Table::open(maps, map::PODS)?;
    let mut by_link: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for (address, pod) in table.entries()? {
        by_link.entry(pod.ifindex).or_default().push(address.into());
    }
    let mut pods = Vec::new();
    let mut namespaces = Vec::new();
    for mut addresses in by_link.into_values() {
        addresses.sort_unstable();
        let known: Option<&PodName> = addresses.iter().find_map(|one| names.pods.get(one));
        namespaces.push(known.map(|pod| pod.netns.clone()));
        let name = known.map(|pod| format!("{}/{}", pod.namespace, pod.name));
        pods.push(PodTraffic { name, addresses, so_far: None });
    }
    for (pod, amounts) in pods.iter_mut().zip(inside_each(&namespaces)) {
        pod.so_far = amounts;
    }
    Ok(pods)
}

/// What these namespaces count; a thread that lives only for it goes from one to the next.
fn inside_each(namespaces: &[Option<PathBuf>]) -> Vec<Option<Amounts>> {
    let look = |path: &PathBuf| {
        setns(File::open(path).ok()?, CloneFlags::CLONE_NEWNET).ok()?;
        let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let rest = ["snmp", "snmp6", "netstat"].map(|name| read(name).unwrap_or_default());
        Some(amounts(&read("dev").ok()?, &rest.concat()))
    };
    let all = || namespaces.iter().map(|path| path.as_ref().and_then(look)).collect();
    let ended = std::thread::scope(|scope| scope.spawn(all).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// From `/proc/net/dev`, and the other counters of a network namespace in their two forms: a line
/// of names before a line of numbers, and a name with its number.
fn amounts(links: &str, counters: &str) -> Amounts {
    let mut sum = Amounts::default();
    for line in links.lines().skip(2) {
        let Some((link, numbers)) = line.split_once(':') else { continue };
        if link.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect();
        // Bytes, packets, errors, drops and four more: received, then sent.
        for way in numbers.chunks(8).filter(|way| way.len() == 8) {
            sum.bytes += way[0];
            sum.packets += way[1];
            sum.drops += way[3];
        }
    }
    let counted = |name: &str| counter(counters, name).unwrap_or(0);
    sum.connections = counted("Tcp:ActiveOpens") + counted("Tcp:PassiveOpens");
    sum.drops += counted("TcpExt:ListenDrops");
    sum.drops += counted("Udp:RcvbufErrors") + counted("Udp6RcvbufErrors");
    sum
}

fn counter(text: &str, wanted: &str) -> Option<u64> {
    let Some((group, name)) = wanted.split_once(':') else {
        let line = text.lines().find_map(|line| line.strip_prefix(wanted))?;
        return line.trim().parse().ok();
    };
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|one| one == name)?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_sockets_of_a_namespace_are_added_up() {
        let links = "Inter-|   Receive  |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:     900       9    0    0    0     0          0         0      900       9    0    9
  eth0:    1000      10    0    1    0     0          0         0      500       5    0    2 0 0 0 0
";
        let counters = "\
Tcp: RtoAlgorithm ActiveOpens PassiveOpens AttemptFails
Tcp: 1 7 3 99
Udp: InDatagrams NoPorts RcvbufErrors
Udp: 5 0 4
UdpLite: InDatagrams NoPorts RcvbufErrors
UdpLite: 0 0 50
Udp6RcvbufErrors                \t2
TcpExt: SyncookiesSent ListenOverflows ListenDrops
TcpExt: 0 0 6
";
        let sum = amounts(links, counters);
        let expected = Amounts { connections: 10, packets: 15, bytes: 1500, drops: 15 };
        assert_eq!(sum, expected);
        assert_eq!(amounts("", ""), Amounts::default());
    }

    #[test]
    fn a_namespace_that_is_gone_tells_nothing() {
        assert_eq!(inside_each(&[None, Some("/nowhere".into())]), [None, None]);
    }
}
