//! What happens to objects, and how much of it is told in events.
//!
//! Guarantees: the same thing again is a higher count of one event; of similar things, which differ
//! only in what they say, the first nine within ten minutes have their own events and the others
//! share one; one source tells 25 things of one object at once, and then one every five minutes.
//! What is remembered is bounded.
//!
//! Does not: write events, or know whether one was written. A count that is raised and not told is
//! told with the next one.

mod recent;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use recent::Recent;

/// From so many on, similar things share an event.
const SIMILAR: usize = 10;
/// Things that are further apart are not similar.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_secs(600);
const COMBINED: &str = "(combined from similar events): ";
/// What a source may tell of an object at once.
const BURST: f64 = 25.0;
/// How long it takes until a source may tell one thing more.
const REFILL_SECONDS: f64 = 300.0;

/// One thing to tell.
#[derive(Clone, Debug)]
pub struct Happening {
    /// Who tells it, and from where.
    pub component: &'static str,
    pub host: Option<String>,
    pub about: ObjectReference,
    /// Whether it is trouble.
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Happening {
    fn type_(&self) -> &'static str {
        if self.warning { "Warning" } else { "Normal" }
    }

    fn namespace(&self) -> &str {
        self.about.namespace.as_deref().filter(|it| !it.is_empty()).unwrap_or("default")
    }

    /// Alike for all that the source tells of the object.
    fn source_key(&self) -> u64 {
        let about = &self.about;
        key((
            (self.component, &self.host, &about.kind, &about.api_version),
            (&about.namespace, &about.name, &about.uid),
        ))
    }

    fn similar_key(&self) -> u64 {
        key((self.source_key(), self.type_(), self.reason))
    }

    fn same_key(&self) -> u64 {
        key((self.similar_key(), &self.about.field_path, &self.message))
    }
}

fn key(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Decides what is told.
#[derive(Default)]
pub struct Correlator {
    similar: Recent<Similar>,
    told: Recent<Told>,
    shares: Recent<Share>,
}

/// Things that differ in their messages.
struct Similar {
    messages: HashSet<u64>,
    last: Timestamp,
}

struct Told {
    name: String,
    count: i32,
    first: Timestamp,
}

/// What a source may still tell of an object.
struct Share {
    left: f64,
    at: Timestamp,
}

/// What is to be told: an event that is new, or one that is to be raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    pub name: String,
    pub namespace: String,
    pub is_new: bool,
    message: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

impl Correlator {
    /// What to tell of something that happens now; `None` when the source has told too much.
    pub fn tell(&mut self, what: &Happening, now: Timestamp) -> Option<Telling> {
        let (key, message) = self.combine(what, now);
        let (told, is_new) = match self.told.get(key) {
            Some(told) => {
                told.count = told.count.saturating_add(1);
                (told, false)
            }
            None => {
                let about = what.about.name.as_deref().unwrap_or_default();
                // The time makes the name unique and sorts the events of one object.
                let name = format!("{about}.{:x}", now.as_nanosecond());
                (self.told.put(key, Told { name, count: 1, first: now }), true)
            }
        };
        let telling = Telling {
            name: told.name.clone(),
            namespace: what.namespace().to_owned(),
            is_new,
            message,
            count: told.count,
            first: told.first,
            last: now,
        };
        self.take_share(what, now).then_some(telling)
    }

    /// The key of the event that tells it, and what that says.
    fn combine(&mut self, what: &Happening, now: Timestamp) -> (u64, String) {
        let key_of_all = what.similar_key();
        let fresh = || Similar { messages: HashSet::new(), last: now };
        let similar = match self.similar.get(key_of_all) {
            Some(known) if now.duration_since(known.last) > SIMILAR_WITHIN => {
                *known = fresh();
                known
            }
            Some(known) => known,
            None => self.similar.put(key_of_all, fresh()),
        };
        similar.last = now;
        similar.messages.insert(key(&what.message));
        if similar.messages.len() < SIMILAR {
            return (what.same_key(), what.message.clone());
        }
        if let Some(any) = similar.messages.iter().next().copied() {
            similar.messages.remove(&any);
        }
        (key_of_all, format!("{COMBINED}{}", what.message))
    }

    fn take_share(&mut self, what: &Happening, now: Timestamp) -> bool {
        let key = what.source_key();
        let share = match self.shares.get(key) {
            Some(share) => share,
            None => self.shares.put(key, Share { left: BURST, at: now }),
        };
        let waited = now.duration_since(share.at).as_secs_f64().max(0.0);
        share.left = (share.left + waited / REFILL_SECONDS).min(BURST);
        share.at = now;
        let may = share.left >= 1.0;
        if may {
            share.left -= 1.0;
        }
        may
    }
}

impl Telling {
    /// What raises the event that is there.
    pub fn patch(&self) -> Value {
        json!({ "count": self.count, "message": self.message, "lastTimestamp": Time(self.last) })
    }

    /// The event as a whole.
    pub fn event(&self, what: &Happening) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: what.about.clone(),
            reason: Some(what.reason.to_owned()),
            message: Some(self.message.clone()),
            type_: Some(what.type_().to_owned()),
            count: Some(self.count),
            first_timestamp: Some(Time(self.first)),
            last_timestamp: Some(Time(self.last)),
            source: Some(EventSource {
                component: Some(what.component.to_owned()),
                host: what.host.clone(),
            }),
            reporting_component: Some(what.component.to_owned()),
            reporting_instance: what.host.clone(),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests;
