//! Removing what an agent left on a node: also after SIGKILL, also twice.
//!
//! Guarantees: goes on past errors and names them all; touches only what carries the agent's
//! marks (its run directory, names of its links, its route protocol, its nftables table, its pins,
//! its filters, its DNS address).
//! Containers are the runtime's: they must be gone before.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::{DNS_ADDRESS, DNS_ADDRESS_V6},
    data_plane::{CONDITION_FILE, NAMES_FILE},
    datapath::forget_filters,
    dns::DNS_FIGURES_FILE,
    network::{
        LOOPBACK, LinkSeen, Netlink, NetlinkRequestFailed, PodLink, PodLinks, PodNetwork, Refused,
        SetUpSandboxFailed, TUNNEL_LINK, TearDownCause, Uplink, is_pod_link, masquerade,
    },
    watch::checkpoint,
};

/// Something that an agent left could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveStateFailed {
    #[error("{0}")]
    Sandbox(String),
    #[error("{0}")]
    Kernel(String),
    #[error("removing {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl From<NetlinkRequestFailed> for RemoveStateFailed {
    fn from(error: NetlinkRequestFailed) -> Self {
        Self::Kernel(error.to_string())
    }
}

impl From<TearDownCause> for RemoveStateFailed {
    fn from(error: TearDownCause) -> Self {
        Self::Sandbox(error.to_string())
    }
}

impl From<SetUpSandboxFailed> for RemoveStateFailed {
    fn from(error: SetUpSandboxFailed) -> Self {
        Self::Sandbox(error.to_string())
    }
}

/// Nobody needs to be told: the pins are removed as a whole.
struct Nobody;

impl PodLinks for Nobody {
    fn attach(&self, _: &PodLink) -> Result<(), Refused> {
        Ok(())
    }

    fn detach(&self, _: &PodLink) -> Result<(), Refused> {
        Ok(())
    }
}

/// Removes sandboxes, links, routes, pins and the DNS address that an agent with these directories
/// made. The agent must have ended; the calling thread is in the node's network namespace.
pub async fn remove_node_state(run_dir: &Path, bpffs: &Path) -> Result<(), Vec<RemoveStateFailed>> {
    let mut failures = Vec::new();
    match Netlink::open() {
        Ok(netlink) => {
            remove_sandboxes(run_dir, &netlink, &mut failures).await;
            remove_links_and_routes(&netlink, &mut failures).await;
        }
        Err(error) => failures.push(error.into()),
    }
    failures.extend(remove_tree(&bpffs.join("bowline")).err());
    for file in [NAMES_FILE, CONDITION_FILE, DNS_FIGURES_FILE] {
        let path = run_dir.join(file);
        failures.extend(present(&path, fs::remove_file(&path)).err());
    }
    failures.extend(remove_tree(&run_dir.join(checkpoint::DIRECTORY)).err());
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

async fn remove_sandboxes(
    run_dir: &Path,
    netlink: &Netlink,
    failures: &mut Vec<RemoveStateFailed>,
) {
    if !run_dir.join("sandboxes").exists() {
        return;
    }
    // No sandbox is made, so it does not matter where the uplink leads.
    let addresses = Ipv4Addr::UNSPECIFIED.into();
    let uplink = Uplink { index: 0, name: String::new(), mtu: 0, addresses, networks: Vec::new() };
    match PodNetwork::open(run_dir, netlink.clone(), uplink, 0, Arc::new(Nobody)) {
        Ok(sandboxes) => {
            failures.extend(sandboxes.remove_all().await.into_iter().map(Into::into));
        }
        Err(error) => failures.push(error.into()),
    }
}

async fn remove_links_and_routes(netlink: &Netlink, failures: &mut Vec<RemoveStateFailed>) {
    let is_ours = |link: &LinkSeen| is_pod_link(&link.name) || link.name == TUNNEL_LINK;
    for link in listed(netlink.links().await, failures) {
        if is_ours(&link) {
            failures.extend(netlink.remove_link(&link).await.err().map(Into::into));
        } else if let Err(error) = forget_filters(link.index) {
            let what = format!("removing the filters of {}: {error}", link.name);
            failures.push(RemoveStateFailed::Kernel(what));
        }
    }
    for route in listed(netlink.routes().await, failures) {
        failures.extend(netlink.remove_route(&route).await.err().map(Into::into));
    }
    failures
        .extend(masquerade::remove().await.err().map(|e| RemoveStateFailed::Kernel(e.to_string())));
    failures.extend(netlink.remove_address(LOOPBACK, DNS_ADDRESS).await.err().map(Into::into));
    // Where IPv6 is off, there is nothing to be asked about it either.
    let addresses = listed(netlink.addresses().await, failures);
    if addresses.iter().any(|seen| seen.address == DNS_ADDRESS_V6) {
        let removed = netlink.remove_address(LOOPBACK, DNS_ADDRESS_V6).await;
        failures.extend(removed.err().map(Into::into));
    }
}

/// What could be listed: nothing, and a failure more, where nothing could.
fn listed<T>(
    list: Result<Vec<T>, NetlinkRequestFailed>,
    failures: &mut Vec<RemoveStateFailed>,
) -> Vec<T> {
    list.unwrap_or_else(|error| {
        failures.push(error.into());
        Vec::new()
    })
}

fn remove_tree(path: &Path) -> Result<(), RemoveStateFailed> {
    present(path, fs::remove_dir_all(path))
}

fn present(path: &Path, result: io::Result<()>) -> Result<(), RemoveStateFailed> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RemoveStateFailed::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{on_a_node, pod};

    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn everything_of_an_agent_goes_and_nothing_else() {
        on_a_node(async |node| {
            let run_dir = node.run.path().to_owned();
            let bpffs = run_dir.join("bpf");
            let before = node.picture().await;
            node.converge().await;
            for number in 1..=3 {
                node.network.set_up(&pod(number)).await.unwrap();
            }
            // As a crash leaves it: a record that cannot be read, and a link without any.
            let torn = node.run.path().join("sandboxes").join(pod(2).uid).join("sandbox.json");
            fs::write(torn, "{").unwrap();
            let record = node.run.path().join("sandboxes").join(pod(3).uid).join("sandbox.json");
            fs::remove_file(record).unwrap();
            let pins = bpffs.join("bowline/v1/maps");
            fs::create_dir_all(&pins).unwrap();
            for file in [NAMES_FILE, CONDITION_FILE, DNS_FIGURES_FILE, "somebody-elses"] {
                fs::write(run_dir.join(file), "{}").unwrap();
            }
            fs::create_dir_all(run_dir.join(checkpoint::DIRECTORY).join("boot")).unwrap();

            for _ in 0..2 {
                remove_node_state(&run_dir, &bpffs).await.unwrap();
                assert_eq!(node.picture().await, before);
                let left: Vec<_> = fs::read_dir(&run_dir)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                assert_eq!(left.len(), 2, "{left:?}");
            }
            let addresses = node.netlink.addresses().await.unwrap();
            assert!(addresses.iter().all(|seen| seen.address != DNS_ADDRESS));
            node
        });
    }
}
