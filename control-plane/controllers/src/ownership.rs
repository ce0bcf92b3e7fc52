//! Who controls an object: reading, taking and giving up controller references.
//!
//! Guarantees: an object is taken only if it has no other controller and has not changed since it
//! was seen (its resource version goes with the patch).

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::core::Resource;
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use crate::cache::Key;
use crate::failure::{Doing, SyncFailed};

pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The key of the controller, if it is of the kind `K`.
pub(crate) fn controller_key<K>(meta: &ObjectMeta) -> Option<Key>
where
    K: Resource<DynamicType = ()>,
{
    let owner = controller_of(meta)?;
    (owner.kind == K::kind(&()) && owner.api_version == K::api_version(&()))
        .then(|| Key::new(meta.namespace.as_deref().unwrap_or_default(), &owner.name))
}

pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    uid.is_some() && controller_of(meta).map(|owner| owner.uid.as_str()) == uid
}

/// The reference that makes `owner` the controller of what it creates or adopts.
pub(crate) fn controller_reference<K>(owner: &K) -> Option<OwnerReference>
where
    K: Resource<DynamicType = ()>,
{
    Some(OwnerReference { block_owner_deletion: Some(true), ..owner.controller_owner_ref(&())? })
}

/// What to do with an object in reach of a controller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

/// Decides by the references and by whether the selector of the controller matches.
pub(crate) fn claim(
    meta: &ObjectMeta,
    owner_uid: &str,
    owner_leaves: bool,
    selected: bool,
) -> Claim {
    match controller_of(meta) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if selected || owner_leaves => Claim::Keep,
        Some(_) => Claim::Release,
        None if selected && !owner_leaves && meta.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Writes a new list of owners onto an object that has not changed since it was seen.
pub(crate) async fn write_owners<K>(
    client: &Client,
    meta: &ObjectMeta,
    act: &'static str,
    owners: &[OwnerReference],
) -> Result<Option<K>, SyncFailed>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let key = Key::of(meta);
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let patch = serde_json::json!({ "metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        // An empty list would stay as one; null takes the field away.
        "ownerReferences": (!owners.is_empty()).then_some(owners),
    }});
    api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await.if_found(act, &key)
}

/// The owners after adoption by `controller`.
pub(crate) fn with_owner(meta: &ObjectMeta, controller: OwnerReference) -> Vec<OwnerReference> {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != controller.uid);
    owners.push(controller);
    owners
}

/// The owners without the one of this uid.
pub(crate) fn without_owner(meta: &ObjectMeta, uid: &str) -> Vec<OwnerReference> {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != uid);
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{pod, terminating};

    #[test]
    fn claims() {
        let owned = |uid: &str| {
            let mut meta = pod("a").metadata;
            meta.owner_references = Some(vec![OwnerReference {
                uid: uid.into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]);
            meta
        };
        let table = [
            ("ours", owned("me"), false, true, Claim::Keep),
            ("ours, labels changed", owned("me"), false, false, Claim::Release),
            ("ours, but we are being deleted", owned("me"), true, false, Claim::Keep),
            ("another's", owned("you"), false, true, Claim::Ignore),
            ("orphan", pod("a").metadata, false, true, Claim::Adopt),
            ("orphan, but we are being deleted", pod("a").metadata, true, true, Claim::Ignore),
            ("leaving orphan", terminating(pod("a")).metadata, false, true, Claim::Ignore),
            ("stranger", pod("a").metadata, false, false, Claim::Ignore),
        ];
        for (name, meta, leaves, selected, expected) in table {
            assert_eq!(claim(&meta, "me", leaves, selected), expected, "{name}");
        }
    }
}
