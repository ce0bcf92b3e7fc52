//! Applies the service plan to the maps.
//!
//! Guarantees: a backend set changes in one map update: backends and a fresh range of slots are
//! written first, then the SERVICES entry is swapped, then what it used before is given back. Slots
//! and backend numbers are not given to anybody else until a grace time has passed, so a program
//! that read the old entry finds what it expects. A step that fails leaves its service as it was,
//! and the other steps are still taken. The state is recovered from the maps after a restart.
//! Not here: deciding what to change; that is `plan::services`.

mod allocate;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bowline_ebpf_abi::{Address, Backend, Service, ServiceKey, Slot, map, protocol, state};

use crate::datapath::WriteMapFailed;
use crate::plan::services::{BackendAddress, ProgrammedService, ServiceStep, WantedService};
use allocate::{Numbers, Ranges};

/// A packet program runs for microseconds; a socket program can be preempted for longer.
const GRACE: Duration = Duration::from_millis(100);

/// The maps that hold services.
pub(crate) trait ServiceStore {
    fn put_service(&mut self, key: &ServiceKey, value: &Service) -> Result<(), WriteMapFailed>;
    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), WriteMapFailed>;
    /// Has what is sent to this address and is for none of its ports refused. May be called again.
    fn add_address(&mut self, address: &Address) -> Result<(), WriteMapFailed>;
    /// The address is no service's any more.
    fn remove_address(&mut self, address: &Address) -> Result<(), WriteMapFailed>;
    /// From now on every socket chooses its backends again.
    fn begin_edition(&mut self) -> Result<(), WriteMapFailed>;
    /// Writes a range of slots.
    fn put_slots(&mut self, first: u32, slots: &[Slot]) -> Result<(), WriteMapFailed>;
    /// Writes backends, each at its number. After a failure some may be written.
    fn put_backends(&mut self, ids: &[u32], backends: &[Backend]) -> Result<(), WriteMapFailed>;
    fn clear_counters(&mut self, service: u32) -> Result<(), WriteMapFailed>;
    /// The error for a map without room.
    fn full(&self, map: &'static str) -> WriteMapFailed;
    fn now(&self) -> Instant;
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
    pub failures: Vec<NotProgrammed>,
}

/// A virtual address that was not written, or not removed.
#[derive(Debug)]
pub struct NotProgrammed {
    pub(crate) key: ServiceKey,
    /// The service's name, or the address where the name is not known any more.
    pub(crate) service: String,
    pub error: WriteMapFailed,
}

impl ApplyServicesFailed {
    /// What is still as it was before.
    pub(crate) fn keys(&self) -> BTreeSet<ServiceKey> {
        self.failures.iter().map(|failure| failure.key).collect()
    }
}

impl fmt::Display for ApplyServicesFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(NotProgrammed { service, error, .. }) = self.failures.first() {
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
    backends: HashMap<BackendAddress, NumberedBackend>,
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
    pub(crate) fn recover(limits: ServiceLimits, mut found: Vec<FoundService>) -> Self {
        let mut writer = Self {
            programmed: BTreeMap::new(),
            backends: HashMap::new(),
            slots: Ranges::new(limits.slots),
            backend_ids: Numbers::new(limits.backends),
            service_ids: Numbers::new(limits.services),
            retired: VecDeque::new(),
        };
        // Those first whose slots are all their own: somebody may have written to the others that
        // they reach into these.
        found.sort_by_key(|service| service.backends.len() as u32 != service.value.slot_count);
        for mut service in found {
            writer.service_ids.take(service.value.id);
            if !writer.slots.take(service.value.first_slot, service.value.slot_count) {
                // It is written anew, elsewhere; what it reaches into is not its own to give back.
                service.value.slot_count = 0;
                service.backends.clear();
            }
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
                slot_count: service.value.slot_count,
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

    /// Whether any port of this virtual address is programmed.
    pub(crate) fn has_address(&self, address: Address) -> bool {
        let first = ServiceKey { address, ..ServiceKey::default() };
        self.programmed.range(first..).next().is_some_and(|(key, _)| key.address == address)
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
    ) -> Result<ServiceSummary, ApplyServicesFailed> {
        self.release(store.now());
        let mut summary = ServiceSummary::default();
        let mut failures = Vec::new();
        for step in steps {
            let (name, done, counter) = match step {
                ServiceStep::Remove { key } => {
                    (name_of(key), self.remove(store, key), &mut summary.removed)
                }
                ServiceStep::Add { key, wanted } => {
                    let name = format!("{}/{}", wanted.namespace, wanted.name);
                    (name, self.write(store, key, wanted), &mut summary.added)
                }
                ServiceStep::Change { key, wanted } => {
                    let name = format!("{}/{}", wanted.namespace, wanted.name);
                    (name, self.write(store, key, wanted), &mut summary.changed)
                }
            };
            match done {
                Ok(()) => *counter += 1,
                Err(error) => {
                    failures.push(NotProgrammed { key: *step.key(), service: name, error });
                }
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
                let put =
                    store.add_address(&key.address).and_then(|()| store.put_service(key, &value));
                if put.is_err() && !self.programmed.contains_key(key) {
                    self.service_ids.give_back(id);
                }
                put.map(|()| id)
            });
        let id = match written {
            Ok(id) => id,
            Err(error) => {
                // Nothing ever led to them: no grace is needed, and the next one need not wait.
                if count > 0 {
                    self.slots.give_back(first_slot, count);
                }
                for id in self.let_go(store, &held) {
                    self.backend_ids.give_back(id);
                }
                if !self.has_address(key.address) {
                    // It may not be there; if it stays, the next agent removes it.
                    let _ = store.remove_address(&key.address);
                }
                return Err(error);
            }
        };
        let programmed = ProgrammedService {
            id,
            first_slot,
            slot_count: count,
            affinity_seconds: wanted.affinity_seconds,
            backends: held,
        };
        let mut noted = Ok(());
        if let Some(old) = self.programmed.insert(*key, programmed) {
            noted = store.begin_edition();
            self.retire_slots(store, old.first_slot, old.slot_count);
            self.drop_backends(store, &old.backends);
        }
        noted
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
        let (mut new_ids, mut new) = (Vec::new(), Vec::new());
        let mut ids = Vec::with_capacity(wanted.backends.len());
        for address in wanted.backends.keys() {
            let (id, is_new) = self.hold_backend(store, *address)?;
            held.push(*address);
            ids.push(id);
            if is_new {
                let BackendAddress { address, port } = *address;
                new_ids.push(id);
                new.push(Backend { address, port, state: state::ACTIVE, ..Backend::default() });
            }
        }
        // Session affinity searches the slots by halves.
        ids.sort_unstable();
        let slots: Vec<Slot> =
            ids.into_iter().map(|backend| Slot { backend, tag: key.tag() }).collect();
        store.put_backends(&new_ids, &new)?;
        store.put_slots(first_slot, &slots)
    }

    fn remove<S: ServiceStore>(
        &mut self,
        store: &mut S,
        key: &ServiceKey,
    ) -> Result<(), WriteMapFailed> {
        store.delete_service(key)?;
        let mut noted = Ok(());
        if let Some(old) = self.programmed.remove(key) {
            noted = store.begin_edition();
            if !self.has_address(key.address) {
                noted = noted.and(store.remove_address(&key.address));
            }
            self.retire_slots(store, old.first_slot, old.slot_count);
            self.drop_backends(store, &old.backends);
            self.retire(store, Retired::Service { id: old.id });
        }
        noted
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

    /// Takes one use of a backend. Gives its number, and whether its entry is to be written.
    fn hold_backend<S: ServiceStore>(
        &mut self,
        store: &mut S,
        address: BackendAddress,
    ) -> Result<(u32, bool), WriteMapFailed> {
        if let Some(known) = self.backends.get_mut(&address) {
            known.users += 1;
            return Ok((known.id, false));
        }
        let id = self.take_number(store, map::BACKENDS, |writer| writer.backend_ids.next())?;
        self.backends.insert(address, NumberedBackend { id, users: 1 });
        Ok((id, true))
    }

    /// Gives up one use of each backend, and the numbers of those that nobody uses when programs
    /// have let go of them.
    fn drop_backends<S: ServiceStore>(&mut self, store: &mut S, addresses: &[BackendAddress]) {
        for id in self.let_go(store, addresses) {
            self.retire(store, Retired::Backend { id });
        }
    }

    /// Gives up one use of each backend. One that nobody uses takes no new flow from now on; their
    /// numbers come back.
    fn let_go<S: ServiceStore>(&mut self, store: &mut S, addresses: &[BackendAddress]) -> Vec<u32> {
        let mut unused = Vec::new();
        for address in addresses {
            let Some(backend) = self.backends.get_mut(address) else { continue };
            backend.users -= 1;
            if backend.users == 0 {
                unused.push(backend.id);
                self.backends.remove(address);
            }
        }
        let free = vec![Backend { state: state::FREE, ..Backend::default() }; unused.len()];
        // Entries that could not be cleared are written anew before they are used again.
        let _ = store.put_backends(&unused, &free);
        unused
    }

    fn retire_slots<S: ServiceStore>(&mut self, store: &S, first: u32, count: u32) {
        if count > 0 {
            self.retire(store, Retired::Slots { first, count });
        }
    }

    /// The grace begins now, when the maps no longer lead to it; not when the apply began.
    fn retire<S: ServiceStore>(&mut self, store: &S, what: Retired) {
        self.retired.push_back((store.now() + GRACE, what));
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

/// A virtual address, for people: `10.9.0.1:80/TCP`.
pub(crate) fn name_of(key: &ServiceKey) -> String {
    let protocol = if key.protocol == protocol::UDP { "UDP" } else { "TCP" };
    format!("{}/{protocol}", SocketAddr::new(key.address.into(), key.port.get()))
}

#[cfg(test)]
mod tests;
