//! What is on this node now.
//!
//! Reads only. What the node network is made of is read anew each time: nothing here remembers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{
    config::DNS_ADDRESS,
    network::{Ipv4Range, Netlink, NetlinkRequestFailed, PodNetwork, sysctl},
    plan::network::{Observed, SETTINGS},
};

/// What the node network is. `data_plane` is what the data plane was last told.
pub(crate) async fn network(
    netlink: &Netlink,
    sandboxes: &PodNetwork,
    data_plane: Option<BTreeMap<Ipv4Range, Ipv4Addr>>,
) -> Result<Observed, NetlinkRequestFailed> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let routes: BTreeSet<_> = netlink.routes().await?.into_iter().collect();
    let neighbours: BTreeSet<_> = netlink.neighbours().await?.into_iter().collect();
    let settings = SETTINGS
        .iter()
        .filter_map(|setting| Some((setting.name, sysctl::read(setting.name)?)))
        .collect();
    let dns_address = addresses.iter().any(|seen| seen.address == DNS_ADDRESS);
    let abandoned = sandboxes.abandoned();
    Ok(Observed { links, routes, neighbours, dns_address, settings, abandoned, data_plane })
}
