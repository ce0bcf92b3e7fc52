//! Reading a node's pinned maps, as the data plane does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use bowline_ebpf_abi::{Address, Backend, Service, ServiceKey, U16Be, map, protocol, state};

const KEY: usize = size_of::<ServiceKey>();
const VALUE: usize = size_of::<Service>();
const ADDRESS: usize = size_of::<Address>();

/// The pins of one node.
pub struct Maps {
    pins: PathBuf,
}

/// The SERVICES map, opened.
pub struct Services(HashMap<MapData, [u8; KEY], [u8; VALUE]>);

impl Maps {
    pub(crate) fn new(pins: PathBuf) -> Self {
        Self { pins }
    }

    /// Open SERVICES.
    pub fn services(&self) -> Result<Services> {
        let path = self.pins.join(map::SERVICES);
        let data = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
        Ok(Services(HashMap::try_from(Map::HashMap(data))?))
    }
}

/// What a node's maps hold of services, as bytes. A service that is written anew has other slots,
/// whatever else stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    services: BTreeMap<[u8; KEY], [u8; VALUE]>,
    backends: BTreeMap<usize, [u8; size_of::<Backend>()]>,
}

impl Dump {
    /// Takes the TCP and UDP entries of an address out; how many there were.
    pub fn take_service(&mut self, address: Ipv4Addr) -> usize {
        let before = self.services.len();
        let wanted = &key(address, 0)[..ADDRESS];
        self.services.retain(|key, _| key[..ADDRESS] != *wanted);
        before - self.services.len()
    }
}

impl Maps {
    /// Everything that matters to a connection.
    pub fn dump(&self) -> Result<Dump> {
        let backends = self.backends()?.into_iter().enumerate();
        let backends = backends.filter(|(_, entry)| entry.iter().any(|byte| *byte != 0)).collect();
        Ok(Dump { services: self.services()?.dump()?, backends })
    }

    fn backends(&self) -> Result<Vec<[u8; size_of::<Backend>()]>> {
        let path = self.pins.join(map::BACKENDS);
        let data = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
        let backends: Array<MapData, [u8; size_of::<Backend>()]> =
            Array::try_from(Map::Array(data))?;
        Ok(backends.iter().collect::<Result<_, _>>()?)
    }

    /// How many entries of BACKENDS take connections.
    pub fn active_backends(&self) -> Result<usize> {
        let at = std::mem::offset_of!(Backend, state);
        Ok(self.backends()?.iter().filter(|entry| entry[at] == state::ACTIVE).count())
    }
}

impl Services {
    /// Every entry, as bytes: two dumps are the same when nothing was written that differs.
    pub fn dump(&self) -> Result<BTreeMap<[u8; KEY], [u8; VALUE]>> {
        Ok(self.0.iter().collect::<Result<_, _>>()?)
    }

    /// Remove a TCP service, as somebody might by hand.
    pub fn remove(&mut self, address: Ipv4Addr, port: u16) -> Result<()> {
        Ok(self.0.remove(&key(address, port))?)
    }

    /// How many slots a TCP service has, that is: ready backends. None when it is unknown.
    pub fn slot_count(&self, address: Ipv4Addr, port: u16) -> Option<u32> {
        self.word(address, port, std::mem::offset_of!(Service, slot_count))
    }

    /// Where a TCP service's slots begin: elsewhere after every change of its backends.
    pub fn first_slot(&self, address: Ipv4Addr, port: u16) -> Option<u32> {
        self.word(address, port, std::mem::offset_of!(Service, first_slot))
    }

    fn word(&self, address: Ipv4Addr, port: u16, at: usize) -> Option<u32> {
        let value = self.0.get(&key(address, port), 0).ok()?;
        Some(u32::from_ne_bytes(value[at..at + 4].try_into().ok()?))
    }
}

/// The key's bytes: the layout's own fields, in its own order.
fn key(address: Ipv4Addr, port: u16) -> [u8; KEY] {
    let key = ServiceKey::new(Address::from(address), U16Be::new(port), protocol::TCP);
    let mut bytes = [0; KEY];
    for (index, word) in key.address.words().iter().enumerate() {
        bytes[index * 4..index * 4 + 4].copy_from_slice(&word.bits().to_ne_bytes());
    }
    let at = std::mem::offset_of!(ServiceKey, port);
    bytes[at..at + 2].copy_from_slice(&key.port.bits().to_ne_bytes());
    bytes[std::mem::offset_of!(ServiceKey, protocol)] = key.protocol;
    bytes
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn a_key_is_the_mapped_address_the_port_and_the_protocol() {
        let mut expected = vec![0; 10];
        expected.extend([0xff, 0xff, 10, 9, 8, 7, 0, 80, 6, 0]);
        assert_eq!(key([10, 9, 8, 7].into(), 80).to_vec(), expected);
    }
}
