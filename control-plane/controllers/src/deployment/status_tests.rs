//! The conditions along a rollout.

use super::*;
use crate::pods::samples::time;
use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn deployment(replicas: i32) -> Deployment {
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            generation: Some(2),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            progress_deadline_seconds: Some(60),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn set_of(replicas: i32, available: i32) -> Arc<ReplicaSet> {
    Arc::new(ReplicaSet {
        metadata: ObjectMeta { name: Some("web-5d9".into()), ..ObjectMeta::default() },
        spec: Some(ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() }),
        status: Some(ReplicaSetStatus {
            replicas,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            ..ReplicaSetStatus::default()
        }),
    })
}

fn condition(status: &DeploymentStatus, type_: &str) -> (String, String) {
    let all = status.conditions.as_ref().unwrap();
    let found = all.iter().find(|condition| condition.type_ == type_).unwrap();
    (found.status.clone(), found.reason.clone().unwrap())
}

fn look(deployment: &mut Deployment, available: i32, second: i64) -> Option<Duration> {
    let set = set_of(3, available);
    let (status, again) =
        next(deployment, Some(&set), std::slice::from_ref(&set), &Found::default(), time(second));
    deployment.status = Some(status);
    again
}

fn said(deployment: &Deployment, type_: &str) -> (String, String) {
    condition(deployment.status.as_ref().unwrap(), type_)
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn a_rollout_that_works() {
    let mut deployment = deployment(3);
    assert_eq!(look(&mut deployment, 0, 0), Some(Duration::from_secs(60)));
    assert_eq!(said(&deployment, "Available"), is("False", "MinimumReplicasUnavailable"));
    assert_eq!(said(&deployment, "Progressing"), is("True", "ReplicaSetUpdated"));
    look(&mut deployment, 2, 5);
    look(&mut deployment, 3, 9);
    assert_eq!(said(&deployment, "Available"), is("True", "MinimumReplicasAvailable"));
    assert_eq!(said(&deployment, "Progressing"), is("True", "NewReplicaSetAvailable"));
    let settled = deployment.status.clone();
    look(&mut deployment, 3, 99);
    assert_eq!(deployment.status, settled, "nothing is written for nothing");
}

#[test]
fn a_rollout_that_hangs() {
    let mut deployment = deployment(3);
    look(&mut deployment, 1, 0);
    let again = look(&mut deployment, 1, 20).unwrap();
    assert_eq!(again.as_secs(), 40);
    assert_eq!(said(&deployment, "Progressing"), is("True", "ReplicaSetUpdated"));
    assert_eq!(look(&mut deployment, 1, 61), None);
    assert_eq!(said(&deployment, "Progressing"), is("False", "ProgressDeadlineExceeded"));
    look(&mut deployment, 2, 70);
    assert_eq!(said(&deployment, "Progressing"), is("True", "ReplicaSetUpdated"));
}

#[test]
fn counts_add_up_over_the_replica_sets() {
    let deployment = deployment(4);
    let (new, old) = (set_of(2, 1), set_of(3, 3));
    let (status, _) =
        next(&deployment, Some(&new), &[new.clone(), old], &Found::default(), time(0));
    assert_eq!(status.replicas, Some(5));
    assert_eq!(status.updated_replicas, Some(2));
    assert_eq!(status.available_replicas, Some(4));
    assert_eq!(status.unavailable_replicas, Some(1));
    assert_eq!(status.observed_generation, Some(2));
}
