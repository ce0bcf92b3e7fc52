//! The scheduler's view of the cluster: nodes and what the pods on them take.
//!
//! Guarantees: a pod that was given a node counts there at once (assumed), and keeps counting while
//! the watch still shows it without one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::facts::{self, Amounts, HostPort, NodeFacts, PodFacts, ServiceFacts};

/// What is taken on a node.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) requested: Amounts,
    /// The same, with small amounts for pods that ask for nothing: they are not free.
    pub(crate) weighed: Amounts,
    pub(crate) pods: BTreeMap<String, Arc<PodFacts>>,
}

impl Usage {
    pub(crate) fn host_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.values().flat_map(|pod| &pod.host_ports)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<String, NodeFacts>,
    usage: HashMap<String, Usage>,
    /// The node on which a pod counts, by uid.
    placed: HashMap<String, String>,
    pub(crate) services: BTreeMap<(String, String), ServiceFacts>,
}

#[cfg(test)]
impl FromIterator<NodeFacts> for Cluster {
    fn from_iter<T: IntoIterator<Item = NodeFacts>>(nodes: T) -> Self {
        let nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        Self { nodes, ..Self::default() }
    }
}

/// What a pod weighs in the comparison of nodes.
pub(crate) fn weight(requests: &Amounts) -> Amounts {
    let mut weight = requests.clone();
    weight.entry("cpu".to_owned()).or_insert(100);
    weight.entry("memory".to_owned()).or_insert(200 << 20);
    weight
}

impl Cluster {
    pub(crate) fn usage(&self, node: &str) -> Option<&Usage> {
        self.usage.get(node)
    }

    /// Takes in a pod as the watch shows it; says whether it freed something.
    pub(crate) fn observe(&mut self, pod: &Arc<PodFacts>) -> bool {
        let freed = self.placed.contains_key(&pod.uid) && pod.finished;
        let node = pod.node.clone().or_else(|| self.placed.get(&pod.uid).cloned());
        self.remove(&pod.uid);
        if let Some(node) = node.filter(|_| !pod.finished) {
            self.place(pod, &node);
        }
        freed
    }

    /// Counts a pod on a node; also before it is bound.
    pub(crate) fn place(&mut self, pod: &Arc<PodFacts>, node: &str) {
        self.remove(&pod.uid);
        let usage = self.usage.entry(node.to_owned()).or_default();
        facts::add(&mut usage.requested, &pod.requests);
        facts::add(&mut usage.weighed, &weight(&pod.requests));
        usage.pods.insert(pod.uid.clone(), pod.clone());
        self.placed.insert(pod.uid.clone(), node.to_owned());
    }

    /// Forgets a pod; says whether it took something.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        let Some(usage) = self.usage.get_mut(&node) else { return false };
        let Some(pod) = usage.pods.remove(uid) else { return false };
        facts::subtract(&mut usage.requested, &pod.requests);
        facts::subtract(&mut usage.weighed, &weight(&pod.requests));
        if usage.pods.is_empty() {
            self.usage.remove(&node);
        }
        true
    }

    /// Forgets the pods for which `keep` does not hold.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.placed.keys().filter(|uid| !keep(uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// The services that select the pod.
    pub(crate) fn services_of(&self, pod: &PodFacts) -> Vec<&ServiceFacts> {
        self.services.values().filter(|service| service.selects(pod)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, node: Option<&str>, finished: bool) -> Arc<PodFacts> {
        Arc::new(PodFacts {
            uid: uid.into(),
            node: node.map(str::to_owned),
            finished,
            requests: [("cpu".to_owned(), 500)].into(),
            ..PodFacts::default()
        })
    }

    #[test]
    fn an_assumed_pod_counts_until_it_ends() {
        let mut cluster = Cluster::default();
        cluster.place(&pod("a", None, false), "node1");
        assert_eq!(cluster.usage("node1").unwrap().requested["cpu"], 500);
        cluster.observe(&pod("a", None, false));
        assert_eq!(cluster.usage("node1").unwrap().requested["cpu"], 500, "late event");
        cluster.observe(&pod("a", Some("node1"), false));
        assert_eq!(cluster.usage("node1").unwrap().pods.len(), 1, "counted once");
        assert!(cluster.observe(&pod("a", Some("node1"), true)), "freed");
        assert!(cluster.usage("node1").is_none());
        assert!(!cluster.remove("a"));
    }
}
