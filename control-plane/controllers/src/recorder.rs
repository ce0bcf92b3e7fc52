//! Events for users, as `kubectl describe` shows them.
//!
//! Guarantees: recording never blocks and never fails a controller; a repeated event becomes a
//! higher count of the same object. It does not guarantee that an event is stored: when the queue
//! is full or the namespace goes away, it is dropped.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

const QUEUE: usize = 1024;
const REMEMBERED: usize = 2048;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Happening {
    uid: String,
    warning: bool,
    reason: &'static str,
    message: String,
}

#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<(&'static str, ObjectReference, Happening)>,
}

impl Recorder {
    pub(crate) fn start(client: Client, tasks: &Tasks, token: CancellationToken) -> Self {
        let (sender, mut receiver) =
            mpsc::channel::<(&'static str, ObjectReference, Happening)>(QUEUE);
        tasks.spawn(async move {
            let mut told = Told::default();
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    next = receiver.recv() => match next {
                        Some((component, about, what)) => {
                            told.tell(&client, component, about, what).await;
                        }
                        None => return,
                    },
                }
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
        let uid = about.uid.clone().unwrap_or_default();
        let what = Happening { uid, warning, reason, message };
        if self.sender.try_send((self.component, about, what)).is_err() {
            tracing::debug!(reason, "event dropped: the queue is full");
        }
    }
}

#[derive(Default)]
struct Told {
    counts: HashMap<Happening, (String, i32)>,
    order: VecDeque<Happening>,
}

impl Told {
    async fn tell(
        &mut self,
        client: &Client,
        component: &'static str,
        about: ObjectReference,
        what: Happening,
    ) {
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let now = Timestamp::now();
        if let Some((name, count)) = self.counts.get_mut(&what) {
            *count += 1;
            let patch = serde_json::json!({ "count": *count, "lastTimestamp": Time(now) });
            match events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "event expired; it is told anew"),
            }
        }
        let event = event(component, about, &what, &namespace, now);
        match events.create(&PostParams::default(), &event).await {
            Ok(stored) => self.remember(what, stored.metadata.name.unwrap_or_default()),
            Err(error) => tracing::debug!(%error, reason = what.reason, "event not stored"),
        }
    }

    fn remember(&mut self, what: Happening, name: String) {
        if self.counts.insert(what.clone(), (name, 1)).is_none() {
            self.order.push_back(what);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
    }
}

fn event(
    component: &str,
    about: ObjectReference,
    what: &Happening,
    namespace: &str,
    now: Timestamp,
) -> Event {
    let name = about.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            // The time makes the name unique and sorts the events of one object.
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(what.reason.to_owned()),
        message: Some(what.message.clone()),
        type_: Some(if what.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        ..Event::default()
    }
}
