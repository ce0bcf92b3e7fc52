//! Resource requests and limits as the kernel takes them, and the pod's quality-of-service class.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::sys::resource::{Resource, getrlimit};

const CPU_PERIOD_MICROS: u64 = 100_000;
/// The kernel's smallest cpu shares, and what a container without a request gets.
const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;
const CPU_QUOTA_MIN_MICROS: i64 = 1_000;
const OPEN_FILES_MAX: u64 = 1_048_576;
const OOM_SCORE_MIN: i32 = -1000;

/// A container's limits in the units of the OCI specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupLimits {
    pub(crate) cpu_shares: u64,
    pub(crate) cpu_quota: Option<i64>,
    pub(crate) cpu_period: u64,
    pub(crate) memory_limit: Option<i64>,
    pub(crate) oom_score_adj: i32,
    pub(crate) open_files: u64,
}

/// How Kubernetes ranks a pod when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QosClass {
    /// Every container limits cpu and memory and asks for just that.
    Guaranteed,
    /// Some container asks for or limits something.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl QosClass {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

type Quantities = BTreeMap<String, Quantity>;

/// A quantity in thousandths, rounded up; `None` when it is not a quantity.
pub(crate) fn thousandths(quantity: &Quantity) -> Option<i64> {
    let text = quantity.0.trim();
    let split = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && "+-".contains(*c))))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor: f64 = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?;
            10f64.powi(power.parse().ok()?)
        }
    };
    // Binary fractions such as 0.1 must not round up to the next thousandth.
    Some((number * factor * 1000.0 - 1e-6).ceil() as i64)
}

fn get(quantities: Option<&Quantities>, name: &str) -> Option<i64> {
    quantities?.get(name).and_then(thousandths)
}

fn limits_of(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref()?.limits.as_ref()
}

fn requests_of(container: &Container) -> Option<&Quantities> {
    container.resources.as_ref()?.requests.as_ref()
}

/// A request that is not given equals the limit, as the API defines it.
fn request(container: &Container, name: &str) -> Option<i64> {
    get(requests_of(container), name).or_else(|| get(limits_of(container), name))
}

pub(crate) fn qos_class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let names = ["cpu", "memory"];
    let asks = |container: &Container| {
        names.iter().any(|name| request(container, name).is_some_and(|amount| amount > 0))
    };
    let guaranteed = |container: &Container| {
        names.iter().all(|name| {
            let limit = get(limits_of(container), name);
            limit.is_some_and(|limit| limit > 0) && request(container, name) == limit
        })
    };
    if !containers().any(asks) {
        QosClass::BestEffort
    } else if containers().all(guaranteed) {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// What the node allows: its memory, and what the agent, and so containerd, may hand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeLimits {
    /// Bytes; scales out-of-memory scores.
    pub(crate) memory: u64,
    /// The lowest out-of-memory score that a process may be given here.
    pub(crate) oom_score_floor: i32,
    /// How many files a container's process may have open.
    pub(crate) open_files: u64,
}

impl NodeLimits {
    /// Root in a container itself may have less than all of root's rights; runc fails then on what
    /// a whole machine allows.
    pub(crate) fn discover(memory: u64) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let own = own.trim().parse().unwrap_or(0);
        let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(OPEN_FILES_MAX, |(_, hard)| hard);
        Self {
            memory,
            oom_score_floor: if may_raise_limits(&status) { OOM_SCORE_MIN } else { own },
            open_files: hard.min(OPEN_FILES_MAX),
        }
    }
}

/// CAP_SYS_RESOURCE is among the effective capabilities.
fn may_raise_limits(proc_status: &str) -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let mut lines = proc_status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & (1 << CAP_SYS_RESOURCE) != 0)
}

pub(crate) fn cgroup_limits(
    qos: QosClass,
    container: &Container,
    node: NodeLimits,
) -> CgroupLimits {
    let shares = request(container, "cpu").map_or(CPU_SHARES_MIN, |milli| {
        let shares = u64::try_from(milli).unwrap_or(0) * 1024 / 1000;
        shares.clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
    });
    let quota = get(limits_of(container), "cpu")
        .filter(|milli| *milli > 0)
        .map(|milli| (milli * CPU_PERIOD_MICROS as i64 / 1000).max(CPU_QUOTA_MIN_MICROS));
    let memory = get(limits_of(container), "memory").filter(|milli| *milli > 0);
    CgroupLimits {
        cpu_shares: shares,
        cpu_quota: quota,
        cpu_period: CPU_PERIOD_MICROS,
        memory_limit: memory.map(|milli| milli / 1000),
        oom_score_adj: oom_score(qos, request(container, "memory"), node.memory)
            .max(node.oom_score_floor),
        open_files: node.open_files,
    }
}

/// The kernel kills best-effort containers first, then those that use more than they asked for.
fn oom_score(qos: QosClass, memory_request: Option<i64>, node_memory: u64) -> i32 {
    match qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let asked = u64::try_from(memory_request.unwrap_or(0) / 1000).unwrap_or(0);
            let share = asked.saturating_mul(1000) / node_memory.max(1);
            (1000 - i32::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let map = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())));
            Some(pairs.collect::<Quantities>())
        };
        let mut container = Container::default();
        let resources = container.resources.get_or_insert_default();
        resources.requests = map(requests);
        resources.limits = map(limits);
        container
    }

    fn pod(container: Container) -> Pod {
        let mut pod = Pod::default();
        pod.spec.get_or_insert_default().containers = vec![container];
        pod
    }

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.1", Some(100)),
            ("2.5", Some(2500)),
            ("4Gi", Some(4 * 1024 * 1024 * 1024 * 1000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1n", Some(1)),
            ("", None),
            ("x", None),
            ("1 Gi", None),
        ] {
            assert_eq!(thousandths(&Quantity(text.to_owned())), expected, "{text}");
        }
    }

    #[test]
    fn limits_and_classes() {
        let node =
            NodeLimits { memory: 16 << 30, oom_score_floor: OOM_SCORE_MIN, open_files: 1024 };
        let both = container(&[], &[("cpu", "2.5"), ("memory", "4Gi")]);
        let class = qos_class(&pod(both.clone()));
        assert_eq!(class, QosClass::Guaranteed);
        assert_eq!(
            cgroup_limits(class, &both, node),
            CgroupLimits {
                cpu_shares: 2560,
                cpu_quota: Some(250_000),
                cpu_period: 100_000,
                memory_limit: Some(4 << 30),
                oom_score_adj: -997,
                open_files: 1024,
            }
        );
        let some = container(&[("memory", "4Gi")], &[]);
        let class = qos_class(&pod(some.clone()));
        assert_eq!(class, QosClass::Burstable);
        let limits = cgroup_limits(class, &some, node);
        assert_eq!((limits.cpu_shares, limits.oom_score_adj), (2, 750));
        assert_eq!(limits.memory_limit, None);
        let none = Container::default();
        let class = qos_class(&pod(none.clone()));
        assert_eq!(class, QosClass::BestEffort);
        assert_eq!(cgroup_limits(class, &none, node).oom_score_adj, 1000);
        let confined = NodeLimits { oom_score_floor: 0, ..node };
        assert_eq!(cgroup_limits(QosClass::Guaranteed, &both, confined).oom_score_adj, 0);
    }

    #[test]
    fn the_right_to_raise_limits() {
        assert!(may_raise_limits("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_raise_limits("CapEff:\t00000000a80425fb\n"));
        assert!(!may_raise_limits(""));
    }
}
