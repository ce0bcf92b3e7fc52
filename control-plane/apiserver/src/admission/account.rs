//! The service account of a new pod: it must be there, and its image pull secrets are the pod's.
//!
//! Guarantees: a pod that comes right after its namespace does not fail because the controller has
//! yet to make the account `default`: it waits for it, for [`WAIT`]. Not here: volumes with tokens.

use super::pod::DEFAULT_SERVICE_ACCOUNT;
use crate::objects::Place;
use crate::watch::{Caches, Object};
use bowline_api::object;
use bowline_api::resource::find;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// As long as other servers wait for it.
const WAIT: Duration = Duration::from_millis(1500);

fn account(caches: &Caches, namespace: &str, name: &str) -> Option<Arc<Object>> {
    let accounts = caches.of(find("", "v1", "serviceaccounts")?);
    accounts.get(&format!("{namespace}/{name}"))
}

/// The name of the account in a pod's spec; empty when it names none.
pub(super) fn named(spec: &Value) -> &str {
    let fields = ["serviceAccountName", "serviceAccount"].iter();
    let mut names = fields.filter_map(|field| spec[*field].as_str());
    names.find(|name| !name.is_empty()).unwrap_or_default()
}

/// Waits until the account `default` is there, if the pod is to run as it.
pub(super) async fn wait(caches: &Caches, place: &Place, pod: &Value) {
    let is_default = matches!(named(&pod["spec"]), "" | DEFAULT_SERVICE_ACCOUNT);
    let Some(namespaces) = find("", "v1", "namespaces") else { return };
    let namespace = || caches.of(namespaces).get(&place.namespace);
    let is_missing = || account(caches, &place.namespace, DEFAULT_SERVICE_ACCOUNT).is_none();
    let mut applied = caches.subscribe();
    let appears = async {
        // One that ends or is not there gets no account any more.
        while is_missing()
            && namespace().is_some_and(|it| object::deletion_timestamp(&it.value).is_none())
        {
            if applied.changed().await.is_err() {
                return;
            }
        }
    };
    if is_default {
        // If it is not there then, the pod is told so.
        let _ = tokio::time::timeout(WAIT, appears).await;
    }
}

/// Refuses a pod without an account, and gives it what its account has.
pub(super) fn admit(caches: &Caches, place: &Place, pod: &mut Value) -> Result<(), Status> {
    let name = named(&pod["spec"]).to_owned();
    let namespace = place.namespace.as_str();
    let Some(account) = account(caches, namespace, &name) else {
        let cause = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not \
             found"
        );
        return Err(Status::forbidden(place.resource, object::name(pod), &cause));
    };
    let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let secrets = &account.value["imagePullSecrets"];
    if is_empty(&pod["spec"]["imagePullSecrets"]) && !is_empty(secrets) {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}
