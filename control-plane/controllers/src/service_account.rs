//! Gives each namespace the service account `default`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::queue::{Next, WorkQueue, start_workers};

const DEFAULT: &str = "default";

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    let on_namespace = queue.clone();
    world.namespaces.on_change(move |change| {
        if let Some(namespace) = change.new {
            on_namespace.add(Key::of(&namespace.metadata));
        }
    });
    let on_account = queue.clone();
    world.service_accounts.on_change(move |change| {
        if let (Some(account), None) = (change.old, change.new) {
            on_account.add(Key::new("", account.metadata.namespace.as_deref().unwrap_or_default()));
        }
    });
    let client = world.client.clone();
    let (namespaces, accounts) = (world.namespaces.clone(), world.service_accounts.clone());
    let name = "service-account-controller";
    start_workers(world, (name, 1), &queue, move |key: Key| {
        let (client, namespaces, accounts) = (client.clone(), namespaces.clone(), accounts.clone());
        async move { ensure(client, &namespaces, &accounts, &key).await }
    });
}

async fn ensure(
    client: Client,
    namespaces: &Cache<Namespace>,
    accounts: &Arc<Cache<ServiceAccount>>,
    namespace: &Key,
) -> Result<Next, SyncFailed> {
    let alive = namespaces.get(namespace).is_some_and(|n| n.metadata.deletion_timestamp.is_none());
    let key = Key::new(&namespace.name, DEFAULT);
    if !alive || accounts.get(&key).is_some() {
        return Ok(Next::Rest);
    }
    let api: Api<ServiceAccount> = Api::namespaced(client, &namespace.name);
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(DEFAULT.to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    let made = api.create(&PostParams::default(), &account).await;
    if let Some(account) = made.unless_made("creating service account", &key)? {
        accounts.written(account);
    }
    Ok(Next::Rest)
}
