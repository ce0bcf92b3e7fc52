//! Gives each node its part of the pod range.
//!
//! Guarantees: no two nodes of the cache have overlapping ranges; a node keeps its range for life.
//! A range that became free is used again as late as possible, so that stale routes do no harm.

use std::sync::{Arc, Mutex, PoisonError};

use bowline_api::cidr::Cidr;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::core::Resource;
use kube::{Api, Client};

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::queue::{Next, WorkQueue, start_workers};
use crate::recorder::Recorder;

const NAME: &str = "node-ipam-controller";

struct NodeIpam {
    client: Client,
    recorder: Recorder,
    nodes: Arc<Cache<Node>>,
    range: Cidr,
    mask: u8,
    /// Where the search for a free part begins.
    cursor: Mutex<u64>,
}

pub(crate) fn start(world: &World, range: Cidr, mask: u8) {
    let queue = WorkQueue::new();
    let (on_node, nodes) = (queue.clone(), world.nodes.clone());
    world.nodes.on_change(move |change| match change.new {
        Some(node) if range_of(node).is_none() => on_node.add(Key::of(&node.metadata)),
        Some(_) => {}
        // A part became free: somebody may be waiting for it.
        None => {
            let waiting = nodes.all().into_iter().filter(|node| range_of(node).is_none());
            waiting.for_each(|node| on_node.add(Key::of(&node.metadata)));
        }
    });
    let controller = Arc::new(NodeIpam {
        client: world.client.clone(),
        recorder: world.recorder.of(NAME),
        nodes: world.nodes.clone(),
        range,
        mask,
        cursor: Mutex::new(0),
    });
    // One worker: a part is chosen and written before the next is chosen.
    start_workers(world, (NAME, 1), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

fn range_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty())
}

impl NodeIpam {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(node) = self.nodes.get(key).filter(|node| range_of(node).is_none()) else {
            return Ok(Next::Rest);
        };
        let used: Vec<Cidr> =
            self.nodes.all().iter().filter_map(|node| range_of(node)?.parse().ok()).collect();
        let start = *self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((index, part)) = free_part(self.range, self.mask, &used, start) else {
            let message = format!("no free range left in {} for node {key}", self.range);
            self.recorder.warning(node.object_ref(&()), "CIDRNotAvailable", message);
            return Ok(Next::Rest);
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let part = part.to_string();
        let patch = serde_json::json!({
            "metadata": { "uid": node.metadata.uid },
            "spec": { "podCIDR": part, "podCIDRs": [part] },
        });
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(written) = written.if_found("giving a pod range to node", key)? {
            *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = index + 1;
            self.nodes.written(written);
        }
        Ok(Next::Rest)
    }
}

/// The first part at or after `start` that overlaps none in use, going round once.
fn free_part(range: Cidr, mask: u8, used: &[Cidr], start: u64) -> Option<(u64, Cidr)> {
    let count = 1_u64.checked_shl(u32::from(mask.checked_sub(range.prefix())?))?;
    (0..count)
        .map(|step| (start + step) % count)
        .filter_map(|index| Some((index, range.subnet(mask, index)?)))
        .find(|(_, part)| !used.iter().any(|other| other.overlaps(*part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_given_round_robin_and_never_twice() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let range = cidr("10.240.0.0/22");
        let table = [
            (vec![], 0, Some("10.240.0.0/24")),
            (vec!["10.240.0.0/24"], 0, Some("10.240.1.0/24")),
            (vec!["10.240.1.0/24"], 2, Some("10.240.2.0/24")),
            (vec!["10.240.3.0/24"], 3, Some("10.240.0.0/24")),
            (vec!["10.240.0.0/23"], 0, Some("10.240.2.0/24")),
            (vec!["10.240.0.0/22"], 0, None),
        ];
        for (used, start, expected) in table {
            let used: Vec<Cidr> = used.into_iter().map(cidr).collect();
            let got = free_part(range, 24, &used, start).map(|(_, part)| part.to_string());
            assert_eq!(got.as_deref(), expected, "{used:?} from {start}");
        }
    }
}
