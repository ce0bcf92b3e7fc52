//! Binds pods to the nodes they were given, beside the decisions on the next ones.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::core::Status;
use kube::{Api, Client};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

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
    token: CancellationToken,
    slots: Arc<Semaphore>,
    results: mpsc::UnboundedSender<Bound>,
}

impl Binder {
    /// The results are bounded by the pods in flight.
    pub(crate) fn new(
        client: Client,
        reporter: Reporter,
        token: CancellationToken,
    ) -> (Self, mpsc::UnboundedReceiver<Bound>) {
        let (results, receiver) = mpsc::unbounded_channel();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        (Self { client, reporter, token, slots, results }, receiver)
    }

    pub(crate) fn bind(&self, pod: Arc<PodFacts>, node: String) {
        let (client, reporter) = (self.client.clone(), self.reporter.clone());
        let (slots, results) = (self.slots.clone(), self.results.clone());
        let token = self.token.clone();
        tokio::spawn(token.run_until_cancelled_owned(async move {
            let Ok(_slot) = slots.acquire().await else { return };
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
            // The receiver is gone only when the scheduler stops.
            let _ = results.send(Bound { uid: pod.uid.clone(), failed });
        }));
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
