//! Gives a pinned map another size without losing what it holds.
//!
//! A map cannot grow. Before loading, a map of another size is set aside under another name; the
//! loader then makes one of the wanted size, the entries are copied, the programs switch over, and
//! only then the old map goes, after what programs wrote to it meanwhile was copied. A crash in
//! between is noticed at the next start: what was set aside is put back and the work begins again.
//! Counters start empty at another size; of the LRU maps and of PEERS as much is copied as fits.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use bowline_ebpf_abi::map;
use nix::libc;

use super::copy::{Carried, Pinned, copy};
use super::layouts::Layouts;
use super::pins::Pins;
use super::{MapSizes, OpenDatapathFailed, mark_pods, sizes, syscall};

const ASIDE: &str = "ASIDE_";

/// Maps that only the agent writes: all that they hold has to fit.
const WRITTEN: [&str; 6] =
    [map::SERVICES, map::ADDRESSES, map::SLOTS, map::BACKENDS, map::PODS, map::ROUTES];

/// Maps that the programs write all the time.
const REMEMBERED: [&str; 4] = [map::FLOWS, map::PEERS, map::REVERSE, map::AFFINITY];

/// Maps on their way to another size.
pub(super) struct Resize {
    pins: Pins,
    maps: Vec<&'static str>,
    carried: Carried,
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> OpenDatapathFailed {
    move |error| OpenDatapathFailed::Resize { map, message: error.to_string() }
}

impl Resize {
    /// Sets aside each pinned map whose size is not the wanted one.
    pub(super) fn begin(pins: &Pins, sizes: &MapSizes) -> Result<Self, OpenDatapathFailed> {
        let mut maps = Vec::new();
        for (map, size) in sizes.by_map() {
            let failed = failed(map);
            let (pin, aside) = (pins.maps.join(map), aside(pins, map));
            if aside.exists() {
                if pin.exists() {
                    std::fs::remove_file(&pin).map_err(&failed)?;
                }
                std::fs::rename(&aside, &pin).map_err(&failed)?;
            }
            let Some(found) = syscall::open_pin(&pin).map_err(&failed)? else { continue };
            if syscall::map_info(found.as_fd()).map_err(&failed)?.max_entries != size {
                std::fs::rename(&pin, &aside).map_err(failed)?;
                maps.push(map);
            }
        }
        Ok(Self { pins: pins.clone(), maps, carried: Carried::default() })
    }

    /// Copies what was set aside to the maps that the loader made.
    pub(super) fn fill(&mut self) -> Result<(), OpenDatapathFailed> {
        self.copy(&WRITTEN)
            .and_then(|()| self.copy(&REMEMBERED))
            .inspect_err(|_| self.put_back())?;
        if self.maps.contains(&map::PODS) {
            // The old programs mark pods in the old map to the last moment.
            mark_pods::<OpenDatapathFailed>(&self.pins.maps).inspect_err(|_| self.put_back())?;
        }
        Ok(())
    }

    /// The programs use the new maps. The old ones go whatever happens: the next start would put
    /// them back.
    pub(super) fn finish(mut self) -> Result<(), OpenDatapathFailed> {
        let copied = self.copy(&REMEMBERED);
        let remove =
            |map: &&'static str| std::fs::remove_file(aside(&self.pins, map)).map_err(failed(map));
        self.maps.iter().map(remove).fold(copied, Result::and)
    }

    /// Those of the maps that get another size.
    fn copy(&mut self, maps: &[&'static str]) -> Result<(), OpenDatapathFailed> {
        let layouts = &Layouts::own();
        for map in maps.iter().filter(|map| self.maps.contains(map)) {
            let from = Pinned { path: aside(&self.pins, map), layouts };
            let to = Pinned { path: self.pins.maps.join(map), layouts };
            copy(&from, &to, map, Some(&mut self.carried)).map_err(|error| {
                let message = match error.raw_os_error() {
                    Some(libc::E2BIG | libc::ENOSPC) => format!(
                        "what it holds does not fit: give it a larger {}",
                        sizes::flag_of(map).unwrap_or_default()
                    ),
                    _ => error.to_string(),
                };
                OpenDatapathFailed::Resize { map, message }
            })?;
        }
        Ok(())
    }

    /// Undoes the beginning: the running programs still use those maps. What fails here is tried
    /// again at the next start.
    fn put_back(&self) {
        for map in &self.maps {
            let _ = std::fs::remove_file(self.pins.maps.join(map));
            let _ = std::fs::rename(aside(&self.pins, map), self.pins.maps.join(map));
        }
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
