//! All kinds that the API serves, from discovery; read again when it is older than asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};
use tokio::sync::Mutex;

/// One kind that can be listed.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) can_watch: bool,
    pub(crate) can_delete: bool,
    pub(crate) can_delete_collection: bool,
    /// Its objects are those of another kind of the list, which is in another group.
    pub(crate) is_twin: bool,
}

#[cfg(test)]
impl Kind {
    /// One of a namespace that allows everything.
    pub(crate) fn sample<K: kube::core::Resource<DynamicType = ()>>() -> Self {
        Self {
            resource: ApiResource::erase::<K>(&()),
            namespaced: true,
            can_watch: true,
            can_delete: true,
            can_delete_collection: true,
            is_twin: false,
        }
    }
}

pub(crate) struct Kinds {
    client: Client,
    known: Mutex<Option<(Instant, Arc<Vec<Kind>>)>>,
}

impl Kinds {
    pub(crate) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, known: Mutex::new(None) })
    }

    /// Kinds that are known already.
    #[cfg(test)]
    pub(crate) fn of(client: Client, kinds: Vec<Kind>) -> Arc<Self> {
        Arc::new(Self { client, known: Mutex::new(Some((Instant::now(), Arc::new(kinds)))) })
    }

    /// The same, too old for most.
    #[cfg(test)]
    pub(crate) async fn grow_old(&self) {
        let mut known = self.known.lock().await;
        if let Some((read, _)) = known.as_mut() {
            *read = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap_or(*read);
        }
    }

    /// What was there when discovery last worked.
    pub(crate) async fn known(&self) -> Arc<Vec<Kind>> {
        let known = self.known.lock().await;
        known.as_ref().map(|(_, kinds)| kinds.clone()).unwrap_or_default()
    }

    pub(crate) async fn all(&self, max_age: Duration) -> Result<Arc<Vec<Kind>>, kube::Error> {
        let mut known = self.known.lock().await;
        if let Some((read, kinds)) = &*known
            && read.elapsed() < max_age
        {
            return Ok(kinds.clone());
        }
        let discovery = Discovery::new(self.client.clone()).run().await?;
        let mut kinds = Vec::new();
        for group in discovery.groups() {
            // Of the versions of a group the preferred one: the objects are the same in all.
            for (resource, can) in group.recommended_resources() {
                if can.supports_operation(verbs::LIST) {
                    kinds.push(Kind {
                        is_twin: is_twin(&resource),
                        resource,
                        namespaced: can.scope == Scope::Namespaced,
                        can_watch: can.supports_operation(verbs::WATCH),
                        can_delete: can.supports_operation(verbs::DELETE),
                        can_delete_collection: can.supports_operation(verbs::DELETE_COLLECTION),
                    });
                }
            }
        }
        let kinds = Arc::new(kinds);
        *known = Some((Instant::now(), kinds.clone()));
        Ok(kinds)
    }

    /// The kind of an owner reference. Unknown kinds are looked up afresh, at most once a second.
    pub(crate) async fn find(
        &self,
        api_version: &str,
        kind: &str,
    ) -> Result<Option<Kind>, kube::Error> {
        for max_age in [Duration::from_secs(300), Duration::from_secs(1)] {
            let kinds = self.all(max_age).await?;
            let is_it = |k: &&Kind| {
                k.resource.kind == kind
                    && group_of(&k.resource.api_version) == group_of(api_version)
            };
            if let Some(kind) = kinds.iter().find(is_it) {
                return Ok(Some(kind.clone()));
            }
        }
        Ok(None)
    }
}

/// Who goes through the objects of all kinds would meet these twice.
fn is_twin(resource: &ApiResource) -> bool {
    (resource.group.as_str(), resource.plural.as_str()) == ("events.k8s.io", "events")
}

/// References may name another version of the same group.
fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{core, events};

    #[test]
    fn events_are_met_once() {
        assert!(is_twin(&ApiResource::erase::<events::v1::Event>(&())));
        assert!(!is_twin(&ApiResource::erase::<core::v1::Event>(&())));
        assert!(!is_twin(&ApiResource::erase::<core::v1::Pod>(&())));
    }
}
