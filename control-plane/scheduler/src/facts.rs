//! What the scheduler keeps of pods, nodes and services: the facts its decisions rest on, and
//! nothing else, so that its memory stays small.

use std::collections::{BTreeMap, HashSet};

use bowline_api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, Node, NodeAffinity, Pod, PodSpec, Service, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

pub(crate) const SCHEDULER_NAME: &str = "default-scheduler";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Amounts by resource: CPU in thousandths, everything else in units.
pub(crate) type Amounts = BTreeMap<String, i64>;

/// A port of the node itself that a pod wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |address: &str| address.is_empty() || address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PodFacts {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The resource version that the facts are of.
    pub(crate) version: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owner: Option<String>,
    pub(crate) created: Option<Timestamp>,
    pub(crate) priority: i32,
    pub(crate) requests: Amounts,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) node_affinity: Option<NodeAffinity>,
    pub(crate) tolerations: Vec<Toleration>,
    /// The node it is on, or that it asks for by name.
    pub(crate) node: Option<String>,
    /// Wants a node from this scheduler, now.
    pub(crate) waits: bool,
    /// Takes nothing any more.
    pub(crate) finished: bool,
    /// The message of `PodScheduled=False`, as stored.
    pub(crate) refused: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Amounts,
}

/// A service's selector: pods that serve the same are spread.
#[derive(Clone, Debug)]
pub(crate) struct ServiceFacts {
    pub(crate) namespace: String,
    pub(crate) selector: BTreeMap<String, String>,
}

impl PodFacts {
    pub(crate) fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let status = pod.status.as_ref();
        let node = spec.node_name.clone().filter(|node| !node.is_empty());
        let owners = meta.owner_references.iter().flatten();
        let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == SCHEDULER_NAME);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let phase = status.and_then(|status| status.phase.as_deref());
        let finished = matches!(phase, Some("Succeeded" | "Failed"));
        let refused = status
            .and_then(|status| status.conditions.as_ref())
            .and_then(|all| all.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False"))
            .and_then(|condition| condition.message.clone());
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            version: meta.resource_version.clone(),
            labels: meta.labels.clone().unwrap_or_default(),
            owner: owners.into_iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone()),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            priority: spec.priority.unwrap_or(0),
            requests: requests(spec),
            host_ports: host_ports(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_affinity: spec.affinity.as_ref().and_then(|a| a.node_affinity.clone()),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            waits: node.is_none()
                && ours
                && !gated
                && !finished
                && meta.deletion_timestamp.is_none(),
            node,
            finished,
            refused,
        }
    }

    /// Whether the two are copies of one thing: same controller, same service, or alike labels.
    pub(crate) fn is_like(&self, other: &Self, services: &[&ServiceFacts]) -> bool {
        self.namespace == other.namespace
            && (self.owner.is_some() && self.owner == other.owner
                || !self.labels.is_empty() && self.labels == other.labels
                || services.iter().any(|service| service.selects(other)))
    }
}

impl NodeFacts {
    pub(crate) fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let mut taints: Vec<Taint> = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let ready = conditions
            .and_then(|all| all.iter().find(|condition| condition.type_ == "Ready"))
            .is_some_and(|condition| condition.status == "True");
        let tainted = taints.iter().any(|t| t.key == NOT_READY || t.key == UNREACHABLE);
        if !ready && !tainted {
            // The node controller writes this taint a moment later; no pod slips in before.
            taints.push(Taint {
                key: NOT_READY.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
        }
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints,
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: allocatable.map(amounts).unwrap_or_default(),
        }
    }
}

impl ServiceFacts {
    pub(crate) fn of(service: &Service) -> Option<Self> {
        let selector = service.spec.as_ref()?.selector.clone().filter(|s| !s.is_empty())?;
        Some(Self { namespace: service.metadata.namespace.clone()?, selector })
    }

    pub(crate) fn selects(&self, pod: &PodFacts) -> bool {
        self.namespace == pod.namespace
            && self.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

fn amounts(quantities: &BTreeMap<String, WireQuantity>) -> Amounts {
    quantities
        .iter()
        .filter_map(|(name, quantity)| {
            let quantity: Quantity = quantity.0.parse().ok()?;
            let amount = if name == "cpu" { quantity.millis() } else { quantity.units() };
            Some((name.clone(), amount))
        })
        .collect()
}

/// What a container asks for; a limit without a request is one.
fn container_requests(container: &Container) -> Amounts {
    let Some(resources) = &container.resources else { return Amounts::new() };
    let mut wanted = resources.limits.as_ref().map(amounts).unwrap_or_default();
    wanted.extend(resources.requests.as_ref().map(amounts).unwrap_or_default());
    wanted
}

pub(crate) fn add(to: &mut Amounts, what: &Amounts) {
    for (name, amount) in what {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

pub(crate) fn subtract(from: &mut Amounts, what: &Amounts) {
    for (name, amount) in what {
        if let Some(rest) = from.get_mut(name) {
            *rest = rest.saturating_sub(*amount);
        }
    }
}

/// Containers run together, init containers one after the other before them; a restartable init
/// container keeps running beside all that come later.
fn requests(spec: &PodSpec) -> Amounts {
    let mut together = Amounts::new();
    let mut most = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let wanted = container_requests(container);
        let mut during = together.clone();
        add(&mut during, &wanted);
        if container.restart_policy.as_deref() == Some("Always") {
            together.clone_from(&during);
        }
        raise(&mut most, &during);
    }
    for container in &spec.containers {
        add(&mut together, &container_requests(container));
    }
    raise(&mut most, &together);
    add(&mut most, &spec.overhead.as_ref().map(amounts).unwrap_or_default());
    most
}

fn raise(most: &mut Amounts, to: &Amounts) {
    for (name, amount) in to {
        let known = most.entry(name.clone()).or_default();
        *known = (*known).max(*amount);
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut seen = HashSet::new();
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                address: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .filter(|port| seen.insert(port.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ResourceRequirements;

    fn container(cpu: &str, restart: Option<&str>) -> Container {
        Container {
            restart_policy: restart.map(str::to_owned),
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), WireQuantity(cpu.to_owned()))].into()),
                ..ResourceRequirements::default()
            }),
            ..Container::default()
        }
    }

    #[test]
    fn requests_add_up() {
        let table = [
            ("none", vec![], vec![], 0),
            ("sum", vec![], vec![container("2.5", None), container("100m", None)], 2600),
            ("large init", vec![container("4", None)], vec![container("1", None)], 4000),
            (
                "sidecar beside an init and the rest",
                vec![container("1", Some("Always")), container("2", None)],
                vec![container("500m", None)],
                3000,
            ),
        ];
        for (name, init, containers, expected) in table {
            let spec = PodSpec { init_containers: Some(init), containers, ..PodSpec::default() };
            assert_eq!(requests(&spec).get("cpu").copied().unwrap_or(0), expected, "{name}");
        }
    }

    #[test]
    fn a_node_that_never_reported_takes_nothing() {
        let facts = NodeFacts::of(&Node::default());
        assert_eq!(facts.taints[0].key, NOT_READY);
    }
}
