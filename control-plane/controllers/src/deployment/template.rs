//! Pod templates: which replica set belongs to one, and the hash that names it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;

pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// No vowels and nothing that is read for another character.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The name part for a template; `collisions` sets two templates of one hash apart.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut text = serde_json::to_vec(template).unwrap_or_default();
    text.extend_from_slice(&collisions.to_le_bytes());
    // FNV-1a: names must not change from one release to the next, so no hasher of std.
    let number = text
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    number.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % 27])).collect()
}

/// Equal but for the hash label, which a replica set has and a deployment has not.
pub(super) fn is_same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn labels(template: &PodTemplateSpec) -> BTreeMap<&String, &String> {
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        labels.into_iter().flatten().filter(|(key, _)| *key != HASH_LABEL).collect()
    }
    fn annotations(template: &PodTemplateSpec) -> Option<&BTreeMap<String, String>> {
        template.metadata.as_ref()?.annotations.as_ref().filter(|a| !a.is_empty())
    }
    labels(a) == labels(b) && annotations(a) == annotations(b) && a.spec == b.spec
}

/// The replica set of the template: the oldest, should there be several.
pub(super) fn replica_set_of<'a, T: AsRef<ReplicaSet>>(
    template: &PodTemplateSpec,
    sets: &'a [T],
) -> Option<&'a T> {
    sets.iter()
        .filter(|set| {
            let spec = set.as_ref().spec.as_ref();
            spec.and_then(|spec| spec.template.as_ref()).is_some_and(|t| is_same(t, template))
        })
        .min_by_key(|set| set.as_ref().metadata.creation_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn template(labels: &[(&str, &str)], node: &str) -> PodTemplateSpec {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
            spec: Some(PodSpec { node_name: Some(node.into()), ..PodSpec::default() }),
        }
    }

    #[test]
    fn the_hash_label_does_not_count() {
        let plain = template(&[("app", "x")], "a");
        assert!(is_same(&plain, &template(&[("app", "x"), (HASH_LABEL, "5d9")], "a")));
        assert!(!is_same(&plain, &template(&[("app", "y")], "a")));
        assert!(!is_same(&plain, &template(&[("app", "x")], "b")));
    }

    #[test]
    fn hashes_are_stable_and_differ() {
        let plain = template(&[("app", "x")], "a");
        assert_eq!(hash(&plain, 0), hash(&plain.clone(), 0));
        assert_ne!(hash(&plain, 0), hash(&plain, 1));
        assert_ne!(hash(&plain, 0), hash(&template(&[("app", "x")], "b"), 0));
        assert!(hash(&plain, 0).bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
