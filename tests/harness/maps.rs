//! A node's pinned maps: reading them, as the data plane does, and breaking them, as somebody might
//! by hand.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use bowline_ebpf_abi::{
    Address, Backend, Pod, Route, RouteKey, Service, ServiceKey, Slot, U16Be, V4_PREFIX_OFFSET,
    map, protocol, state,
};

const KEY: usize = size_of::<ServiceKey>();
const VALUE: usize = size_of::<Service>();
const ADDRESS: usize = size_of::<Address>();
const SLOT: usize = size_of::<Slot>();
const POD: usize = size_of::<Pod>();

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
        Ok(Services(HashMap::try_from(Map::HashMap(self.open(map::SERVICES)?))?))
    }

    /// Open one of those that the agent keeps in order, to be damaged.
    pub fn table(&self, name: &str) -> Result<Box<dyn Table>> {
        let data = self.open(name)?;
        Ok(match name {
            map::SERVICES => Box::new(Keyed::<KEY, VALUE>::try_from(Map::HashMap(data))?),
            map::PODS => Box::new(Keyed::<ADDRESS, POD>::try_from(Map::HashMap(data))?),
            map::ROUTES => Box::new(Routes::try_from(Map::LpmTrie(data))?),
            map::SLOTS => Box::new(Places::<SLOT>::try_from(Map::Array(data))?),
            map::BACKENDS => {
                Box::new(Places::<{ size_of::<Backend>() }>::try_from(Map::Array(data))?)
            }
            _ => bail!("nobody keeps {name} in order"),
        })
    }

    fn open(&self, name: &str) -> Result<MapData> {
        let path = self.pins.join(name);
        MapData::from_pin(&path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))
    }
}

/// A map as bytes. What is removed from an array becomes zeros.
pub trait Table {
    /// The value of a key, where there is one.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Write an entry, maybe a new one.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Remove an entry.
    fn remove(&mut self, key: &[u8]) -> Result<()>;
}

type Keyed<const K: usize, const V: usize> = HashMap<MapData, [u8; K], [u8; V]>;
type Places<const V: usize> = Array<MapData, [u8; V]>;
type Routes = LpmTrie<MapData, [u8; ADDRESS], [u8; size_of::<Route>()]>;

impl<const K: usize, const V: usize> Table for Keyed<K, V> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(HashMap::get(self, &key.try_into()?, 0).ok().map(|value| value.to_vec()))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.insert(<[u8; K]>::try_from(key)?, <[u8; V]>::try_from(value)?, 0)?)
    }

    fn remove(&mut self, key: &[u8]) -> Result<()> {
        Ok(HashMap::remove(self, &key.try_into()?)?)
    }
}

impl<const V: usize> Table for Places<V> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(Some(Array::get(self, &place(key)?, 0)?.to_vec()))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.set(place(key)?, <[u8; V]>::try_from(value)?, 0)?)
    }

    fn remove(&mut self, key: &[u8]) -> Result<()> {
        Ok(self.set(place(key)?, [0; V], 0)?)
    }
}

impl Table for Routes {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(LpmTrie::get(self, &range(key)?, 0).ok().map(|value| value.to_vec()))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.insert(&range(key)?, <[u8; size_of::<Route>()]>::try_from(value)?, 0)?)
    }

    fn remove(&mut self, key: &[u8]) -> Result<()> {
        Ok(LpmTrie::remove(self, &range(key)?)?)
    }
}

fn place(key: &[u8]) -> Result<u32> {
    Ok(u32::from_ne_bytes(key.try_into()?))
}

/// A key of ROUTES: the length of the prefix, and then the address.
fn range(key: &[u8]) -> Result<Key<[u8; ADDRESS]>> {
    let (length, address) = key.split_at(offset_of!(RouteKey, address));
    Ok(Key::new(place(length)?, address.try_into()?))
}

/// An entry of SERVICES, and the entries of SLOTS that it has.
type Slotted = ([u8; VALUE], Vec<[u8; SLOT]>);

/// What a node's maps hold by which packets find their way, as bytes. A service that is written
/// anew has other slots, whatever else stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    services: BTreeMap<[u8; KEY], Slotted>,
    /// Those of BACKENDS that are not empty.
    backends: BTreeMap<usize, [u8; size_of::<Backend>()]>,
    /// Without what the programs note in PODS.
    pods: BTreeMap<[u8; ADDRESS], [u8; POD]>,
    routes: BTreeMap<(u32, [u8; ADDRESS]), [u8; size_of::<Route>()]>,
}

impl Dump {
    /// Takes the TCP and UDP entries of an address out, with their slots; how many there were.
    pub fn take_service(&mut self, address: Ipv4Addr) -> usize {
        let before = self.services.len();
        let wanted = &key(address, 0)[..ADDRESS];
        self.services.retain(|key, _| key[..ADDRESS] != *wanted);
        before - self.services.len()
    }
}

impl Maps {
    /// What SERVICES, SLOTS, BACKENDS, PODS and ROUTES hold.
    pub fn dump(&self) -> Result<Dump> {
        let slots = Places::<SLOT>::try_from(Map::Array(self.open(map::SLOTS)?))?;
        let mut services = BTreeMap::new();
        for (key, value) in self.services()?.dump()? {
            let word = |at| word(&value, at);
            let first = word(offset_of!(Service, first_slot));
            let end = first + word(offset_of!(Service, slot_count));
            let own = (first..end).map(|index| slots.get(&index, 0)).collect::<Result<_, _>>()?;
            services.insert(key, (value, own));
        }
        let backends = self.backends()?.into_iter().enumerate();
        let backends = backends.filter(|(_, entry)| entry.iter().any(|byte| *byte != 0)).collect();
        let pods = Keyed::<ADDRESS, POD>::try_from(Map::HashMap(self.open(map::PODS)?))?;
        let pods = pods.iter().map(|entry| {
            let (address, mut pod) = entry?;
            pod[offset_of!(Pod, flags)..][..size_of::<u16>()].fill(0);
            Ok((address, pod))
        });
        let pods = pods.collect::<Result<_>>()?;
        let routes = Routes::try_from(Map::LpmTrie(self.open(map::ROUTES)?))?;
        let routes = routes.iter().map(|entry| {
            let (range, route) = entry?;
            Ok(((range.prefix_len(), range.data()), route))
        });
        Ok(Dump { services, backends, pods, routes: routes.collect::<Result<_>>()? })
    }

    fn backends(&self) -> Result<Vec<[u8; size_of::<Backend>()]>> {
        let backends: Places<{ size_of::<Backend>() }> =
            Array::try_from(Map::Array(self.open(map::BACKENDS)?))?;
        Ok(backends.iter().collect::<Result<_, _>>()?)
    }

    /// How many entries of BACKENDS take connections.
    pub fn active_backends(&self) -> Result<usize> {
        let at = offset_of!(Backend, state);
        Ok(self.backends()?.iter().filter(|entry| entry[at] == state::ACTIVE).count())
    }
}

impl Services {
    fn dump(&self) -> Result<BTreeMap<[u8; KEY], [u8; VALUE]>> {
        Ok(self.0.iter().collect::<Result<_, _>>()?)
    }

    /// Remove a TCP service, as somebody might by hand.
    pub fn remove(&mut self, address: Ipv4Addr, port: u16) -> Result<()> {
        Ok(self.0.remove(&key(address, port))?)
    }

    /// How many slots a TCP service has, that is: ready backends. None when it is unknown.
    pub fn slot_count(&self, address: Ipv4Addr, port: u16) -> Option<u32> {
        self.word(address, port, offset_of!(Service, slot_count))
    }

    /// Where a TCP service's slots begin: elsewhere after every change of its backends.
    pub fn first_slot(&self, address: impl Into<Address>, port: u16) -> Option<u32> {
        self.word(address, port, offset_of!(Service, first_slot))
    }

    fn word(&self, address: impl Into<Address>, port: u16, at: usize) -> Option<u32> {
        Some(word(&self.0.get(&key(address, port), 0).ok()?, at))
    }
}

fn word(value: &[u8; VALUE], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|index| value[at + index]))
}

/// The key of a range of addresses in ROUTES, written as usual.
pub fn range_key(range: &str) -> Result<Vec<u8>> {
    let (address, length) = range.split_once('/').context("a range without a length")?;
    let (address, length): (IpAddr, u32) = (address.parse()?, length.parse()?);
    let offset = if address.is_ipv4() { V4_PREFIX_OFFSET } else { 0 };
    let length = (length + offset).to_ne_bytes();
    Ok(length.into_iter().chain(address_key(address)).collect())
}

/// An address as keys hold it.
pub fn address_key(address: impl Into<Address>) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    for (index, word) in address.into().words().iter().enumerate() {
        bytes[index * 4..index * 4 + 4].copy_from_slice(&word.bits().to_ne_bytes());
    }
    bytes
}

/// The key of a TCP service: the layout's own fields, in its own order.
pub fn key(address: impl Into<Address>, port: u16) -> [u8; KEY] {
    let key = ServiceKey::new(address.into(), U16Be::new(port), protocol::TCP);
    let mut bytes = [0; KEY];
    bytes[..ADDRESS].copy_from_slice(&address_key(key.address));
    let at = offset_of!(ServiceKey, port);
    bytes[at..at + 2].copy_from_slice(&key.port.bits().to_ne_bytes());
    bytes[offset_of!(ServiceKey, protocol)] = key.protocol;
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::key;

    #[test]
    fn a_key_is_the_mapped_address_the_port_and_the_protocol() {
        let mut expected = vec![0; 10];
        expected.extend([0xff, 0xff, 10, 9, 8, 7, 0, 80, 6, 0]);
        assert_eq!(key(Ipv4Addr::new(10, 9, 8, 7), 80).to_vec(), expected);
    }
}
