//! Pods as a watch tells of them: sooner than looks do.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};

use crate::api::{Api, describe, name};

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Pod>>> + Send>>;

/// The pods with some labels, followed from when this value was made.
pub struct PodWatch {
    labels: String,
    events: Events,
    pods: BTreeMap<String, Pod>,
}

impl PodWatch {
    /// Begins to watch.
    pub async fn begin(api: &Api, labels: &str) -> Result<Self> {
        let params = WatchParams::default().labels(labels);
        let events = api.of::<Pod>().watch(&params, "0").await?;
        Ok(Self { labels: labels.to_owned(), events: Box::pin(events), pods: BTreeMap::new() })
    }

    /// Waits until the pods, by name, are as they should be; when that was seen.
    pub async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        are: impl Fn(&BTreeMap<String, Pod>) -> bool,
    ) -> Result<Instant> {
        let followed = tokio::time::timeout(limit, async {
            while !are(&self.pods) {
                match self.events.try_next().await? {
                    Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                        self.pods.insert(name(&pod), pod);
                    }
                    Some(WatchEvent::Deleted(pod)) => drop(self.pods.remove(&name(&pod))),
                    Some(WatchEvent::Error(status)) => bail!("the watch failed: {status:?}"),
                    Some(WatchEvent::Bookmark(_)) => {}
                    None => bail!("the watch ended"),
                }
            }
            Ok(Instant::now())
        })
        .await;
        followed.with_context(|| {
            let pods: Vec<Pod> = self.pods.values().cloned().collect();
            let (seconds, labels) = (limit.as_secs(), &self.labels);
            format!("waited {seconds} s for {what} of pods {labels}; last: {}", describe(&pods))
        })?
    }
}
