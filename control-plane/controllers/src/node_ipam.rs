//! Gives each node its part of each pod range: one of each family.
//!
//! Guarantees: no two nodes of the cache have overlapping ranges; a node keeps its range for life.
//! A range that became free is used again as late as possible, so that stale routes do no harm.

use std::sync::{Arc, Mutex, PoisonError};

use bowline_api::cidr::Cidr;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::core::Resource;
use kube::{Api, Client};

use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::queue::{Next, WorkQueue, start_workers};
use crate::recorder::Recorder;
use crate::{NodeMaskSize, World};

const NAME: &str = "node-ipam-controller";

struct NodeIpam {
    client: Client,
    recorder: Recorder,
    nodes: Arc<Cache<Node>>,
    pools: Vec<Pool>,
}

/// A pod range, and the prefix length of the nodes' parts of it.
struct Pool {
    range: Cidr,
    size: u8,
    /// Where the search for a free part begins.
    cursor: Mutex<u64>,
}

/// Starts the controller; `pools` are the pod ranges with the prefix length of a node's part.
pub(crate) fn start(world: &World, pools: Vec<(Cidr, u8)>) {
    let queue = WorkQueue::new();
    let (on_node, nodes) = (queue.clone(), world.nodes.clone());
    world.nodes.on_change(move |change| match change.new {
        Some(node) if !has_range(node) => on_node.add(Key::of(&node.metadata)),
        Some(_) => {}
        // A part became free: somebody may be waiting for it.
        None => {
            let waiting = nodes.all().into_iter().filter(|node| !has_range(node));
            waiting.for_each(|node| on_node.add(Key::of(&node.metadata)));
        }
    });
    let controller = Arc::new(NodeIpam {
        client: world.client.clone(),
        recorder: world.recorder.of(NAME),
        nodes: world.nodes.clone(),
        pools: pools
            .into_iter()
            .map(|(range, size)| Pool { range, size, cursor: Mutex::new(0) })
            .collect(),
    });
    // One worker: a part is chosen and written before the next is chosen.
    start_workers(world, (NAME, 1), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

/// The node's ranges; a node that has some keeps them.
fn ranges_of(node: &Node) -> impl Iterator<Item = &str> {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.as_deref());
    let many = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    one.into_iter().chain(many.iter().map(String::as_str)).filter(|cidr| !cidr.is_empty())
}

fn has_range(node: &Node) -> bool {
    ranges_of(node).next().is_some()
}

impl NodeIpam {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(node) = self.nodes.get(key).filter(|node| !has_range(node)) else {
            return Ok(Next::Rest);
        };
        let nodes = self.nodes.all();
        let used: Vec<Cidr> = nodes
            .iter()
            .flat_map(|node| ranges_of(node))
            .filter_map(|range| range.parse().ok())
            .collect();
        let mut chosen = Vec::new();
        for pool in &self.pools {
            let Some(part) = pool.free_part(&used) else {
                let message = format!("no free range left in {} for node {key}", pool.range);
                self.recorder.warning(node.object_ref(&()), "CIDRNotAvailable", message);
                return Ok(Next::Rest);
            };
            chosen.push((pool, part));
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let parts: Vec<String> = chosen.iter().map(|(_, (_, part))| part.to_string()).collect();
        let patch = serde_json::json!({
            "metadata": { "uid": node.metadata.uid },
            "spec": { "podCIDR": parts.first(), "podCIDRs": parts },
        });
        let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(written) = written.if_found("giving a pod range to node", key)? {
            for (pool, (index, _)) in chosen {
                *pool.cursor.lock().unwrap_or_else(PoisonError::into_inner) = index + 1;
            }
            self.nodes.written(written);
        }
        Ok(Next::Rest)
    }
}

impl Pool {
    fn free_part(&self, used: &[Cidr]) -> Option<(u64, Cidr)> {
        let start = *self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        free_part(self.range, self.size, used, start)
    }
}

/// The first part at or after `start` that overlaps none in use, going round once.
fn free_part(range: Cidr, mask: u8, used: &[Cidr], start: u64) -> Option<(u64, Cidr)> {
    let count = 1_u64.checked_shl(u32::from(mask.checked_sub(range.prefix())?))?;
    let (mut index, mut passed) = (start % count, 0_u64);
    while passed < count {
        let part = range.subnet(mask, index)?;
        let Some(other) = used.iter().find(|other| other.overlaps(part)) else {
            return Some((index, part));
        };
        // Parts may have been larger once: all that lie in such a one are passed at once.
        let inside = 1_u64 << mask.saturating_sub(other.prefix()).min(NodeMaskSize::MOST_BITS);
        let step = inside - index % inside;
        passed = passed.saturating_add(step);
        index = (index + step) % count;
    }
    None
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

    #[test]
    fn every_size_that_can_be_chosen_has_parts_and_they_are_found_at_once() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        assert_eq!(NodeMaskSize::choices(cidr("10.0.0.0/8")), 8..=30);
        assert_eq!(NodeMaskSize::choices(cidr("fd00::/48")), 48..=111);
        assert_eq!(NodeMaskSize::choices(cidr("fd00::/64")), 64..=112);
        let range = cidr("fd00::/48");
        assert_eq!(NodeMaskSize { v4: 24, v6: 112 }.of(range), None);
        for size in NodeMaskSize::choices(range) {
            assert!(free_part(range, size, &[], 0).is_some(), "{size}");
        }
        // Given when the parts were larger.
        let used = [cidr("fd00::/64"), cidr("fd00:0:0:1::/64")];
        let got = free_part(range, 111, &used, 5).map(|(_, part)| part.to_string());
        assert_eq!(got.as_deref(), Some("fd00:0:0:2::/111"));
        assert_eq!(free_part(range, 111, &[cidr("fd00::/32")], 5), None);
    }
}
