//! What the types' schemas do not say: how lists merge.
//!
//! One row per field: the strategy of a strategic merge patch, and the list's type for server-side
//! merging (`x-kubernetes-list-type`). [`crate::patch`] and [`crate::managed`] act on the rows and
//! [`crate::openapi`] publishes them, so that a client computes patches by the same rules that the
//! server applies. A list without a row is replaced as a whole.

use std::collections::HashMap;
use std::sync::OnceLock;

/// How a field takes part in a patch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    type_name: &'static str,
    field: &'static str,
    /// The key that identifies an item; empty for a list of scalars.
    pub(crate) merge_key: &'static str,
    pub(crate) strategy: Strategy,
    pub(crate) list: ListType,
}

/// `x-kubernetes-patch-strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Replace,
    Merge,
    /// Merge items; an item's keys that the patch does not retain go away.
    MergeRetainKeys,
    /// An object whose keys that the patch does not retain go away.
    RetainKeys,
    /// An object that is replaced as a whole, though objects otherwise merge.
    ReplaceObject,
}

impl Strategy {
    /// As the extension spells it; a plain replacement is not spelled out.
    pub(crate) fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Replace => None,
            Self::Merge => Some("merge"),
            Self::MergeRetainKeys => Some("merge,retainKeys"),
            Self::RetainKeys => Some("retainKeys"),
            Self::ReplaceObject => Some("replace"),
        }
    }
}

/// `x-kubernetes-list-type` with `x-kubernetes-list-map-keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Not a list.
    None,
    Atomic,
    Set,
    Map(&'static [&'static str]),
}

/// The row of a field, if it has one.
pub(crate) fn fact(type_name: &str, field: &str) -> Option<&'static Fact> {
    static INDEX: OnceLock<HashMap<(&str, &str), &Fact>> = OnceLock::new();
    let index = INDEX
        .get_or_init(|| FACTS.iter().map(|fact| ((fact.type_name, fact.field), fact)).collect());
    index.get(&(type_name.strip_prefix("io.k8s.")?, field)).copied()
}

/// Whether every write replaces an object of this type as a whole (`x-kubernetes-map-type`).
pub(crate) fn is_atomic(type_name: &str) -> bool {
    type_name.strip_prefix("io.k8s.").is_some_and(|name| ATOMIC_TYPES.contains(&name))
}

/// Whether every write replaces the map at a field as a whole, whatever other maps do.
pub(crate) fn is_atomic_map(type_name: &str, field: &str) -> bool {
    type_name.strip_prefix("io.k8s.").is_some_and(|name| ATOMIC_MAPS.contains(&(name, field)))
}

/// What a key of a list's items is where an item leaves it out.
pub(crate) fn key_default(type_name: &str, field: &str) -> Option<&'static str> {
    let name = type_name.strip_prefix("io.k8s.")?;
    let found = KEY_DEFAULTS.iter().find(|(of, key, _)| *of == name && *key == field);
    found.map(|(_, _, default)| *default)
}

const fn merge(type_name: &'static str, field: &'static str, key: &'static [&'static str]) -> Fact {
    let list = ListType::Map(key);
    Fact { type_name, field, merge_key: key[0], strategy: Strategy::Merge, list }
}

const fn retain(
    type_name: &'static str,
    field: &'static str,
    key: &'static [&'static str],
) -> Fact {
    let list = ListType::Map(key);
    Fact { type_name, field, merge_key: key[0], strategy: Strategy::MergeRetainKeys, list }
}

/// Merged by a patch, replaced by an apply.
const fn merge_atomic(type_name: &'static str, field: &'static str, key: &'static str) -> Fact {
    let (strategy, list) = (Strategy::Merge, ListType::Atomic);
    Fact { type_name, field, merge_key: key, strategy, list }
}

/// Replaced by a patch, merged by an apply.
const fn keyed(type_name: &'static str, field: &'static str, key: &'static [&'static str]) -> Fact {
    let (strategy, list) = (Strategy::Replace, ListType::Map(key));
    Fact { type_name, field, merge_key: "", strategy, list }
}

const fn set(type_name: &'static str, field: &'static str) -> Fact {
    let (strategy, list) = (Strategy::Merge, ListType::Set);
    Fact { type_name, field, merge_key: "", strategy, list }
}

/// Replaced by a patch, merged by an apply.
const fn plain_set(type_name: &'static str, field: &'static str) -> Fact {
    let (strategy, list) = (Strategy::Replace, ListType::Set);
    Fact { type_name, field, merge_key: "", strategy, list }
}

const fn atomic(type_name: &'static str, field: &'static str) -> Fact {
    let (strategy, list) = (Strategy::Replace, ListType::Atomic);
    Fact { type_name, field, merge_key: "", strategy, list }
}

const NAME: &[&str] = &["name"];
const TYPE: &[&str] = &["type"];

static FACTS: &[Fact] = &[
    set("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers"),
    merge("apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
    atomic("apimachinery.pkg.apis.meta.v1.ObjectMeta", "managedFields"),
    atomic("apimachinery.pkg.apis.meta.v1.LabelSelector", "matchExpressions"),
    atomic("apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement", "values"),
    // Pods.
    retain("api.core.v1.PodSpec", "volumes", NAME),
    merge("api.core.v1.PodSpec", "initContainers", NAME),
    merge("api.core.v1.PodSpec", "containers", NAME),
    merge("api.core.v1.PodSpec", "ephemeralContainers", NAME),
    merge("api.core.v1.PodSpec", "imagePullSecrets", NAME),
    merge("api.core.v1.PodSpec", "hostAliases", &["ip"]),
    merge(
        "api.core.v1.PodSpec",
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    merge("api.core.v1.PodSpec", "schedulingGates", NAME),
    retain("api.core.v1.PodSpec", "resourceClaims", NAME),
    atomic("api.core.v1.PodSpec", "tolerations"),
    atomic("api.core.v1.PodSpec", "readinessGates"),
    merge("api.core.v1.PodStatus", "conditions", TYPE),
    merge("api.core.v1.PodStatus", "podIPs", &["ip"]),
    merge_atomic("api.core.v1.PodStatus", "hostIPs", "ip"),
    retain("api.core.v1.PodStatus", "resourceClaimStatuses", NAME),
    atomic("api.core.v1.PodStatus", "containerStatuses"),
    atomic("api.core.v1.PodStatus", "initContainerStatuses"),
    atomic("api.core.v1.PodStatus", "ephemeralContainerStatuses"),
    atomic("api.core.v1.LinuxContainerUser", "supplementalGroups"),
    merge("api.core.v1.Container", "env", NAME),
    merge("api.core.v1.Container", "ports", &["containerPort", "protocol"]),
    merge("api.core.v1.Container", "volumeMounts", &["mountPath"]),
    merge("api.core.v1.Container", "volumeDevices", &["devicePath"]),
    atomic("api.core.v1.Container", "args"),
    atomic("api.core.v1.Container", "command"),
    atomic("api.core.v1.Container", "envFrom"),
    atomic("api.core.v1.Container", "resizePolicy"),
    atomic("api.core.v1.Container", "restartPolicyRules"),
    merge("api.core.v1.EphemeralContainer", "env", NAME),
    merge("api.core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    merge("api.core.v1.EphemeralContainer", "volumeMounts", &["mountPath"]),
    merge("api.core.v1.EphemeralContainer", "volumeDevices", &["devicePath"]),
    atomic("api.core.v1.EphemeralContainer", "args"),
    atomic("api.core.v1.EphemeralContainer", "command"),
    atomic("api.core.v1.EphemeralContainer", "envFrom"),
    atomic("api.core.v1.EphemeralContainer", "resizePolicy"),
    atomic("api.core.v1.EphemeralContainer", "restartPolicyRules"),
    keyed("api.core.v1.ResourceRequirements", "claims", NAME),
    Fact {
        type_name: "api.core.v1.ContainerRestartRuleOnExitCodes",
        field: "values",
        merge_key: "",
        strategy: Strategy::Replace,
        list: ListType::Set,
    },
    merge("api.core.v1.ContainerStatus", "volumeMounts", &["mountPath"]),
    merge("api.core.v1.ContainerStatus", "allocatedResourcesStatus", NAME),
    keyed("api.core.v1.ResourceStatus", "resources", &["resourceID"]),
    atomic("api.core.v1.Capabilities", "add"),
    atomic("api.core.v1.Capabilities", "drop"),
    atomic("api.core.v1.ExecAction", "command"),
    atomic("api.core.v1.HTTPGetAction", "httpHeaders"),
    atomic("api.core.v1.HostAlias", "hostnames"),
    atomic("api.core.v1.PodDNSConfig", "nameservers"),
    atomic("api.core.v1.PodDNSConfig", "options"),
    atomic("api.core.v1.PodDNSConfig", "searches"),
    atomic("api.core.v1.PodSecurityContext", "supplementalGroups"),
    atomic("api.core.v1.PodSecurityContext", "sysctls"),
    atomic("api.core.v1.NodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("api.core.v1.NodeSelector", "nodeSelectorTerms"),
    atomic("api.core.v1.NodeSelectorTerm", "matchExpressions"),
    atomic("api.core.v1.NodeSelectorTerm", "matchFields"),
    atomic("api.core.v1.NodeSelectorRequirement", "values"),
    atomic("api.core.v1.PodAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("api.core.v1.PodAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("api.core.v1.PodAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("api.core.v1.PodAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("api.core.v1.PodAffinityTerm", "namespaces"),
    atomic("api.core.v1.PodAffinityTerm", "matchLabelKeys"),
    atomic("api.core.v1.PodAffinityTerm", "mismatchLabelKeys"),
    atomic("api.core.v1.TopologySpreadConstraint", "matchLabelKeys"),
    atomic("api.core.v1.ConfigMapVolumeSource", "items"),
    atomic("api.core.v1.SecretVolumeSource", "items"),
    atomic("api.core.v1.DownwardAPIVolumeSource", "items"),
    atomic("api.core.v1.ProjectedVolumeSource", "sources"),
    atomic("api.core.v1.ConfigMapProjection", "items"),
    atomic("api.core.v1.SecretProjection", "items"),
    atomic("api.core.v1.DownwardAPIProjection", "items"),
    atomic("api.core.v1.CephFSVolumeSource", "monitors"),
    atomic("api.core.v1.ISCSIVolumeSource", "portals"),
    atomic("api.core.v1.RBDVolumeSource", "monitors"),
    // Nodes and namespaces.
    set("api.core.v1.NodeSpec", "podCIDRs"),
    atomic("api.core.v1.NodeSpec", "taints"),
    merge("api.core.v1.NodeStatus", "conditions", TYPE),
    merge("api.core.v1.NodeStatus", "addresses", TYPE),
    atomic("api.core.v1.NodeStatus", "images"),
    atomic("api.core.v1.ContainerImage", "names"),
    atomic("api.core.v1.NodeStatus", "runtimeHandlers"),
    atomic("api.core.v1.NodeStatus", "volumesAttached"),
    atomic("api.core.v1.NodeStatus", "volumesInUse"),
    atomic("api.core.v1.NamespaceSpec", "finalizers"),
    merge("api.core.v1.NamespaceStatus", "conditions", TYPE),
    // Services and endpoints.
    merge("api.core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    atomic("api.core.v1.ServiceSpec", "clusterIPs"),
    atomic("api.core.v1.ServiceSpec", "externalIPs"),
    atomic("api.core.v1.ServiceSpec", "ipFamilies"),
    atomic("api.core.v1.ServiceSpec", "loadBalancerSourceRanges"),
    merge("api.core.v1.ServiceStatus", "conditions", TYPE),
    atomic("api.core.v1.LoadBalancerStatus", "ingress"),
    atomic("api.core.v1.LoadBalancerIngress", "ports"),
    atomic("api.core.v1.Endpoints", "subsets"),
    atomic("api.core.v1.EndpointSubset", "addresses"),
    atomic("api.core.v1.EndpointSubset", "notReadyAddresses"),
    atomic("api.core.v1.EndpointSubset", "ports"),
    atomic("api.discovery.v1.EndpointSlice", "endpoints"),
    atomic("api.discovery.v1.EndpointSlice", "ports"),
    plain_set("api.discovery.v1.Endpoint", "addresses"),
    atomic("api.discovery.v1.EndpointHints", "forNodes"),
    atomic("api.discovery.v1.EndpointHints", "forZones"),
    // Reviews.
    atomic("apimachinery.pkg.apis.meta.v1.FieldSelectorRequirement", "values"),
    atomic("api.authentication.v1.UserInfo", "groups"),
    atomic("api.authorization.v1.FieldSelectorAttributes", "requirements"),
    atomic("api.authorization.v1.LabelSelectorAttributes", "requirements"),
    atomic("api.authorization.v1.SubjectAccessReviewSpec", "groups"),
    atomic("api.authorization.v1.SubjectRulesReviewStatus", "resourceRules"),
    atomic("api.authorization.v1.SubjectRulesReviewStatus", "nonResourceRules"),
    atomic("api.authorization.v1.ResourceRule", "verbs"),
    atomic("api.authorization.v1.ResourceRule", "apiGroups"),
    atomic("api.authorization.v1.ResourceRule", "resources"),
    atomic("api.authorization.v1.ResourceRule", "resourceNames"),
    atomic("api.authorization.v1.NonResourceRule", "verbs"),
    atomic("api.authorization.v1.NonResourceRule", "nonResourceURLs"),
    // Accounts.
    merge("api.core.v1.ServiceAccount", "secrets", NAME),
    atomic("api.core.v1.ServiceAccount", "imagePullSecrets"),
    // Controllers.
    merge("api.core.v1.ReplicationControllerStatus", "conditions", TYPE),
    merge("api.apps.v1.ReplicaSetStatus", "conditions", TYPE),
    merge("api.apps.v1.DeploymentStatus", "conditions", TYPE),
    merge("api.apps.v1.DaemonSetStatus", "conditions", TYPE),
    merge("api.apps.v1.StatefulSetStatus", "conditions", TYPE),
    atomic("api.apps.v1.StatefulSetSpec", "volumeClaimTemplates"),
    // Jobs.
    merge_atomic("api.batch.v1.JobStatus", "conditions", "type"),
    plain_set("api.batch.v1.UncountedTerminatedPods", "failed"),
    plain_set("api.batch.v1.UncountedTerminatedPods", "succeeded"),
    atomic("api.batch.v1.PodFailurePolicy", "rules"),
    atomic("api.batch.v1.PodFailurePolicyRule", "onPodConditions"),
    plain_set("api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values"),
    atomic("api.batch.v1.SuccessPolicy", "rules"),
    atomic("api.batch.v1.CronJobStatus", "active"),
    // How many pods run, and where.
    merge("api.policy.v1.PodDisruptionBudgetStatus", "conditions", TYPE),
    Fact {
        type_name: "api.policy.v1.PodDisruptionBudgetSpec",
        field: "selector",
        merge_key: "",
        strategy: Strategy::ReplaceObject,
        list: ListType::None,
    },
    atomic("api.autoscaling.v2.HorizontalPodAutoscalerSpec", "metrics"),
    merge("api.autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", TYPE),
    atomic("api.autoscaling.v2.HorizontalPodAutoscalerStatus", "currentMetrics"),
    atomic("api.autoscaling.v2.HPAScalingRules", "policies"),
    atomic("api.node.v1.Scheduling", "tolerations"),
    Fact {
        type_name: "api.apps.v1.DeploymentSpec",
        field: "strategy",
        merge_key: "",
        strategy: Strategy::RetainKeys,
        list: ListType::None,
    },
    // Quotas and limits.
    atomic("api.core.v1.ResourceQuotaSpec", "scopes"),
    atomic("api.core.v1.ScopeSelector", "matchExpressions"),
    atomic("api.core.v1.ScopedResourceSelectorRequirement", "values"),
    atomic("api.core.v1.LimitRangeSpec", "limits"),
    // Volumes, claims and storage drivers.
    atomic("api.core.v1.PersistentVolumeSpec", "accessModes"),
    atomic("api.core.v1.PersistentVolumeSpec", "mountOptions"),
    atomic("api.core.v1.CephFSPersistentVolumeSource", "monitors"),
    atomic("api.core.v1.FCVolumeSource", "targetWWNs"),
    atomic("api.core.v1.FCVolumeSource", "wwids"),
    atomic("api.core.v1.ISCSIPersistentVolumeSource", "portals"),
    atomic("api.core.v1.RBDPersistentVolumeSource", "monitors"),
    atomic("api.core.v1.PersistentVolumeClaimSpec", "accessModes"),
    atomic("api.core.v1.PersistentVolumeClaimStatus", "accessModes"),
    merge("api.core.v1.PersistentVolumeClaimStatus", "conditions", TYPE),
    atomic("api.core.v1.TopologySelectorTerm", "matchLabelExpressions"),
    atomic("api.core.v1.TopologySelectorLabelRequirement", "values"),
    atomic("api.storage.v1.StorageClass", "allowedTopologies"),
    atomic("api.storage.v1.StorageClass", "mountOptions"),
    atomic("api.storage.v1.CSIDriverSpec", "tokenRequests"),
    // A set that a strategic merge patch replaces all the same.
    Fact {
        type_name: "api.storage.v1.CSIDriverSpec",
        field: "volumeLifecycleModes",
        merge_key: "",
        strategy: Strategy::Replace,
        list: ListType::Set,
    },
    merge("api.storage.v1.CSINodeSpec", "drivers", NAME),
    atomic("api.storage.v1.CSINodeDriver", "topologyKeys"),
    // Networking.
    atomic("api.networking.v1.IngressSpec", "rules"),
    atomic("api.networking.v1.IngressSpec", "tls"),
    atomic("api.networking.v1.IngressTLS", "hosts"),
    atomic("api.networking.v1.HTTPIngressRuleValue", "paths"),
    atomic("api.networking.v1.IngressLoadBalancerStatus", "ingress"),
    atomic("api.networking.v1.IngressLoadBalancerIngress", "ports"),
    atomic("api.networking.v1.NetworkPolicySpec", "ingress"),
    atomic("api.networking.v1.NetworkPolicySpec", "egress"),
    atomic("api.networking.v1.NetworkPolicySpec", "policyTypes"),
    atomic("api.networking.v1.NetworkPolicyIngressRule", "from"),
    atomic("api.networking.v1.NetworkPolicyIngressRule", "ports"),
    atomic("api.networking.v1.NetworkPolicyEgressRule", "to"),
    atomic("api.networking.v1.NetworkPolicyEgressRule", "ports"),
    atomic("api.networking.v1.IPBlock", "except"),
    atomic("api.networking.v1.ServiceCIDRSpec", "cidrs"),
    merge("api.networking.v1.ServiceCIDRStatus", "conditions", TYPE),
];

static ATOMIC_TYPES: &[&str] = &[
    "apimachinery.pkg.apis.meta.v1.LabelSelector",
    "apimachinery.pkg.apis.meta.v1.OwnerReference",
    "api.autoscaling.v1.CrossVersionObjectReference",
    "api.core.v1.ConfigMapKeySelector",
    "api.core.v1.EndpointAddress",
    "api.core.v1.EndpointPort",
    "api.core.v1.FileKeySelector",
    "api.core.v1.LocalObjectReference",
    "api.core.v1.NodeSelector",
    "api.core.v1.NodeSelectorTerm",
    "api.core.v1.ObjectFieldSelector",
    "api.core.v1.ObjectReference",
    "api.core.v1.ResourceFieldSelector",
    "api.core.v1.ScopeSelector",
    "api.core.v1.SecretKeySelector",
    "api.core.v1.SecretReference",
    "api.core.v1.TopologySelectorTerm",
    "api.core.v1.TypedLocalObjectReference",
    "api.discovery.v1.EndpointPort",
    "api.networking.v1.ServiceBackendPort",
];

static ATOMIC_MAPS: &[(&str, &str)] = &[
    ("api.core.v1.PodSpec", "nodeSelector"),
    ("api.core.v1.ReplicationControllerSpec", "selector"),
    ("api.core.v1.ServiceSpec", "selector"),
    ("api.node.v1.Scheduling", "nodeSelector"),
];

static KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("api.core.v1.ContainerPort", "protocol", "TCP"),
    ("api.core.v1.LocalObjectReference", "name", ""),
    ("api.core.v1.ServicePort", "protocol", "TCP"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Shape, graph};

    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        for fact in FACTS {
            let name = format!("io.k8s.{}", fact.type_name);
            let fields = graph().fields(&name).unwrap_or_else(|| panic!("no type {name}"));
            let field = fields.get(fact.field);
            let field = field.unwrap_or_else(|| panic!("no {name}.{}", fact.field));
            let is_list = matches!(field.shape, Shape::List(_));
            assert_eq!(is_list, fact.list != ListType::None, "{name}.{}", fact.field);
            if let (Shape::List(item), ListType::Map(keys)) = (&field.shape, fact.list) {
                let Shape::Type(item) = &**item else { panic!("{name}.{}", fact.field) };
                for key in keys {
                    assert!(graph().fields(item).unwrap().contains_key(*key), "{item}.{key}");
                }
            }
        }
    }

    #[test]
    fn every_atomic_type_exists() {
        for name in ATOMIC_TYPES {
            let name = format!("io.k8s.{name}");
            assert!(graph().fields(&name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_atomic_map_and_every_defaulted_key_exists() {
        for (name, field) in ATOMIC_MAPS {
            let name = format!("io.k8s.{name}");
            let found = graph().fields(&name).and_then(|fields| fields.get(*field));
            assert!(matches!(found.unwrap().shape, Shape::Map(_)), "{name}.{field}");
        }
        for (name, field, _) in KEY_DEFAULTS {
            let name = format!("io.k8s.{name}");
            assert!(graph().fields(&name).unwrap().contains_key(*field), "{name}.{field}");
        }
    }
}
