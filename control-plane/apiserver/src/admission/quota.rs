//! Resource quotas: what the objects of a namespace may use together.
//!
//! Guarantees: writes at the same time never overrun a quota together. What is used follows from
//! the stored objects alone, so that it cannot come apart from them: what a write that is under way
//! will use is added until it is seen or has failed, and a crash leaves nothing to mend. A
//! namespace without quotas costs a look for them, and no lock.
//!
//! Does not: write the status of a quota, which a controller does from the same rules; undo what
//! there was, or was under way, before a quota.

use super::quota_ledger::Ledger;
use crate::objects::Place;
use crate::watch::{Caches, Filter, Object};
use bowline_api::amounts::Amounts;
use bowline_api::object;
use bowline_api::quota::{Quota, charge, is_charged, is_charged_again};
use bowline_api::resource::find;
use bowline_api::status::Status;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Shared = Arc<Mutex<Ledger>>;

/// The ledgers of the namespaces that have quotas.
#[derive(Default)]
pub(super) struct Quotas {
    ledgers: Mutex<HashMap<String, Shared>>,
}

/// What a write will use that is not visible yet.
pub(crate) struct Charge {
    ledger: Shared,
    number: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        locked(&self.ledger).forget(self.number);
    }
}

/// Whole steps only: a panic in one of them leaves a ledger that is read anew at worst.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn quotas(caches: &Caches, namespace: &str) -> Vec<Arc<Object>> {
    let Some(resource) = find("", "v1", "resourcequotas") else { return Vec::new() };
    let filter = Filter { namespace: namespace.to_owned(), ..Filter::default() };
    caches.of(resource).list(&filter, None, None).objects
}

impl Quotas {
    /// Charges a new object, or a change of one, to the quotas that cover it.
    pub(super) fn charge(
        &self,
        caches: &Caches,
        place: &Place,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<Option<Charge>, Status> {
        let resource = place.resource.storage();
        let counts = if old.is_some() { is_charged_again(resource) } else { is_charged(resource) };
        if !counts {
            return Ok(None);
        }
        let quotas = quotas(caches, &place.namespace);
        if quotas.is_empty() {
            return Ok(None);
        }
        let (whole, before) = (charge(resource, new), old.map(|old| charge(resource, old)));
        // A pod that was there before the quota may be changed, as long as it asks for no more.
        if resource.is("", "pods") && before.as_ref() == Some(&whole) {
            return Ok(None);
        }
        let shared = self.ledger(caches, &place.namespace);
        let mut ledger = locked(&shared);
        if !ledger.follow(caches, &place.namespace, &quotas) {
            return Err(Status::service_unavailable("the quotas cannot be read: try again"));
        }
        let forbidden =
            |cause: String| Status::forbidden(place.resource, object::name(new), &cause);
        for quota in ledger.quotas().filter(|quota| quota.covers(resource, new)) {
            if let Some(missing) = quota.missing(resource, new) {
                return Err(forbidden(format!("failed quota: {}: {missing}", quota.name)));
            }
        }
        let more = |quota: &Quota| {
            let charged_before = old.is_some_and(|old| quota.covers(resource, old));
            let before = before.as_ref().filter(|_| charged_before);
            quota.covers(resource, new).then(|| growth(quota, &whole, before))
        };
        let charges = ledger.admit(more).map_err(forbidden)?;
        if charges.is_empty() {
            return Ok(None);
        }
        let before = old.map_or("0", object::resource_version).parse().unwrap_or(0);
        let number = ledger.expect(object::uid(new), before, charges);
        drop(ledger);
        Ok(Some(Charge { ledger: shared, number }))
    }

    fn ledger(&self, caches: &Caches, namespace: &str) -> Shared {
        let mut ledgers = locked(&self.ledgers);
        if let Some(ledger) = ledgers.get(namespace) {
            return ledger.clone();
        }
        ledgers.retain(|namespace, _| !quotas(caches, namespace).is_empty());
        ledgers.entry(namespace.to_owned()).or_default().clone()
    }
}

/// What a quota counts that there is more of than before.
fn growth(quota: &Quota, whole: &Amounts, before: Option<&Amounts>) -> Amounts {
    let counted = whole.iter().filter(|(name, _)| quota.hard.contains_key(*name));
    let more = counted.map(|(name, amount)| {
        let before = before.and_then(|before| before.get(name)).copied().unwrap_or_default();
        (name.clone(), *amount - before)
    });
    more.filter(|(_, more)| !more.is_zero() && !more.is_negative()).collect()
}
