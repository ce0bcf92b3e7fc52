//! Binds pods to the nodes they were given, beside the decisions on the next ones.
//!
//! Guarantees: each binding that begins ends in one result, a panic included; dropping the binder
//! ends all of them.

use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::core::Status;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::facts::PodFacts;
use crate::report::Reporter;

const AT_ONCE: usize = 32;

/// How a binding ended.
pub(crate) struct Bound {
    pub(crate) uid: String,
    pub(crate) failed: bool,
}

pub(crate) struct Binder {
    client: Client,
    reporter: Reporter,
    slots: Arc<Semaphore>,
    /// Bounded by the pods in flight.
    bindings: JoinSet<Bound>,
}

impl Binder {
    pub(crate) fn new(client: Client, reporter: Reporter) -> Self {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        Self { client, reporter, slots, bindings: JoinSet::new() }
    }

    pub(crate) fn bind(&mut self, pod: Arc<PodFacts>, node: String) {
        let (client, reporter) = (self.client.clone(), self.reporter.clone());
        let slots = self.slots.clone();
        self.bindings.spawn(async move {
            // Nobody closes it.
            let _slot = slots.acquire().await;
            let bound = post(&client, &pod, &node).await;
            let failed = bound.is_err();
            match bound {
                Ok(_) => reporter.placed(pod.clone(), node),
                Err(error) => {
                    tracing::warn!(
                        %error, pod = pod.name, namespace = pod.namespace, node,
                        "binding failed and is retried"
                    );
                }
            }
            Bound { uid: pod.uid.clone(), failed }
        });
    }

    /// The next binding that ended; waits while there is none.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<Bound> {
        match self.bindings.join_next().await {
            Some(ended) => ended.context("a binding panicked"),
            None => std::future::pending().await,
        }
    }
}

async fn post(client: &Client, pod: &PodFacts, node: &str) -> Result<Status, kube::Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            // A pod of the same name that came later is another pod.
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    api.create_subresource("binding", &pod.name, &PostParams::default(), &binding).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use std::convert::Infallible;

    async fn panics(_: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
        panic!("as a test asks for");
    }

    #[tokio::test]
    async fn a_panic_is_not_lost() {
        let client = Client::new(tower::service_fn(panics), "default");
        let (reporter, _reporting) = Reporter::start(client.clone());
        let mut binder = Binder::new(client, reporter);
        let pod = PodFacts { name: "p".into(), namespace: "default".into(), ..PodFacts::default() };
        binder.bind(Arc::new(pod), "node1".to_owned());
        assert!(binder.ended().await.is_err());
    }
}
