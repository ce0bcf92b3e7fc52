//! Events for users, as `kubectl describe` shows them.
//!
//! Guarantees: recording never blocks and never fails a controller; a repeated event becomes a
//! higher count of the same object, similar ones are combined, and what is told of one object is
//! limited. It does not guarantee that an event is stored: when the queue is full or the namespace
//! goes away, it is dropped.

use bowline_api::happening::{Correlator, Happening};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

const QUEUE: usize = 1024;

#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<Happening>,
}

impl Recorder {
    pub(crate) fn start(client: Client, tasks: &Tasks, token: CancellationToken) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        tasks.spawn(async move {
            let mut correlator = Correlator::default();
            while let Some(Some(what)) = token.run_until_cancelled(receiver.recv()).await {
                tell(&client, &mut correlator, &what).await;
            }
        });
        Self { component: "controllers", sender }
    }

    /// The same recorder, speaking for one controller.
    pub(crate) fn of(&self, component: &'static str) -> Self {
        Self { component, sender: self.sender.clone() }
    }

    pub(crate) fn normal(&self, about: ObjectReference, reason: &'static str, message: String) {
        self.send(about, false, reason, message);
    }

    pub(crate) fn warning(&self, about: ObjectReference, reason: &'static str, message: String) {
        self.send(about, true, reason, message);
    }

    fn send(&self, about: ObjectReference, warning: bool, reason: &'static str, message: String) {
        let component = self.component;
        let what = Happening { component, host: None, about, warning, reason, message };
        if self.sender.try_send(what).is_err() {
            tracing::debug!(reason, "event dropped: the queue is full");
        }
    }
}

async fn tell(client: &Client, correlator: &mut Correlator, what: &Happening) {
    let Some(telling) = correlator.tell(what, Timestamp::now()) else { return };
    let events: Api<Event> = Api::namespaced(client.clone(), &telling.namespace);
    if !telling.is_new {
        let patch = Patch::Merge(telling.patch());
        match events.patch(&telling.name, &PatchParams::default(), &patch).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "event expired; it is told anew"),
        }
    }
    if let Err(error) = events.create(&PostParams::default(), &telling.event(what)).await {
        tracing::debug!(%error, reason = what.reason, "event not stored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};

    /// What the API was asked: the method, the name of the event, and its message and count.
    type Asked = Arc<Mutex<Vec<(Method, String, Value)>>>;

    /// An API that has no event of the given number.
    fn api(asked: &Asked, without: usize) -> Client {
        let asked = asked.clone();
        let api = tower::service_fn(move |request: Request<Body>| {
            let asked = asked.clone();
            async move {
                let (head, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let sent: Value = serde_json::from_slice(&bytes).unwrap();
                let name = match head.method {
                    Method::POST => sent["metadata"]["name"].as_str().unwrap().to_owned(),
                    _ => head.uri.path().rsplit('/').next().unwrap().to_owned(),
                };
                let mut asked = asked.lock().unwrap();
                asked.push((head.method, name, json!([sent["message"], sent["count"]])));
                let (code, answer) = if asked.len() - 1 == without {
                    (404, json!({ "kind": "Status", "code": 404, "message": "no" }))
                } else {
                    (200, json!({ "metadata": {}, "involvedObject": {} }))
                };
                let answer = Body::from(answer.to_string().into_bytes());
                let answer = Response::builder().status(code).body(answer).unwrap();
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        Client::new(api, "default")
    }

    #[tokio::test]
    async fn an_event_is_made_raised_and_made_anew_when_it_is_gone() {
        let asked = Asked::default();
        let client = api(&asked, 2);
        let about = ObjectReference { name: Some("set".to_owned()), ..ObjectReference::default() };
        let what = Happening {
            component: "controllers",
            host: None,
            about,
            warning: true,
            reason: "FailedCreate",
            message: "no".to_owned(),
        };
        let mut correlator = Correlator::default();
        for _ in 0..3 {
            tell(&client, &mut correlator, &what).await;
        }
        let asked = asked.lock().unwrap();
        let methods: Vec<&Method> = asked.iter().map(|(method, ..)| method).collect();
        assert_eq!(methods, [Method::POST, Method::PATCH, Method::PATCH, Method::POST]);
        let counts: Vec<&Value> = asked.iter().map(|(.., said)| &said[1]).collect();
        assert_eq!(counts, [1, 2, 3, 3]);
        assert!(asked.iter().all(|(_, name, said)| *name == asked[0].1 && said[0] == "no"));
    }
}
