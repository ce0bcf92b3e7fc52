//! Removes events that happened long ago.
//!
//! Guarantees: an event that happens again is kept, also when that is told while the decision is
//! carried out; an event that cannot be removed holds up no other.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::World;
use crate::cache::Key;
use crate::failure::{Doing, SyncFailed};

const EVERY: Duration = Duration::from_secs(60);
/// Events are read in pages: no controller keeps them, and there may be many.
const PAGE: u32 = 500;

struct EventGc {
    client: Client,
    keep: Duration,
}

pub(crate) fn start(world: &World, keep: Duration) {
    let collector = EventGc { client: world.client.clone(), keep };
    let token = world.token.clone();
    world.tasks.spawn(async move { collector.run(&token).await });
}

impl EventGc {
    async fn run(&self, token: &CancellationToken) {
        while token.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let round = self.round(Timestamp::now());
            let Some(failures) = token.run_until_cancelled(round).await else { return };
            for error in failures {
                tracing::warn!(%error, "event clean-up is tried again");
            }
        }
    }

    /// Goes on past failures and returns them.
    async fn round(&self, now: Timestamp) -> Vec<SyncFailed> {
        let expired = match self.expired(now).await {
            Ok(expired) => expired,
            Err(error) => return vec![error],
        };
        let mut failures = Vec::new();
        for event in expired {
            failures.extend(self.remove(event).await.err().filter(|error| !error.is_stale()));
        }
        failures
    }

    /// All pages are read before anything is removed: they are of one revision.
    async fn expired(&self, now: Timestamp) -> Result<Vec<ObjectMeta>, SyncFailed> {
        let events: Api<Event> = Api::all(self.client.clone());
        let mut expired = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = events.list(&params).await.doing("listing", "events")?;
            let old = page.items.into_iter().filter(|event| is_expired(event, now, self.keep));
            expired.extend(old.map(|event| event.metadata));
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => return Ok(expired),
            }
        }
    }

    async fn remove(&self, event: ObjectMeta) -> Result<(), SyncFailed> {
        let key = Key::of(&event);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: event.uid,
            resource_version: event.resource_version,
        });
        api.delete(&key.name, &params).await.if_found("removing event", &key).map(|_| ())
    }
}

fn is_expired(event: &Event, now: Timestamp, keep: Duration) -> bool {
    last_happened(event).is_some_and(|last| {
        Duration::try_from(now.duration_since(last)).is_ok_and(|age| age > keep)
    })
}

/// The latest of all times in the event: its writers use different ones.
fn last_happened(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    [
        event.event_time.as_ref().map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        series.map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ]
    .into_iter()
    .flatten()
    .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::time;
    use k8s_openapi::api::core::v1::EventSeries;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
    use kube::client::Body;
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    const KEEP: Duration = Duration::from_secs(3600);

    #[test]
    fn the_latest_time_of_an_event_counts() {
        let made = |change: fn(&mut Event)| {
            let mut event = Event::default();
            event.metadata.creation_timestamp = Some(Time(time(0)));
            change(&mut event);
            event
        };
        let table = [
            ("made long ago", 3601, made(|_| {}), true),
            ("made just within", 3600, made(|_| {}), false),
            ("again", 3601, made(|event| event.last_timestamp = Some(Time(time(9)))), false),
            ("new API", 3601, made(|event| event.event_time = Some(MicroTime(time(9)))), false),
            (
                "a series",
                3601,
                made(|event| {
                    let last_observed_time = Some(MicroTime(time(9)));
                    event.series = Some(EventSeries { count: Some(2), last_observed_time });
                }),
                false,
            ),
            (
                "again, long ago",
                3610,
                made(|event| event.last_timestamp = Some(Time(time(9)))),
                true,
            ),
            ("of a clock ahead", -10, made(|_| {}), false),
        ];
        for (name, now, event, expected) in table {
            assert_eq!(is_expired(&event, time(now), KEEP), expected, "{name}");
        }
    }

    /// The API as it answers to a round: two pages, and deletions of which one fails.
    fn answer(asked: &str) -> (u16, serde_json::Value) {
        let event = |name: &str, last: i64| {
            json!({ "metadata": { "name": name, "namespace": "default", "uid": format!("u-{name}"),
                "resourceVersion": "7", "creationTimestamp": time(0).to_string() },
                "lastTimestamp": time(last).to_string(), "involvedObject": {} })
        };
        let page = |next: &str, items: &[serde_json::Value]| {
            json!({ "kind": "EventList", "apiVersion": "v1",
                "metadata": { "continue": next }, "items": items })
        };
        match asked {
            "GET more" => (200, page("", &[event("third", 0), event("young", 100)])),
            "GET " => (200, page("more", &[event("first", 0), event("second", 0)])),
            "DELETE first" => (500, json!({ "kind": "Status", "apiVersion": "v1", "code": 500 })),
            // It happened again meanwhile.
            "DELETE second" => (409, json!({ "kind": "Status", "apiVersion": "v1", "code": 409 })),
            _ => (200, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })),
        }
    }

    #[tokio::test]
    async fn old_events_of_all_pages_go_as_they_were_read() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let api = tower::service_fn(move |request: http::Request<Body>| {
            let seen = seen.clone();
            async move {
                let (head, body) = request.into_parts();
                let last = match head.method.as_str() {
                    "GET" => head.uri.query().and_then(|query| query.split("continue=").nth(1)),
                    _ => head.uri.path().split('/').next_back(),
                };
                let what = format!("{} {}", head.method, last.unwrap_or_default());
                let (code, value) = answer(&what);
                let sent: serde_json::Value =
                    serde_json::from_slice(&body.collect_bytes().await.unwrap())
                        .unwrap_or_default();
                seen.lock().unwrap().push((what, sent["preconditions"].clone()));
                let answer = http::Response::builder().status(code);
                let body = Body::from(value.to_string().into_bytes());
                Ok::<_, std::convert::Infallible>(answer.body(body).unwrap())
            }
        });
        let collector = EventGc { client: Client::new(api, "default"), keep: KEEP };
        let failures = collector.round(time(3650)).await;
        assert_eq!(failures.len(), 1, "{failures:?}");
        let asked = asked.lock().unwrap();
        let order: Vec<_> = asked.iter().map(|(what, _)| what.as_str()).collect();
        assert_eq!(order, ["GET ", "GET more", "DELETE first", "DELETE second", "DELETE third"]);
        for (name, (_, preconditions)) in ["first", "second", "third"].iter().zip(&asked[2..]) {
            let as_read = json!({ "uid": format!("u-{name}"), "resourceVersion": "7" });
            assert_eq!(*preconditions, as_read, "{name}");
        }
    }
}
