//! Applies the steps of the node network plan.
//!
//! Guarantees: a step that fails keeps no other one from being tried, and each failure is given
//! back with its step. The caller holds `PodNetwork::settle`, so no sandbox changes meanwhile.

use std::collections::BTreeMap;

use bowline_api::cidr::Cidr;

use crate::{
    datapath::Hop,
    network::{LOOPBACK, Netlink, PodNetwork, Refused, masquerade, sysctl},
    plan::network::Step,
};

/// A step that could not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub(crate) struct StepFailed {
    pub(crate) step: Step,
    source: Refused,
}

/// Who is told the ways to other nodes: the data plane.
pub(crate) trait NodeRoutes: Send + Sync {
    /// Replaces all that was told before.
    fn set_routes(
        &self,
        routes: &BTreeMap<Cidr, Hop>,
    ) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// Carries out the steps in their order.
pub(crate) async fn apply(
    steps: Vec<Step>,
    netlink: &Netlink,
    sandboxes: &PodNetwork,
    data_plane: &impl NodeRoutes,
) -> Vec<StepFailed> {
    let mut failures = Vec::new();
    for step in steps {
        tracing::debug!(%step, "node network");
        if let Err(source) = apply_one(&step, netlink, sandboxes, data_plane).await {
            failures.push(StepFailed { step, source });
        }
    }
    failures
}

async fn apply_one(
    step: &Step,
    netlink: &Netlink,
    sandboxes: &PodNetwork,
    data_plane: &impl NodeRoutes,
) -> Result<(), Refused> {
    match step {
        Step::RemoveSandbox { uid } => sandboxes.remove_abandoned(uid).await?,
        Step::RemoveLink(link) => netlink.remove_link(link).await?,
        Step::RemoveRoute(route) => netlink.remove_route(route).await?,
        Step::RemoveNeighbour(neighbour) => netlink.remove_neighbour(*neighbour).await?,
        Step::RemoveMasquerade => masquerade::remove().await?,
        Step::Set { name, value } => sysctl::write(name, value)?,
        Step::AddDnsAddress(address) => netlink.add_address(LOOPBACK, *address, true).await?,
        Step::MakeTunnel(tunnel) => tunnel.make(netlink).await?,
        Step::RestoreLink { uid } => sandboxes.restore_link(uid).await?,
        Step::PutNeighbour(neighbour) => netlink.put_neighbour(*neighbour).await?,
        Step::PutMasquerade(wanted) => wanted.write().await?,
        Step::PutRoute(route) => netlink.put_route(route).await?,
        Step::SetDataPlaneRoutes(routes) => data_plane.set_routes(routes).await?,
    }
    Ok(())
}
