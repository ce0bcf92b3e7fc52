//! Gives a pinned map another size without losing what it holds.
//!
//! A map cannot grow. Before loading, a map of another size is set aside under another name; the
//! loader then makes one of the wanted size, the entries are copied, the programs switch over, and
//! only then the old map goes, after what programs wrote to it meanwhile was copied. A crash in
//! between is noticed at the next start: what was set aside is put back and the work begins again.
//! Counters start empty at another size; of the LRU maps and of PEERS as much is copied as fits.

use std::path::PathBuf;

use bowline_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, Peer, Plain, Pod, ReverseKey,
    Route, RouteKey, Service, ServiceKey, Slot, map,
};

use super::pins::Pins;
use super::table::{Table, WriteMapFailed};
use super::{MapSizes, OpenDatapathFailed, mark_pods, syscall};

const ASIDE: &str = "ASIDE_";

/// Sets aside each pinned map whose size is not the wanted one.
pub(super) fn set_aside(
    pins: &Pins,
    sizes: &MapSizes,
) -> Result<Vec<&'static str>, OpenDatapathFailed> {
    let mut resized = Vec::new();
    for (map, size) in sizes.by_map() {
        let failed =
            |error: std::io::Error| OpenDatapathFailed::Resize { map, message: error.to_string() };
        let (pin, aside) = (pins.maps.join(map), aside(pins, map));
        if aside.exists() {
            if pin.exists() {
                std::fs::remove_file(&pin).map_err(failed)?;
            }
            std::fs::rename(&aside, &pin).map_err(failed)?;
        }
        let Some(found) = syscall::open_pin(&pin).map_err(failed)? else { continue };
        use std::os::fd::AsFd;
        let (_, _, found) = syscall::map_shape(found.as_fd()).map_err(failed)?;
        if found != size {
            std::fs::rename(&pin, &aside).map_err(failed)?;
            resized.push(map);
        }
    }
    Ok(resized)
}

/// Copies the entries of the maps that were set aside.
pub(super) fn copy_back(pins: &Pins, resized: &[&'static str]) -> Result<(), OpenDatapathFailed> {
    for map in resized {
        let copied = match *map {
            map::SERVICES => copy::<ServiceKey, Service>(pins, map, None),
            map::ADDRESSES => copy::<Address, u32>(pins, map, None),
            map::SLOTS => copy::<u32, Slot>(pins, map, Some(|slot| slot.tag != 0)),
            map::BACKENDS => copy::<u32, Backend>(pins, map, Some(|backend| backend.state != 0)),
            // The old programs mark pods in the old map to the last moment.
            map::PODS => copy::<Address, Pod>(pins, map, None).and_then(|()| mark_pods(&pins.maps)),
            map::ROUTES => copy::<RouteKey, Route>(pins, map, None),
            map => copy_remembered(pins, map),
        };
        copied.inspect_err(|_| put_back(pins, resized))?;
    }
    Ok(())
}

/// Maps that programs write all the time. What the new one has already stays.
fn copy_remembered(pins: &Pins, map: &'static str) -> Result<(), OpenDatapathFailed> {
    match map {
        map::FLOWS => copy_missing::<FlowKey, Flow>(pins, map),
        map::PEERS => copy_peers(pins),
        map::REVERSE => copy_missing::<ReverseKey, Frontend>(pins, map),
        map::AFFINITY => copy_missing::<AffinityKey, Affinity>(pins, map),
        _ => Ok(()),
    }
}

/// Ends a resize: the programs use the new maps.
pub(super) fn discard(pins: &Pins, resized: &[&'static str]) -> Result<(), OpenDatapathFailed> {
    for map in resized {
        copy_remembered(pins, map)?;
        std::fs::remove_file(aside(pins, map))
            .map_err(|error| OpenDatapathFailed::Resize { map, message: error.to_string() })?;
    }
    Ok(())
}

/// Undoes `set_aside`: the running programs still use those maps. What fails here is tried again
/// at the next start.
fn put_back(pins: &Pins, resized: &[&'static str]) {
    for map in resized {
        let _ = std::fs::remove_file(pins.maps.join(map));
        let _ = std::fs::rename(aside(pins, map), pins.maps.join(map));
    }
}

/// The map that the programs use, also after a resize that was broken off.
pub(super) fn in_use(pins: &Pins, map: &str) -> PathBuf {
    let aside = aside(pins, map);
    if aside.exists() { aside } else { pins.maps.join(map) }
}

fn aside(pins: &Pins, map: &str) -> PathBuf {
    pins.maps.join(format!("{ASIDE}{map}"))
}

/// A socket's place hangs on the size. Where two have one place now, the newer socket gets it.
fn copy_peers(pins: &Pins) -> Result<(), OpenDatapathFailed> {
    let old: Table<u32, Peer> = Table::open_as(&aside(pins, map::PEERS), map::PEERS)?;
    let new: Table<u32, Peer> = Table::open(&pins.maps, map::PEERS)?;
    let mut peers: Vec<Peer> = Vec::new();
    old.visit(|_, peer| peers.extend((peer.cookie != 0).then_some(peer)))?;
    new.visit(|_, peer| peers.extend((peer.cookie != 0).then_some(peer)))?;
    // Of one socket that is in both the new map's comes last.
    peers.sort_by_key(|peer| peer.cookie);
    let last = new.size() - 1;
    let places: Vec<u32> = peers.iter().map(|peer| Peer::place(peer.cookie, last)).collect();
    Ok(new.put_all(&places, &peers)?)
}

/// Of maps that let go of the oldest entries themselves.
fn copy_missing<K: Plain, V: Plain>(
    pins: &Pins,
    map: &'static str,
) -> Result<(), OpenDatapathFailed> {
    let old: Table<K, V> = Table::open_as(&aside(pins, map), map)?;
    let new: Table<K, V> = Table::open(&pins.maps, map)?;
    for (key, value) in old.entries()? {
        if new.get(&key)?.is_none() {
            new.put(&key, &value)?;
        }
    }
    Ok(())
}

fn copy<K: Plain, V: Plain>(
    pins: &Pins,
    map: &'static str,
    used: Option<fn(&V) -> bool>,
) -> Result<(), OpenDatapathFailed> {
    let old: Table<K, V> = Table::open_as(&aside(pins, map), map)?;
    let new: Table<K, V> = Table::open(&pins.maps, map)?;
    for (key, value) in old.entries()? {
        if used.is_some_and(|used| !used(&value)) {
            continue;
        }
        match new.put(&key, &value) {
            Err(error @ WriteMapFailed::Full { .. }) => {
                return Err(OpenDatapathFailed::Resize {
                    map,
                    message: format!("what it holds does not fit: {error}"),
                });
            }
            result => result?,
        }
    }
    Ok(())
}
