//! A pod's own network namespace, as the kernel has it: what of it is not as the node made it.
//!
//! Guarantees: reads only, by the kernel's own links, addresses, neighbours and look-ups. Links
//! that a pod made for itself, and routes by them, are its own affair.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::kernel::{NeighbourRow, ReadKernelFailed, Seen};
use crate::network::{AddressSeen, LinkSeen, Lookup, Mac, POD_LINK, hardware_address};

/// Addresses that are nobody's (RFC 5737, RFC 3849): the way to them is the default route.
const NOBODY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOBODY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// An address for which a pod has its default route.
pub(super) const fn nobody(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(NOBODY_V4),
        IpAddr::V6(_) => IpAddr::V6(NOBODY_V6),
    }
}

/// One look into a pod.
pub(super) struct Inside {
    seen: Seen,
    /// The pod's end of its link.
    link: Option<LinkSeen>,
    mac: Mac,
}

/// What is looked at, and what is wrong with it.
pub(super) type Fault = (String, String);

impl Inside {
    /// Looks for the link with this hardware address, and for the ways to these addresses.
    pub(super) fn look(netns: &Path, mac: Mac, ways: &[IpAddr]) -> Result<Self, ReadKernelFailed> {
        Ok(Self::of(Seen::inside(Some(netns), ways)?, mac))
    }

    fn of(seen: Seen, mac: Mac) -> Self {
        let own = seen.links.values().find(|link| link.mac == Some(mac));
        let named = || seen.links.values().find(|link| link.name == POD_LINK);
        let link = own.or_else(named).cloned();
        Self { seen, link, mac }
    }

    pub(super) const fn link(&self) -> Option<&LinkSeen> {
        self.link.as_ref()
    }

    /// Whether anything can be sent at all, so that there are ways to speak of.
    pub(super) fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.up)
    }

    /// What is wrong with the link of a pod that should have these addresses; `other` is the
    /// node's end.
    pub(super) fn faults(&self, addresses: &[IpAddr], other: &LinkSeen) -> Vec<Fault> {
        let mac = hardware_address(&self.mac);
        let Some(link) = &self.link else {
            return vec![(POD_LINK.to_owned(), "the pod has no such link any more".to_owned())];
        };
        let mut faults = Vec::new();
        let mut fault = |what: String, why: String| faults.push((what, why));
        if !link.up {
            fault(link.name.clone(), "is down in the pod".to_owned());
        }
        if link.mac != Some(self.mac) {
            let found = link.mac.as_ref().map(hardware_address).unwrap_or_default();
            let why = format!("is at {found}, and PODS has {mac}: what comes for it is dropped");
            fault(link.name.clone(), why);
        }
        for address in addresses {
            let has_it = |it: &AddressSeen| it.link == link.index && it.address == *address;
            if !self.seen.addresses.iter().any(has_it) {
                fault(format!("{address} on {}", link.name), "the pod has it no more".to_owned());
            }
        }
        if link.mtu != other.mtu {
            let why = format!("mtu {}, and {} of the node has {}", link.mtu, other.name, other.mtu);
            fault(format!("{} of the pod", link.name), why);
        }
        faults
    }

    /// Where the pod's routes lead; an error says why nothing gets there.
    pub(super) fn way(&self, to: IpAddr, other: &LinkSeen) -> Result<String, String> {
        let (index, gateway) = match self.seen.lookups.get(&to) {
            Some(Lookup::Own) => return Ok("the pod itself".to_owned()),
            Some(Lookup::Out { link, gateway, .. }) => (*link, *gateway),
            Some(Lookup::Nowhere(kind)) => return Err(format!("{kind}: nothing leaves the pod")),
            None => return Err("were not asked".to_owned()),
        };
        let name = self.seen.link_name(index);
        let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        let way = format!("{name}{via}");
        if self.link.as_ref().is_none_or(|link| link.index != index) {
            return Ok(way);
        }
        // Nobody answers questions on this link: the entry is made with it.
        let next = gateway.unwrap_or(to);
        let is = |row: &&NeighbourRow| row.ifindex == index && row.address == next;
        let Some(row) = self.seen.neighbours.iter().find(is) else {
            return Err(format!(
                "{way}, and its neighbour {next} is missing: nobody answers there"
            ));
        };
        match &row.mac {
            Some(mac) if row.state != "failed" => {
                let own = other.mac.as_ref().map(hardware_address);
                match own.filter(|own| own != mac) {
                    Some(own) => Err(format!("{way} at {mac}, and {} is at {own}", other.name)),
                    None => Ok(format!("{way}, {mac}")),
                }
            }
            _ => Err(format!("{way}, and its neighbour {next} is {}", row.state)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [10, 98, 10, 240, 0, 2];
    const OTHER: Mac = [14, 98, 10, 240, 0, 2];
    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 240, 0, 2));
    const TO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 240, 1, 2));

    fn link(name: &str, index: u32, mac: Mac) -> LinkSeen {
        LinkSeen { index, name: name.to_owned(), mac: Some(mac), mtu: 1500, up: true, vxlan: None }
    }

    fn whole() -> Seen {
        let neighbour = NeighbourRow {
            address: GATEWAY,
            ifindex: 2,
            link: POD_LINK.to_owned(),
            mac: Some(hardware_address(&OTHER)),
            state: "permanent".to_owned(),
            confirmed_seconds_ago: None,
            used_seconds_ago: None,
            updated_seconds_ago: None,
        };
        let address = AddressSeen { link: 2, address: OWN, prefix: 32, global: true };
        let out = Lookup::Out { link: 2, gateway: Some(GATEWAY), node: None };
        Seen {
            links: [(2, link(POD_LINK, 2, MAC))].into(),
            addresses: vec![address],
            neighbours: vec![neighbour],
            lookups: [(TO, out)].into(),
        }
    }

    #[test]
    fn what_is_broken_in_a_pod_is_told() {
        type Break = fn(&mut Seen, &mut LinkSeen);
        let node = link("bl0", 7, OTHER);
        let told = |break_it: Break| {
            let (mut seen, mut own) = (whole(), link(POD_LINK, 2, MAC));
            break_it(&mut seen, &mut own);
            if !seen.links.is_empty() {
                seen.links.insert(2, own);
            }
            let inside = Inside::of(seen, MAC);
            let faults = inside.faults(&[OWN], &node).into_iter();
            let mut all: Vec<String> = faults.map(|(what, why)| format!("{what} {why}")).collect();
            all.extend(inside.way(TO, &node).err());
            all.join("; ")
        };
        assert_eq!(told(|_, _| {}), "");
        let breaks: [(Break, &str); 10] = [
            (|_, link| link.up = false, "eth0 is down in the pod"),
            (|_, link| link.mtu = 9000, "eth0 of the pod mtu 9000, and bl0 of"),
            (|_, link| link.mac = Some(OTHER), "eth0 is at 0e:62:0a:f0:00:02"),
            (|seen, _| seen.links.clear(), "eth0 the pod has no such link"),
            (|seen, _| seen.addresses.clear(), "10.240.0.2 on eth0 the pod has it no more"),
            (|seen, _| seen.neighbours.clear(), "its neighbour 169.254.1.1 is missing"),
            (|seen, _| seen.neighbours[0].mac = None, "its neighbour 169.254.1.1 is permanent"),
            (|seen, _| seen.neighbours[0].state = "failed".to_owned(), "169.254.1.1 is failed"),
            (|seen, _| seen.neighbours[0].mac = Some("02:0".to_owned()), "and bl0 is at 0e:62"),
            (
                |seen, _| *seen.lookups.get_mut(&TO).unwrap() = Lookup::Nowhere("blackhole"),
                "blackhole: nothing leaves the pod",
            ),
        ];
        for (break_it, words) in breaks {
            assert!(told(break_it).contains(words), "{words}: {}", told(break_it));
        }
    }

    #[test]
    fn a_way_by_a_link_of_the_pods_own_is_its_own_affair() {
        let mut seen = whole();
        seen.links.insert(3, link("tun0", 3, [2; 6]));
        seen.lookups.insert(TO, Lookup::Out { link: 3, gateway: None, node: None });
        let way = Inside::of(seen, MAC).way(TO, &link("bl0", 7, OTHER));
        assert_eq!(way, Ok("tun0".to_owned()));
    }
}
