//! What is on this node now.
//!
//! Reads only. What the node network is made of is read anew each time: nothing here remembers.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    config::{DNS_ADDRESS, DNS_ADDRESS_V6},
    network::{
        Masquerade, Netlink, NetlinkRequestFailed, PodNetwork, masquerade::NftFailed, sysctl,
    },
    plan::network::{Observed, Setting, Told},
};

/// What there is could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserveFailed {
    #[error(transparent)]
    Netlink(#[from] NetlinkRequestFailed),
    #[error(transparent)]
    Nft(#[from] NftFailed),
}

/// What the node network is: with the values of `settings`, and where `rules` says so with the
/// masquerading rule, which takes a process to read. `told` is what the data plane was told last.
pub(crate) async fn network(
    netlink: &Netlink,
    sandboxes: &PodNetwork,
    settings: &[Setting],
    rules: bool,
    told: Option<Told>,
) -> Result<Observed, ObserveFailed> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let routes: BTreeSet<_> = netlink.routes().await?.into_iter().collect();
    let neighbours: BTreeSet<_> = netlink.neighbours().await?.into_iter().collect();
    let settings = settings
        .iter()
        .filter_map(|setting| Some((setting.name.clone(), sysctl::read(&setting.name)?)))
        .collect();
    let dns: [IpAddr; 2] = [DNS_ADDRESS.into(), DNS_ADDRESS_V6.into()];
    let dns_addresses =
        addresses.iter().map(|seen| seen.address).filter(|it| dns.contains(it)).collect();
    let masquerade = if rules { Masquerade::read().await? } else { None };
    let abandoned = sandboxes.abandoned();
    let data_plane = told;
    Ok(Observed {
        links,
        routes,
        neighbours,
        dns_addresses,
        settings,
        masquerade,
        abandoned,
        data_plane,
    })
}
