//! Sandboxes of pods on this node: namespaces, addresses, links, routes.
//!
//! A sandbox is three pinned namespaces (`net`, `ipc`, `uts`) and the memory that containers share
//! (`shm`) under `<run>/sandboxes/<uid>/`, a veth pair, and one address of each of the node's pod
//! ranges. It is there before a pod's
//! containers and outlives them and the agent.
//!
//! Guarantees: `set_up` gives back the sandbox that a pod already has; an address is in use by at
//! most one sandbox, also across SIGKILL of the agent; a sandbox that a crash left half made is
//! never handed out and is removed at the next start; `tear_down` goes on past errors, names them
//! all and can be called again. Not here: deciding which sandboxes there should be. Whoever owns
//! pods tears down those that `sandboxes` lists and no pod wants.

mod addresses;
mod families;
mod links;
mod lookup;
pub(crate) mod masquerade;
mod namespaces;
mod records;
mod sandboxes;
mod shm;
pub(crate) mod sysctl;
pub(crate) mod tunnel;
pub(crate) mod uplink;
mod wiring;

pub(crate) use families::{Addresses, first_of_each};
#[cfg(test)]
pub(crate) use links::VxlanSeen;
pub(crate) use links::{
    AddressSeen, LinkSeen, Mac, Neighbour, Netlink, NetlinkRequestFailed, Route, Via,
};
pub(crate) use lookup::{Lookup, hardware_address, parse_mac};
pub(crate) use masquerade::Masquerade;
pub(crate) use sandboxes::{
    PodNetwork, Ranges, SandboxLink, SetUpSandboxFailed, TearDownCause, is_pod_uid,
};
#[cfg(test)]
pub(crate) use shm::{mount_shm, unmount_shm};
pub(crate) use tunnel::{Reach, TUNNEL_LINK, Tunnel};
pub(crate) use uplink::Uplink;
pub(crate) use wiring::{LOOPBACK, POD_LINK, is_pod_link, pod_mac, pod_neighbours, pod_routes};

use std::path::PathBuf;

/// What makes one pod's sandbox different from another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodIdentity {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// What `hostname` prints in the pod.
    pub(crate) hostname: String,
    /// The pod shares the node's network namespace: no address and no link are made.
    pub(crate) host_network: bool,
}

/// A sandbox that is ready for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// The pod's addresses; the node's own for a pod on the host network.
    pub(crate) addresses: Addresses,
    /// Path of the pinned network namespace.
    pub(crate) netns: PathBuf,
    /// Path of the pinned IPC namespace.
    pub(crate) ipc: PathBuf,
    /// Path of the pinned UTS namespace.
    pub(crate) uts: PathBuf,
    /// Path of what containers have at `/dev/shm`.
    pub(crate) shm: PathBuf,
}

/// The node's end of a pod's link, as the data plane needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodLink {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    /// 0 when the link is gone already.
    pub(crate) index: u32,
    pub(crate) addresses: Addresses,
    pub(crate) pod_mac: Mac,
    pub(crate) netns: PathBuf,
}

/// Why the data plane refused.
pub(crate) type Refused = Box<dyn std::error::Error + Send + Sync>;

/// Who is told about pods' links: the data plane. Both calls can be repeated, and may wait: they
/// are made on threads for blocking work.
pub(crate) trait PodLinks: Send + Sync + 'static {
    /// The link is up and routed; packets may use it from now on.
    fn attach(&self, link: &PodLink) -> Result<(), Refused>;
    /// The link is about to go, or gone.
    fn detach(&self, link: &PodLink) -> Result<(), Refused>;
}

#[cfg(test)]
pub(crate) mod tests;
