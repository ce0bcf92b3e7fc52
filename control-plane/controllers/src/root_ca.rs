//! Gives each namespace the config map `kube-root-ca.crt`, by which pods know the API server.
//!
//! Guarantees: one that is deleted or changed is put right again.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::queue::{Next, WorkQueue, start_workers};

const NAME: &str = "kube-root-ca.crt";
/// The one key of the config map.
const KEY: &str = "ca.crt";

/// Only these config maps are watched.
pub(crate) fn chosen() -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={NAME}"))
}

pub(crate) fn start(world: &World, certificate: String) {
    let queue = WorkQueue::new();
    let on_namespace = queue.clone();
    world.namespaces.on_change(move |change| {
        if let Some(namespace) = change.new {
            on_namespace.add(Key::of(&namespace.metadata));
        }
    });
    let on_map = queue.clone();
    world.root_maps.on_change(move |change| {
        if let Some(map) = change.latest() {
            on_map.add(Key::new("", map.metadata.namespace.as_deref().unwrap_or_default()));
        }
    });
    let client = world.client.clone();
    let (namespaces, maps) = (world.namespaces.clone(), world.root_maps.clone());
    let data = Arc::new(BTreeMap::from([(KEY.to_owned(), certificate)]));
    let name = "root-ca-certificate-publisher";
    start_workers(world, (name, 1), &queue, move |key: Key| {
        let (client, namespaces, maps) = (client.clone(), namespaces.clone(), maps.clone());
        let data = data.clone();
        async move { ensure(client, &namespaces, &maps, &key, &data).await }
    });
}

async fn ensure(
    client: Client,
    namespaces: &Cache<Namespace>,
    maps: &Arc<Cache<ConfigMap>>,
    namespace: &Key,
    data: &BTreeMap<String, String>,
) -> Result<Next, SyncFailed> {
    let alive = namespaces.get(namespace).is_some_and(|n| n.metadata.deletion_timestamp.is_none());
    if !alive {
        return Ok(Next::Rest);
    }
    let key = Key::new(&namespace.name, NAME);
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace.name);
    let params = PostParams::default();
    let written = match maps.get(&key) {
        Some(map) if map.data.as_ref() == Some(data) && map.binary_data.is_none() => {
            return Ok(Next::Rest);
        }
        Some(map) => {
            let map =
                ConfigMap { data: Some(data.clone()), binary_data: None, ..ConfigMap::clone(&map) };
            api.replace(NAME, &params, &map).await.if_found("restoring config map", &key)?
        }
        None => {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let map = ConfigMap { metadata, data: Some(data.clone()), ..ConfigMap::default() };
            api.create(&params, &map).await.unless_made("creating config map", &key)?
        }
    };
    if let Some(map) = written {
        maps.written(map);
    }
    Ok(Next::Rest)
}
