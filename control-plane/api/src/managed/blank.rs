//! Fields that are nobody's because every object has them.
//!
//! Typed clients of an API write every object that is no pointer, empty as it may be; so the fields
//! that lead to those never come nor go, and only what is inside them is somebody's. The schemas do
//! not tell which these are: this is one row a kind. A kind without a row has none.

use super::set::Set;

/// The fields of a schema that every object has, as paths with dots; and where it has a template of
/// pods.
fn standing(schema: &str) -> (&'static [&'static str], Option<&'static str>) {
    match schema.strip_prefix("io.k8s.api.").unwrap_or_default() {
        "core.v1.Pod" => (&["spec", "spec.containers", "status"], None),
        "core.v1.Service" | "networking.v1.Ingress" => {
            (&["spec", "status", "status.loadBalancer"], None)
        }
        "core.v1.Node" => (
            &[
                "spec",
                "status",
                "status.daemonEndpoints",
                "status.daemonEndpoints.kubeletEndpoint",
                "status.nodeInfo",
            ],
            None,
        ),
        "core.v1.Namespace"
        | "core.v1.ReplicationController"
        | "core.v1.ResourceQuota"
        | "core.v1.PersistentVolume"
        | "policy.v1.PodDisruptionBudget"
        | "networking.v1.ServiceCIDR" => (&["spec", "status"], None),
        "core.v1.PersistentVolumeClaim" => (&["spec", "spec.resources", "status"], None),
        "core.v1.LimitRange" => (&["spec", "spec.limits"], None),
        "core.v1.PodTemplate" => (&[], Some("template")),
        "core.v1.Event" => (&["involvedObject", "source"], None),
        "events.v1.Event" => (&["regarding", "deprecatedSource"], None),
        "apps.v1.ReplicaSet" | "batch.v1.Job" => (&["spec", "status"], Some("spec.template")),
        "apps.v1.Deployment" => (&["spec", "spec.strategy", "status"], Some("spec.template")),
        "apps.v1.DaemonSet" | "apps.v1.StatefulSet" => {
            (&["spec", "spec.updateStrategy", "status"], Some("spec.template"))
        }
        "batch.v1.CronJob" => (
            &[
                "spec",
                "spec.jobTemplate",
                "spec.jobTemplate.metadata",
                "spec.jobTemplate.spec",
                "status",
            ],
            Some("spec.jobTemplate.spec.template"),
        ),
        "autoscaling.v1.HorizontalPodAutoscaler" => {
            (&["spec", "spec.scaleTargetRef", "status"], None)
        }
        "autoscaling.v2.HorizontalPodAutoscaler" => {
            (&["spec", "spec.scaleTargetRef", "status", "status.currentMetrics"], None)
        }
        "coordination.v1.Lease"
        | "networking.v1.IngressClass"
        | "networking.v1.NetworkPolicy"
        | "networking.v1.IPAddress"
        | "storage.v1.CSIDriver" => (&["spec"], None),
        "storage.v1.CSINode" => (&["spec", "spec.drivers"], None),
        "storage.v1.VolumeAttachment" => (&["spec", "spec.source", "status"], None),
        "discovery.v1.EndpointSlice" => (&["endpoints", "ports"], None),
        _ => (&[], None),
    }
}

/// What every pod template has.
const OF_A_TEMPLATE: [&[&str]; 4] = [&[], &["metadata"], &["spec"], &["spec", "containers"]];

/// Takes the fields that every object has out of what a write changed; what is inside them stays.
pub(super) fn discard(schema: &str, set: &mut Set) {
    let (paths, template) = standing(schema);
    for path in paths {
        discard_path(&steps(path), set);
    }
    if let Some(template) = template {
        for path in OF_A_TEMPLATE {
            discard_path(&[steps(template), path.to_vec()].concat(), set);
        }
    }
}

fn steps(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

fn discard_path(path: &[&str], set: &mut Set) {
    match path {
        [] => {}
        [last] => set.discard_fields(&[*last]),
        [first, rest @ ..] => set.with_field(first, |below| discard_path(rest, below)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::RESOURCES;
    use crate::schema::{Shape, graph};

    #[test]
    fn every_path_is_one_of_the_schema() {
        fn exists(schema: &str, path: &[&str]) -> bool {
            let mut of = Some(schema);
            path.iter().all(|step| {
                let field = of.and_then(|name| graph().fields(name)).and_then(|it| it.get(*step));
                of = match field.map(|field| &field.shape) {
                    Some(Shape::Type(name)) => Some(name),
                    _ => None,
                };
                field.is_some()
            })
        }
        let mut templates = 0;
        for resource in RESOURCES {
            let (paths, template) = standing(resource.schema);
            for path in paths {
                assert!(exists(resource.schema, &steps(path)), "{} {path}", resource.kind);
            }
            let Some(template) = template else { continue };
            templates += 1;
            let containers = [steps(template), vec!["spec", "containers"]].concat();
            assert!(exists(resource.schema, &containers), "{} {template}", resource.kind);
        }
        assert_eq!(templates, 7);
    }
}
