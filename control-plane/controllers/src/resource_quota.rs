//! What is used of each resource quota, in its status.
//!
//! Guarantees: the status follows every change of what a quota counts, and is computed anew every
//! five minutes whatever was missed. A burst of changes is one look. It limits nothing: the API
//! server does, by the same rules, whatever the status says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::amounts::{self, Amounts};
use bowline_api::quantity::Quantity;
use bowline_api::quota::{self, Quota};
use bowline_api::resource;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Shown;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use serde::Serialize;
use serde_json::Value;

use crate::World;
use crate::cache::{Cache, Key};
use crate::failure::{Doing, SyncFailed};
use crate::queue::{Next, WorkQueue, start_workers};

const NAME: &str = "resourcequota-controller";
/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(100);
const RESYNC: Duration = Duration::from_secs(300);

type Row = &'static resource::Resource;

struct Quotas {
    client: Client,
    quotas: Arc<Cache<ResourceQuota>>,
    pods: Arc<Cache<Pod>>,
    services: Arc<Cache<Service>>,
}

/// Takes note of changes of what quotas may count.
#[derive(Clone)]
pub(crate) struct Usage {
    quotas: Arc<Cache<ResourceQuota>>,
    queue: Arc<WorkQueue<Key>>,
}

impl Usage {
    /// Of a kind; the function is told of the objects that change.
    pub(crate) fn of(&self, kind: &ApiResource) -> impl Fn(&ObjectMeta) + Send + Sync + 'static {
        let row = resource::find(&kind.group, &kind.version, &kind.plural);
        let (row, this) = (row.filter(|row| quota::is_charged(row)), self.clone());
        move |object| {
            let (Some(row), Some(namespace)) = (row, &object.namespace) else { return };
            for quota in this.quotas.in_namespace(namespace) {
                let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
                if hard.into_iter().any(|(name, _)| quota::is_of(row, name)) {
                    this.queue.add(Key::of(&quota.metadata));
                }
            }
        }
    }
}

/// What this returns is to be told of all objects that change.
pub(crate) fn start(world: &World) -> Usage {
    let queue = WorkQueue::new();
    queue.follow(&world.quotas);
    let controller = Arc::new(Quotas {
        client: world.client.clone(),
        quotas: world.quotas.clone(),
        pods: world.pods.clone(),
        services: world.services.clone(),
    });
    start_workers(world, (NAME, 2), &queue, move |key| {
        let controller = controller.clone();
        async move {
            tokio::time::sleep(SETTLE).await;
            controller.look(&key).await
        }
    });
    Usage { quotas: world.quotas.clone(), queue }
}

#[cfg(test)]
impl Usage {
    /// Of no quota.
    pub(crate) fn none() -> Self {
        Self { quotas: Cache::new(), queue: WorkQueue::new() }
    }
}

impl Quotas {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let Some(known) = self.quotas.get(key) else { return Ok(Next::Rest) };
        let rules = Quota::of(&value_of(&*known));
        let used = self.used(&rules, &key.namespace).await?;
        let hard = known.spec.as_ref().and_then(|spec| spec.hard.clone());
        let status =
            ResourceQuotaStatus { hard: Some(hard.unwrap_or_default()), used: Some(shown(&used)) };
        if known.status.as_ref() != Some(&status) {
            let mut new = ResourceQuota::clone(&known);
            new.status = Some(status);
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &new).await;
            if let Some(written) = written.if_found("writing the status of quota", key)? {
                self.quotas.written(written);
            }
        }
        Ok(Next::LookAgainIn(RESYNC))
    }

    /// What is used of everything that the quota limits, and that objects are charged to.
    async fn used(&self, rules: &Quota, namespace: &str) -> Result<Amounts, SyncFailed> {
        let now = Timestamp::now();
        let mut used = Amounts::new();
        for row in rules.kinds() {
            let mut total = Amounts::new();
            match row.plural {
                "pods" if row.group.is_empty() => {
                    let pods = self.pods.in_namespace(namespace);
                    pods.iter().for_each(|pod| charge(&mut total, rules, row, &**pod, now));
                }
                "services" if row.group.is_empty() => {
                    let services = self.services.in_namespace(namespace);
                    services.iter().for_each(|one| charge(&mut total, rules, row, &**one, now));
                }
                "persistentvolumeclaims" if row.group.is_empty() => {
                    let claims = self.list(row, namespace, None).await?.items;
                    claims.iter().for_each(|claim| charge(&mut total, rules, row, claim, now));
                }
                // Each is charged the same.
                _ if rules.covers(row, &Value::Null) => {
                    let page = self.list(row, namespace, Some(1)).await?;
                    let more = page.metadata.remaining_item_count.unwrap_or(0);
                    let count = page.items.len() + usize::try_from(more).unwrap_or(0);
                    let one = quota::charge(row, &Value::Null);
                    total.extend(one.into_keys().map(|name| (name, Quantity::from(count))));
                }
                _ => {}
            }
            for name in rules.limits_on(row) {
                used.insert(name.to_owned(), total.get(name).copied().unwrap_or_default());
            }
        }
        Ok(used)
    }

    async fn list(
        &self,
        row: Row,
        namespace: &str,
        limit: Option<u32>,
    ) -> Result<kube::core::ObjectList<DynamicObject>, SyncFailed> {
        let kind = ApiResource {
            group: row.group.to_owned(),
            version: row.version.to_owned(),
            api_version: row.api_version(),
            kind: row.kind.to_owned(),
            plural: row.plural.to_owned(),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind);
        let params = ListParams { limit, ..ListParams::default() };
        api.list(&params).await.doing("listing", row.plural)
    }
}

fn charge(total: &mut Amounts, rules: &Quota, row: Row, object: &impl Serialize, now: Timestamp) {
    let object = value_of(object);
    if rules.covers(row, &object) {
        amounts::add(total, &quota::charge_at(row, &object, now));
    }
}

/// An object that came from the API can be written again.
fn value_of(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn shown(amounts: &Amounts) -> BTreeMap<String, Shown> {
    amounts.iter().map(|(name, amount)| (name.clone(), Shown(amount.to_string()))).collect()
}
