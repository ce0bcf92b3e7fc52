//! What is used of the quotas of one namespace.
//!
//! Kept up by watches of the kinds that the quotas count, beside what writes under way will use.
//! A quota that changes, or a watch that fell too far behind, makes it read all anew.

use crate::store::Revision;
use crate::watch::{Caches, Delivery, Filter, Object, Session, Start};
use bowline_api::amounts::{self, Amounts};
use bowline_api::object;
use bowline_api::quota::{Quota, charge, charge_at, is_lost};
use bowline_api::resource::Resource;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

type Settle = fn(&mut Amounts, &Amounts);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Ledger {
    accounts: Vec<Account>,
    watches: Vec<(&'static Resource, Session)>,
    expected: Vec<Expected>,
    last_number: u64,
    /// Pods that were told to go, by their keys: with time they count for less.
    leaving: HashMap<String, (&'static Resource, Arc<Object>)>,
}

struct Account {
    /// As the quota was when the account was opened.
    spec: Value,
    quota: Quota,
    /// What the objects use that were seen.
    used: Amounts,
}

/// What a write under way will use, by the names of the quotas.
struct Expected {
    number: u64,
    uid: String,
    /// The revision of the object that it changes; 0 of a new one.
    after: Revision,
    charges: Vec<(String, Amounts)>,
}

impl Ledger {
    /// Takes in every change that is visible in the caches; whether that went well.
    pub(super) fn follow(
        &mut self,
        caches: &Caches,
        namespace: &str,
        quotas: &[Arc<Object>],
    ) -> bool {
        let same = |(account, quota): (&Account, &Arc<Object>)| {
            account.quota.name == object::name(&quota.value) && account.spec == quota.value["spec"]
        };
        let known =
            self.accounts.len() == quotas.len() && self.accounts.iter().zip(quotas).all(same);
        if known && self.catch_up() {
            return true;
        }
        self.open(caches, namespace, quotas) && self.catch_up()
    }

    fn open(&mut self, caches: &Caches, namespace: &str, quotas: &[Arc<Object>]) -> bool {
        let account = |quota: &Arc<Object>| Account {
            spec: quota.value["spec"].clone(),
            quota: Quota::of(&quota.value),
            used: Amounts::new(),
        };
        self.accounts = quotas.iter().map(account).collect();
        self.watches.clear();
        self.leaving.clear();
        let mut kinds: Vec<&'static Resource> =
            self.accounts.iter().flat_map(|account| account.quota.kinds()).collect();
        kinds.sort_by_key(|kind| (kind.group, kind.plural));
        kinds.dedup_by_key(|kind| (kind.group, kind.plural));
        for kind in kinds {
            let filter = Filter { namespace: namespace.to_owned(), ..Filter::default() };
            let Ok(watch) = caches.of(kind).watch(filter, Start::State) else { return false };
            self.watches.push((kind, watch));
        }
        true
    }

    /// Whether the watches still are some.
    fn catch_up(&mut self) -> bool {
        for (kind, mut watch) in std::mem::take(&mut self.watches) {
            if !watch.drain(|delivery| self.see(kind, &delivery)) {
                return false;
            }
            self.watches.push((kind, watch));
        }
        true
    }

    fn see(&mut self, kind: &'static Resource, delivery: &Delivery) {
        let event = &delivery.event;
        let steps: [(&Option<Arc<Object>>, Settle); 2] =
            [(&event.previous, amounts::subtract), (&event.current, amounts::add)];
        for (object, settle) in steps {
            let Some(object) = object else { continue };
            let charge = charge(kind, &object.value);
            for account in &mut self.accounts {
                if account.quota.covers(kind, &object.value) {
                    settle(&mut account.used, &charge);
                }
            }
        }
        let Some(object) = event.current.as_ref().or(event.previous.as_ref()) else { return };
        // What is written is seen, or somebody else was faster and it fails.
        let uid = object::uid(&object.value);
        self.expected.retain(|one| one.uid != uid || one.after >= event.revision);
        match &event.current {
            Some(pod)
                if kind.is("", "pods") && object::deletion_timestamp(&pod.value).is_some() =>
            {
                self.leaving.insert(pod.key.clone(), (kind, pod.clone()));
            }
            _ => {
                self.leaving.remove(&object.key);
            }
        }
    }

    pub(super) fn quotas(&self) -> impl Iterator<Item = &Quota> {
        self.accounts.iter().map(|account| &account.quota)
    }

    /// What to charge to which quota, if there is room for it in each that it is charged to.
    pub(super) fn admit(
        &self,
        more: impl Fn(&Quota) -> Option<Amounts>,
    ) -> Result<Vec<(String, Amounts)>, String> {
        let now = Timestamp::now();
        let mut charges = Vec::new();
        for account in &self.accounts {
            let quota = &account.quota;
            let Some(more) = more(quota).filter(|more| !more.is_empty()) else { continue };
            let used = self.used(account, now);
            let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
            let exceeds = |name: &&String| of(&used, name) + more[*name] > of(&quota.hard, name);
            let exceeded: Vec<&String> = more.keys().filter(exceeds).collect();
            if exceeded.is_empty() {
                charges.push((quota.name.clone(), more));
                continue;
            }
            let show = |amounts: &Amounts| {
                let parts = exceeded.iter().map(|name| format!("{name}={}", of(amounts, name)));
                parts.collect::<Vec<_>>().join(",")
            };
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name,
                show(&more),
                show(&used),
                show(&quota.hard)
            ));
        }
        Ok(charges)
    }

    fn used(&self, account: &Account, now: Timestamp) -> Amounts {
        let mut used = account.used.clone();
        for (kind, pod) in self.leaving.values() {
            let pod = &pod.value;
            if is_lost(kind, pod, now) && account.quota.covers(kind, pod) {
                amounts::subtract(&mut used, &charge(kind, pod));
                amounts::add(&mut used, &charge_at(kind, pod, now));
            }
        }
        let expected = self.expected.iter().flat_map(|expected| &expected.charges);
        for (_, charge) in expected.filter(|(name, _)| *name == account.quota.name) {
            amounts::add(&mut used, charge);
        }
        used
    }

    /// Notes what a write of an object is about to use.
    pub(super) fn expect(
        &mut self,
        uid: &str,
        after: Revision,
        charges: Vec<(String, Amounts)>,
    ) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        self.expected.push(Expected { number, uid: uid.to_owned(), after, charges });
        number
    }

    /// The write has been seen, or has failed.
    pub(super) fn forget(&mut self, number: u64) {
        self.expected.retain(|expected| expected.number != number);
    }
}
