//! Applies the service plan to the maps.
//!
//! Guarantees: a backend set changes in one map update: backends and a fresh range of slots are
//! written first, then the SERVICES entry is swapped, then what it used before is given back. Slots
//! and backend numbers are not given to anybody else until a grace time has passed, so a program
//! that read the old entry finds what it expects. A step that fails leaves its service as it was,
//! and the other steps are still taken. The state is recovered from the maps after a restart.
//! Not here: deciding what to change; that is `plan::services`.

mod allocate;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bowline_ebpf_abi::{Backend, Service, ServiceKey, Slot, map, protocol, state};

use crate::datapath::WriteMapFailed;
use crate::plan::services::{BackendAddress, ProgrammedService, ServiceStep, WantedService};
use allocate::{Numbers, Ranges};

/// A packet program runs for microseconds; a socket program can be preempted for longer.
const GRACE: Duration = Duration::from_millis(100);

/// The maps that hold services.
pub(crate) trait ServiceStore {
    fn put_service(&mut self, key: &ServiceKey, value: &Service) -> Result<(), WriteMapFailed>;
    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), WriteMapFailed>;
    fn put_slot(&mut self, index: u32, slot: Slot) -> Result<(), WriteMapFailed>;
    fn put_backend(&mut self, id: u32, backend: &Backend) -> Result<(), WriteMapFailed>;
    fn clear_counters(&mut self, service: u32) -> Result<(), WriteMapFailed>;
    /// The error for a map without room.
    fn full(&self, map: &'static str) -> WriteMapFailed;
    /// Lets time pass until `moment`.
    fn wait_until(&mut self, moment: Instant);
}

/// What an apply did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceSummary {
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    pub unchanged: usize,
}

/// Some services could not be written; the others were.
#[derive(Debug, thiserror::Error)]
pub struct ApplyServicesFailed {
    /// Each with the service that it kept from being written.
    pub failures: Vec<(String, WriteMapFailed)>,
}

impl fmt::Display for ApplyServicesFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((service, error)) = self.failures.first() {
            write!(f, "service {service} is not programmed: {error}")?;
        }
        match self.failures.len() {
            0 | 1 => Ok(()),
            all => write!(f, " (and {} more)", all - 1),
        }
    }
}

/// How many of each there can be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceLimits {
    pub(crate) services: u32,
    pub(crate) slots: u32,
    pub(crate) backends: u32,
}

#[derive(Debug)]
struct NumberedBackend {
    id: u32,
    users: u32,
}

/// Something that may be given away again when the time has come.
#[derive(Debug)]
enum Retired {
    Slots { first: u32, count: u32 },
    Backend { id: u32 },
    Service { id: u32 },
}

/// Writes services, and knows what is written.
#[derive(Debug)]
pub(crate) struct ServiceWriter {
    programmed: BTreeMap<ServiceKey, ProgrammedService>,
    backends: BTreeMap<BackendAddress, NumberedBackend>,
    slots: Ranges,
    backend_ids: Numbers,
    service_ids: Numbers,
    retired: VecDeque<(Instant, Retired)>,
}

/// One service as it was found in the maps.
#[derive(Clone, Debug)]
pub(crate) struct FoundService {
    pub(crate) key: ServiceKey,
    pub(crate) value: Service,
    /// The backends of its slots, in order, with their numbers.
    pub(crate) backends: Vec<(u32, BackendAddress)>,
}

impl ServiceWriter {
    /// Takes over what an earlier agent left in the maps.
    pub(crate) fn recover(limits: ServiceLimits, found: Vec<FoundService>) -> Self {
        let mut writer = Self {
            programmed: BTreeMap::new(),
            backends: BTreeMap::new(),
            slots: Ranges::new(limits.slots),
            backend_ids: Numbers::new(limits.backends),
            service_ids: Numbers::new(limits.services),
            retired: VecDeque::new(),
        };
        for service in found {
            writer.service_ids.take(service.value.id);
            writer.slots.take(service.value.first_slot, service.value.slot_count);
            let mut backends: Vec<BackendAddress> = Vec::new();
            for (id, address) in service.backends {
                writer.backend_ids.take(id);
                let numbered =
                    writer.backends.entry(address).or_insert(NumberedBackend { id, users: 0 });
                numbered.users += 1;
                backends.push(address);
            }
            backends.sort_unstable();
            let programmed = ProgrammedService {
                id: service.value.id,
                first_slot: service.value.first_slot,
                affinity_seconds: service.value.affinity_seconds,
                backends,
            };
            writer.programmed.insert(service.key, programmed);
        }
        writer
    }

    /// What the maps hold.
    pub(crate) fn programmed(&self) -> &BTreeMap<ServiceKey, ProgrammedService> {
        &self.programmed
    }

    /// The backends that the services of these steps have now.
    pub(crate) fn backends_of(&self, steps: &[ServiceStep<'_>]) -> Vec<BackendAddress> {
        let services = steps.iter().filter_map(|step| self.programmed.get(step.key()));
        services.flat_map(|service| service.backends.iter().copied()).collect()
    }

    /// Whether any service has this backend.
    pub(crate) fn uses(&self, backend: &BackendAddress) -> bool {
        self.backends.contains_key(backend)
    }

    /// Takes every step, past failures.
    pub(crate) fn apply<S: ServiceStore>(
        &mut self,
        store: &mut S,
        steps: &[ServiceStep<'_>],
        now: Instant,
    ) -> Result<ServiceSummary, ApplyServicesFailed> {
        self.release(now);
        let mut summary = ServiceSummary::default();
        let mut failures = Vec::new();
        for step in steps {
            let (name, done, counter) = match step {
                ServiceStep::Remove { key } => {
                    (name_of(key), self.remove(store, key, now), &mut summary.removed)
                }
                ServiceStep::Add { key, wanted } => {
                    let name = format!("{}/{}", wanted.namespace, wanted.name);
                    (name, self.write(store, key, wanted, now), &mut summary.added)
                }
                ServiceStep::Change { key, wanted } => {
                    let name = format!("{}/{}", wanted.namespace, wanted.name);
                    (name, self.write(store, key, wanted, now), &mut summary.changed)
                }
            };
            match done {
                Ok(()) => *counter += 1,
                Err(error) => failures.push((name, error)),
            }
        }
        summary.unchanged = self.programmed.len() - summary.added - summary.changed;
        if failures.is_empty() { Ok(summary) } else { Err(ApplyServicesFailed { failures }) }
    }

    /// Writes a service, new or known.
    fn write<S: ServiceStore>(
        &mut self,
        store: &mut S,
        key: &ServiceKey,
        wanted: &WantedService,
        now: Instant,
    ) -> Result<(), WriteMapFailed> {
        let count = u32::try_from(wanted.backends.len()).map_err(|_| store.full(map::SLOTS))?;
        let first_slot = self.take_slots(store, count)?;
        let mut held = Vec::with_capacity(wanted.backends.len());
        let written =
            self.write_backends(store, key, wanted, first_slot, &mut held).and_then(|()| {
                let id = self.service_id(store, key)?;
                let value = Service {
                    id,
                    first_slot,
                    slot_count: count,
                    flags: 0,
                    affinity_seconds: wanted.affinity_seconds,
                };
                let put = store.put_service(key, &value);
                if put.is_err() && !self.programmed.contains_key(key) {
                    self.retired.push_back((now + GRACE, Retired::Service { id }));
                }
                put.map(|()| id)
            });
        let id = match written {
            Ok(id) => id,
            Err(error) => {
                self.retire_slots(first_slot, count, now);
                self.drop_backends(store, &held, now);
                return Err(error);
            }
        };
        let programmed = ProgrammedService {
            id,
            first_slot,
            affinity_seconds: wanted.affinity_seconds,
            backends: held,
        };
        if let Some(old) = self.programmed.insert(*key, programmed) {
            self.retire_slots(old.first_slot, old.backends.len() as u32, now);
            self.drop_backends(store, &old.backends, now);
        }
        Ok(())
    }

    /// Writes the backends that are new and the slots that point to all of them. What it took is
    /// in `held`, also when it fails.
    fn write_backends<S: ServiceStore>(
        &mut self,
        store: &mut S,
        key: &ServiceKey,
        wanted: &WantedService,
        first_slot: u32,
        held: &mut Vec<BackendAddress>,
    ) -> Result<(), WriteMapFailed> {
        let mut ids = Vec::with_capacity(wanted.backends.len());
        for address in wanted.backends.keys() {
            ids.push(self.hold_backend(store, *address)?);
            held.push(*address);
        }
        // Session affinity searches the slots by halves.
        ids.sort_unstable();
        for (index, backend) in (first_slot..).zip(ids) {
            store.put_slot(index, Slot { backend, tag: key.tag() })?;
        }
        Ok(())
    }

    fn remove<S: ServiceStore>(
        &mut self,
        store: &mut S,
        key: &ServiceKey,
        now: Instant,
    ) -> Result<(), WriteMapFailed> {
        store.delete_service(key)?;
        if let Some(old) = self.programmed.remove(key) {
            self.retire_slots(old.first_slot, old.backends.len() as u32, now);
            self.drop_backends(store, &old.backends, now);
            self.retired.push_back((now + GRACE, Retired::Service { id: old.id }));
        }
        Ok(())
    }

    /// The number of a known service, or a fresh one with its counters at zero.
    fn service_id<S: ServiceStore>(
        &mut self,
        store: &mut S,
        key: &ServiceKey,
    ) -> Result<u32, WriteMapFailed> {
        if let Some(known) = self.programmed.get(key) {
            return Ok(known.id);
        }
        let id = self.take_number(store, map::SERVICES, |writer| writer.service_ids.next())?;
        if let Err(error) = store.clear_counters(id) {
            self.service_ids.give_back(id);
            return Err(error);
        }
        Ok(id)
    }

    fn hold_backend<S: ServiceStore>(
        &mut self,
        store: &mut S,
        address: BackendAddress,
    ) -> Result<u32, WriteMapFailed> {
        if let Some(known) = self.backends.get_mut(&address) {
            known.users += 1;
            return Ok(known.id);
        }
        let id = self.take_number(store, map::BACKENDS, |writer| writer.backend_ids.next())?;
        let BackendAddress { address: ip, port } = address;
        let entry = Backend { address: ip, port, state: state::ACTIVE, pad: 0 };
        if let Err(error) = store.put_backend(id, &entry) {
            self.backend_ids.give_back(id);
            return Err(error);
        }
        self.backends.insert(address, NumberedBackend { id, users: 1 });
        Ok(id)
    }

    /// Gives up one use of each backend. One that nobody uses takes no new flow from now on.
    fn drop_backends<S: ServiceStore>(
        &mut self,
        store: &mut S,
        addresses: &[BackendAddress],
        now: Instant,
    ) {
        for address in addresses {
            let Some(backend) = self.backends.get_mut(address) else { continue };
            backend.users -= 1;
            if backend.users > 0 {
                continue;
            }
            let id = backend.id;
            self.backends.remove(address);
            let free = Backend { state: state::FREE, ..Backend::default() };
            // An entry that could not be cleared is written anew before it is used again.
            let _ = store.put_backend(id, &free);
            self.retired.push_back((now + GRACE, Retired::Backend { id }));
        }
    }

    fn retire_slots(&mut self, first: u32, count: u32, now: Instant) {
        if count > 0 {
            self.retired.push_back((now + GRACE, Retired::Slots { first, count }));
        }
    }

    fn take_slots<S: ServiceStore>(
        &mut self,
        store: &mut S,
        count: u32,
    ) -> Result<u32, WriteMapFailed> {
        self.take_number(store, map::SLOTS, |writer| writer.slots.next(count))
    }

    /// Takes what `next` finds, waiting for what is about to be given back.
    fn take_number<S: ServiceStore>(
        &mut self,
        store: &mut S,
        map: &'static str,
        next: impl Fn(&mut Self) -> Option<u32>,
    ) -> Result<u32, WriteMapFailed> {
        loop {
            if let Some(found) = next(self) {
                return Ok(found);
            }
            let Some((due, _)) = self.retired.front() else {
                return Err(store.full(map));
            };
            let due = *due;
            store.wait_until(due);
            self.release(due);
        }
    }

    /// Gives back what has been retired long enough.
    fn release(&mut self, now: Instant) {
        while self.retired.front().is_some_and(|(due, _)| *due <= now) {
            match self.retired.pop_front() {
                Some((_, Retired::Slots { first, count })) => self.slots.give_back(first, count),
                Some((_, Retired::Backend { id })) => self.backend_ids.give_back(id),
                Some((_, Retired::Service { id })) => self.service_ids.give_back(id),
                None => return,
            }
        }
    }
}

fn name_of(key: &ServiceKey) -> String {
    let protocol = if key.protocol == protocol::UDP { "udp" } else { "tcp" };
    format!("{}:{}/{protocol}", IpAddr::from(key.address), key.port.get())
}

#[cfg(test)]
mod tests;
