//! The part of the way on which a service is found, and who of its backends may be chosen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bowline_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Edition, Reason, Service, ServiceKey, ServiceLine,
    Slot, U32Be, affinity_kind, map, state,
};

use super::super::kernel::namespace_cookie;
use super::super::snapshot::{monotonic_ns, protocol_name};
use super::super::table::Table;
use super::{Client, ExplainFailed, Sender, Way};

impl Way<'_> {
    /// Whom the hook may choose; nothing if the call is refused. A destination that is no service's
    /// stays itself.
    pub(super) fn balance(
        &mut self,
        sender: Option<&Sender>,
    ) -> Result<Option<Vec<SocketAddr>>, ExplainFailed> {
        let (key, to) = (self.key(), self.question.to);
        let itself = Ok(Some(vec![to]));
        let shown = format!("{to}/{}", self.told.protocol);
        let maps = self.pins.maps.clone();
        let edition: Table<u32, Edition> = Table::open(&maps, map::EDITION)?;
        let services: Table<ServiceKey, Service> = Table::open(&maps, map::SERVICES)?;
        let service = services.get(&key)?;
        if !edition.get(&0)?.is_some_and(|edition| edition.spans(&key.address)) {
            match service {
                Some(_) => self.fault(
                    map::EDITION,
                    to.ip(),
                    "outside of all services, yet SERVICES has it",
                ),
                None => self.step(map::EDITION, to.ip(), "no service has an address like this"),
            }
            return itself;
        }
        let Some(service) = service else {
            return self.unless_address(&services, &shown, sender);
        };
        let named = self.names.services.get(&to.ip());
        self.told.service = named.map(|service| format!("{}/{}", service.namespace, service.name));
        self.line(&key, &service, &shown)?;
        let affinity = match service.affinity_seconds {
            0 => String::new(),
            seconds => format!(", clients stay for {seconds} s"),
        };
        let name = self.told.service.clone().filter(|_| !self.question.numeric);
        let name = name.unwrap_or_else(|| "a service".to_owned());
        let (count, first) = (service.slot_count, service.first_slot);
        self.step(
            map::SERVICES,
            &shown,
            format!("{name}: number {}, {count} slots from {first}{affinity}", service.id),
        );
        if count == 0 {
            self.refused(map::SLOTS, &shown, "no backend is ready", Reason::NoBackend);
            return Ok(None);
        }
        self.slots(&key, &service)
    }

    fn unless_address(
        &mut self,
        services: &Table<ServiceKey, Service>,
        shown: &str,
        sender: Option<&Sender>,
    ) -> Result<Option<Vec<SocketAddr>>, ExplainFailed> {
        let addresses: Table<Address, u32> = Table::open(&self.pins.maps, map::ADDRESSES)?;
        let (key, to) = (self.key(), self.question.to);
        if addresses.get(&key.address)?.is_none() {
            self.step(map::SERVICES, shown, "no service has this address");
            return Ok(Some(vec![to]));
        }
        let ports = services.keys()?.into_iter().filter(|other| other.address == key.address);
        let mut ports: Vec<String> = ports
            .map(|other| format!("{}/{}", other.port.get(), protocol_name(other.protocol)))
            .collect();
        ports.sort_unstable();
        let ports = format!("the address is a service's, which has {} only", ports.join(", "));
        // An unconnected datagram of a pod is left to its link.
        let at = if self.question.udp && sender.is_some() { "from_pod" } else { map::SERVICES };
        self.refused(at, shown, &ports, Reason::UnknownPort);
        Ok(None)
    }

    /// What connect() reads before SERVICES.
    fn line(
        &mut self,
        key: &ServiceKey,
        service: &Service,
        shown: &str,
    ) -> Result<(), ExplainFailed> {
        let lines: Table<u32, ServiceLine> = Table::open(&self.pins.maps, map::SERVICE_LINES)?;
        let place = key.place(lines.size());
        let looks_up = format!("{shown} at {place}");
        match lines.get(&place)?.filter(|line| line.key == *key) {
            Some(line) if line.service != *service => {
                self.fault(map::SERVICE_LINES, looks_up, "differs from the map SERVICES");
            }
            Some(line) if line.near.count > 0 => {
                let finds = format!("{} backends in one cache line", line.near.count);
                self.step(map::SERVICE_LINES, looks_up, finds);
            }
            Some(_) => {
                self.step(map::SERVICE_LINES, looks_up, "the service; backends are in SLOTS");
            }
            None => self.step(map::SERVICE_LINES, looks_up, "not cached here"),
        }
        Ok(())
    }

    fn slots(
        &mut self,
        key: &ServiceKey,
        service: &Service,
    ) -> Result<Option<Vec<SocketAddr>>, ExplainFailed> {
        let slots: Table<u32, Slot> = Table::open(&self.pins.maps, map::SLOTS)?;
        let backends: Table<u32, Backend> = Table::open(&self.pins.maps, map::BACKENDS)?;
        let mut shares: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        let (mut wrong, mut nobody) = (Vec::new(), Vec::new());
        let end = service.first_slot.saturating_add(service.slot_count).min(slots.size());
        for index in service.first_slot..end {
            let slot = slots.get(&index)?.unwrap_or_default();
            let backend = backends.get(&slot.backend)?.unwrap_or_default();
            if slot.tag != key.tag() {
                wrong.push(index);
            } else if backend.state != state::ACTIVE {
                nobody.push(slot.backend);
            } else {
                let end = SocketAddr::new(backend.address.into(), backend.port.get());
                *shares.entry(end).or_default() += 1;
            }
        }
        if let Some(first) = wrong.first() {
            let finds = format!("{} slots are not this service's", wrong.len());
            self.fault(map::SLOTS, format!("from {first}"), finds);
        }
        if let Some(first) = nobody.first() {
            let finds = format!("{} numbers are nobody's", nobody.len());
            self.fault(map::BACKENDS, format!("from {first}"), finds);
        }
        for (end, share) in &shares {
            let finds = match shares.len() {
                1 => "the only candidate".to_owned(),
                _ => format!("a candidate, {share} of {} slots", service.slot_count),
            };
            let looks_up = self.target(end);
            self.step(map::BACKENDS, looks_up, finds);
        }
        let candidates: Vec<SocketAddr> = shares.into_keys().collect();
        self.told.kept = self.kept(service, &candidates)?;
        Ok(Some(candidates))
    }

    /// The candidate that this client stays with already.
    fn kept(
        &mut self,
        service: &Service,
        candidates: &[SocketAddr],
    ) -> Result<Option<SocketAddr>, ExplainFailed> {
        if service.affinity_seconds == 0 {
            return Ok(None);
        }
        let Some((kind, name, shown)) = self.as_client() else {
            self.step(map::AFFINITY, "the client", "this kernel does not tell its number");
            return Ok(None);
        };
        let table: Table<AffinityKey, Affinity> = Table::open(&self.pins.maps, map::AFFINITY)?;
        let backends: Table<u32, Backend> = Table::open(&self.pins.maps, map::BACKENDS)?;
        let Some(entry) = table.get(&AffinityKey { service: service.id, kind, client: name })?
        else {
            self.step(map::AFFINITY, shown, "stays with nobody yet");
            return Ok(None);
        };
        let idle = monotonic_ns().saturating_sub(entry.last_used_ns) / 1_000_000_000;
        let backend = backends.get(&entry.backend)?.unwrap_or_default();
        let end = SocketAddr::new(backend.address.into(), backend.port.get());
        let left = u64::from(service.affinity_seconds).saturating_sub(idle);
        if left == 0 || !candidates.contains(&end) {
            self.step(map::AFFINITY, shown, "stayed with one that it is not kept to any more");
            return Ok(None);
        }
        let finds = format!("stays with {}, for {left} s more if nothing comes", self.target(&end));
        self.step(map::AFFINITY, shown, finds);
        Ok(Some(end))
    }

    /// What the client is known by: kind and name as in the map, and in words.
    fn as_client(&self) -> Option<(u32, Address, String)> {
        if let (Client::Pod(address), true) = (&self.question.from, self.by_packets) {
            return Some((affinity_kind::ADDRESS, (*address).into(), address.to_string()));
        }
        let netns = match self.question.from {
            Client::Pod(_) => self.told.netns.as_ref(),
            Client::Node => self.place.netns.as_ref(),
        };
        let own = Path::new("/proc/thread-self/ns/net");
        let cookie = namespace_cookie(netns.map_or(own, PathBuf::as_path)).ok()?;
        let words = [(cookie >> 32) as u32, cookie as u32, 0, 0];
        let name = Address::from_words(words.map(U32Be::from_bits));
        let shown = format!("network namespace {cookie}");
        Some((affinity_kind::NETWORK_NAMESPACE, name, shown))
    }
}
