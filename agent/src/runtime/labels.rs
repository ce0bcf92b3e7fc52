//! What the agent writes on a container so that it can be recognised after a restart.
//!
//! Guarantee: [`ContainerKey::id`] is a function of the key, so creating the same attempt twice
//! meets the same container and never makes a second one.

use std::str::FromStr;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{Ended, Labels};

const POD_UID: &str = "bowline.pod.uid";
const POD_NAMESPACE: &str = "bowline.pod.namespace";
const POD_NAME: &str = "bowline.pod.name";
const CONTAINER: &str = "bowline.container.name";
const ATTEMPT: &str = "bowline.container.attempt";
const IMAGE_ID: &str = "bowline.container.image-id";
const END_CODE: &str = "bowline.end.code";
const END_REASON: &str = "bowline.end.reason";
const END_MESSAGE: &str = "bowline.end.message";
const END_STARTED: &str = "bowline.end.started";
const END_FINISHED: &str = "bowline.end.finished";

/// containerd limits a label's key and value to 4096 bytes together.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Which container this is: one attempt at running one container of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContainerKey {
    pub(crate) pod_uid: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
    /// Counts from 0; equals the restart count while the attempt runs.
    pub(crate) attempt: u32,
}

impl ContainerKey {
    /// The container's identifier in the runtime: 64 hexadecimal digits.
    pub(crate) fn id(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.pod_uid, &self.container, &self.attempt.to_string()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn to_labels(&self, image_id: &str) -> Labels {
        [
            (POD_UID, self.pod_uid.clone()),
            (POD_NAMESPACE, self.namespace.clone()),
            (POD_NAME, self.pod.clone()),
            (CONTAINER, self.container.clone()),
            (ATTEMPT, self.attempt.to_string()),
            (IMAGE_ID, image_id.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// The key and the image's identifier, or `None` when the agent did not make this container.
    pub(super) fn from_labels(labels: &Labels) -> Option<(Self, String)> {
        let key = Self {
            pod_uid: labels.get(POD_UID)?.clone(),
            namespace: labels.get(POD_NAMESPACE)?.clone(),
            pod: labels.get(POD_NAME)?.clone(),
            container: labels.get(CONTAINER)?.clone(),
            attempt: labels.get(ATTEMPT)?.parse().ok()?,
        };
        Some((key, labels.get(IMAGE_ID).cloned().unwrap_or_default()))
    }
}

/// The filter expression that finds the agent's containers.
pub(super) fn ours_filter() -> String {
    format!("labels.\"{POD_UID}\"")
}

pub(super) fn end_to_labels(end: &Ended) -> Labels {
    let mut message = end.message.clone();
    if message.len() > MESSAGE_BYTES_MAX {
        let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(cut.unwrap_or(0));
    }
    let mut labels = Labels::from(
        [
            (END_CODE, end.code.to_string()),
            (END_REASON, end.reason.clone()),
            (END_MESSAGE, message),
            (END_FINISHED, end.finished_at.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    if let Some(started) = end.started_at {
        labels.insert(END_STARTED.to_owned(), started.to_string());
    }
    labels
}

pub(super) fn end_from_labels(labels: &Labels) -> Option<Ended> {
    Some(Ended {
        code: labels.get(END_CODE)?.parse().ok()?,
        reason: labels.get(END_REASON).cloned().unwrap_or_default(),
        message: labels.get(END_MESSAGE).cloned().unwrap_or_default(),
        started_at: labels.get(END_STARTED).and_then(|at| Timestamp::from_str(at).ok()),
        finished_at: Timestamp::from_str(labels.get(END_FINISHED)?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ContainerKey {
        ContainerKey {
            pod_uid: "0b2f".into(),
            namespace: "default".into(),
            pod: "web".into(),
            container: "app".into(),
            attempt: 3,
        }
    }

    #[test]
    fn a_key_survives_its_labels() {
        let labels = key().to_labels("registry/x@sha256:1");
        assert_eq!(
            ContainerKey::from_labels(&labels),
            Some((key(), "registry/x@sha256:1".to_owned()))
        );
    }

    #[test]
    fn foreign_containers_are_not_ours() {
        assert_eq!(ContainerKey::from_labels(&Labels::new()), None);
    }

    #[test]
    fn each_attempt_has_its_own_id() {
        let next = ContainerKey { attempt: 4, ..key() };
        assert_eq!(key().id(), key().id());
        assert_ne!(key().id(), next.id());
        assert_eq!(key().id().len(), 64);
    }

    #[test]
    fn an_end_survives_its_labels_and_a_long_message_is_cut() {
        let end = Ended {
            code: 137,
            reason: "OOMKilled".into(),
            message: "ä".repeat(2000),
            started_at: Some("2026-01-02T03:04:05.25Z".parse().unwrap()),
            finished_at: "2026-01-02T03:05:00Z".parse().unwrap(),
        };
        let read = end_from_labels(&end_to_labels(&end)).unwrap();
        assert_eq!(read.message.len(), MESSAGE_BYTES_MAX);
        assert_eq!(read, Ended { message: read.message.clone(), ..end });
    }
}
