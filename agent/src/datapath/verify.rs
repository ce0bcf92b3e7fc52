//! Compares the kernel with what was programmed, and mends what others damaged.
//!
//! Guarantees: only what differs is written; what was found and done is one line a map or program.
//! A map that cannot be read or written keeps nothing else from being looked at. Cheap: maps are
//! read in batches, about 10 ns an entry.
//! Not here: maps that only programs write (REVERSE, FLOWS, counters), and kernel routes, which
//! the node network loop compares.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use bowline_ebpf_abi::{
    Address, Backend, Edition, Plain, Pod, Route, RouteKey, Service, ServiceKey, ServiceLine, Slot,
    V4_PREFIX_OFFSET, pod_flags,
};

use super::Datapath;
use super::links::{self, AttachProgramFailed, LinkRepair};
use super::mirror::{Damage, Mirror};
use super::monitor;
use super::programs::PacketProgram;
use super::table::{ReadMapsFailed, WriteMapFailed};
use crate::apply::services::name_of;

/// So many damaged entries are named; the others are counted.
const NAMED: usize = 3;

/// One thing that was not as it should be, and now is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub what: String,
    pub found: String,
    pub done: &'static str,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.found, self.done)
    }
}

impl From<LinkRepair> for Repair {
    fn from(link: LinkRepair) -> Self {
        Self {
            what: format!("program {} at {}", link.program, link.target),
            found: link.found.to_owned(),
            done: "attached again",
        }
    }
}

/// Something could not be compared or mended.
#[derive(Debug, thiserror::Error)]
pub enum VerifyFailed {
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
    #[error(transparent)]
    Write(#[from] WriteMapFailed),
    #[error(transparent)]
    Attach(#[from] AttachProgramFailed),
}

/// What a verification did and could not do.
#[derive(Debug, Default)]
pub struct Verified {
    pub repairs: Vec<Repair>,
    pub failures: Vec<VerifyFailed>,
}

impl Verified {
    fn map(&mut self, mended: Result<Option<Repair>, VerifyFailed>) {
        match mended {
            Ok(repair) => self.repairs.extend(repair),
            Err(failure) => self.failures.push(failure),
        }
    }

    fn link(&mut self, mended: Result<Option<LinkRepair>, AttachProgramFailed>) {
        match mended {
            Ok(repair) => self.repairs.extend(repair.map(Repair::from)),
            Err(failure) => self.failures.push(failure.into()),
        }
    }
}

impl Datapath {
    /// Compares maps and programs with what was programmed, and mends what differs.
    pub fn verify(&mut self) -> Verified {
        let mut verified = Verified::default();
        // What an entry points to comes before the entry.
        verified.map(mend_array(&mut self.store.backends));
        verified.map(mend_array(&mut self.store.slots));
        verified.map(mend_keyed(&mut self.store.services));
        verified.map(mend_array(&mut self.store.lines));
        verified.map(mend_keyed(&mut self.store.addresses));
        verified.map(mend_array(&mut self.store.edition));
        verified.map(mend_keyed(&mut self.pods));
        verified.map(mend_keyed(&mut self.routes));
        verified.map(monitor::forget_expired(&self.pins).map(|()| None));

        match links::repair_sockets(&self.programs, &self.pins, &self.socket_cgroup) {
            Ok(repairs) => verified.repairs.extend(repairs.into_iter().map(Repair::from)),
            Err(failure) => verified.failures.push(failure.into()),
        }
        verified.link(self.repair_packets(PacketProgram::FromUplink, self.uplink));
        let tunnel = self.tunnel.as_ref().map(|tunnel| tunnel.ifindex);
        if let Some(tunnel) = tunnel.filter(|tunnel| links::interface_name(*tunnel).is_some()) {
            verified.link(self.repair_packets(PacketProgram::FromUplink, tunnel));
        }
        let interfaces: BTreeSet<u32> = self.attached.values().copied().collect();
        for ifindex in interfaces {
            // A link that is gone is made anew by the node network loop, which attaches it then.
            if links::interface_name(ifindex).is_none() {
                continue;
            }
            for which in [PacketProgram::FromPod, PacketProgram::ToPod] {
                verified.link(self.repair_packets(which, ifindex));
            }
        }
        verified
    }

    fn repair_packets(
        &mut self,
        which: PacketProgram,
        ifindex: u32,
    ) -> Result<Option<LinkRepair>, AttachProgramFailed> {
        links::repair_packets(&mut self.programs, &self.pins, which, ifindex, self.hook)
    }
}

/// Whether two entries of a pod are the same but for what the programs write.
pub(super) fn same_pod(written: &Pod, found: &Pod) -> bool {
    let known = |pod: &Pod| (pod.ifindex, pod.mac, pod.flags & !pod_flags::HAS_FLOWS);
    known(written) == known(found)
}

/// A value that can be written again.
trait Mendable: Plain + Eq {
    /// The value to write in place of a damaged one.
    fn mended(self) -> Self {
        self
    }
}

impl Mendable for Service {}
impl Mendable for u32 {}
impl Mendable for Edition {}
impl Mendable for ServiceLine {}
impl Mendable for Slot {}
impl Mendable for Backend {}
impl Mendable for Route {}
impl Mendable for Pod {
    /// The mark that the programs set is lost with the entry; too many marks cost a look-up.
    fn mended(self) -> Self {
        Self { flags: self.flags | pod_flags::HAS_FLOWS, ..self }
    }
}

/// A key, for people.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for Address {
    fn shown(&self) -> String {
        IpAddr::from(*self).to_string()
    }
}

impl Shown for ServiceKey {
    fn shown(&self) -> String {
        name_of(self)
    }
}

impl Shown for RouteKey {
    fn shown(&self) -> String {
        let address = IpAddr::from(self.address);
        let offset = if address.is_ipv4() { V4_PREFIX_OFFSET } else { 0 };
        format!("{address}/{}", self.prefix_len.saturating_sub(offset))
    }
}

fn mend_keyed<K, V>(mirror: &mut Mirror<K, V>) -> Result<Option<Repair>, VerifyFailed>
where
    K: Plain + Ord + Shown,
    V: Mendable,
{
    let damage = mirror.damage()?;
    mend(mirror, &damage)
}

fn mend_array<V: Mendable>(mirror: &mut Mirror<u32, V>) -> Result<Option<Repair>, VerifyFailed> {
    let damage = mirror.array_damage()?;
    mend(mirror, &damage)
}

fn mend<K, V>(
    mirror: &mut Mirror<K, V>,
    damage: &[Damage<K, V>],
) -> Result<Option<Repair>, VerifyFailed>
where
    K: Plain + Ord + Shown,
    V: Mendable,
{
    for one in damage {
        match one {
            Damage::Missing { key, written } | Damage::Changed { key, written } => {
                mirror.put(key, &written.mended())?;
            }
            Damage::Foreign { key } => drop(mirror.delete(key)?),
        }
    }
    let found = described(damage);
    Ok((!damage.is_empty()).then(|| Repair {
        what: format!("map {}", mirror.table().name()),
        found,
        done: "written as it should be",
    }))
}

/// `2 entries missing (10.9.0.1:80/TCP, 10.9.0.2:80/TCP), 1 changed (...)`.
fn described<K: Shown, V>(damage: &[Damage<K, V>]) -> String {
    type Kind<K, V> = (&'static str, fn(&Damage<K, V>) -> Option<&K>);
    let kinds: [Kind<K, V>; 3] = [
        ("missing", |damage| match damage {
            Damage::Missing { key, .. } => Some(key),
            _ => None,
        }),
        ("changed", |damage| match damage {
            Damage::Changed { key, .. } => Some(key),
            _ => None,
        }),
        ("of nobody's", |damage| match damage {
            Damage::Foreign { key } => Some(key),
            _ => None,
        }),
    ];
    let groups = kinds.into_iter().filter_map(|(kind, key_of)| {
        let keys: Vec<&K> = damage.iter().filter_map(key_of).collect();
        let named: Vec<String> = keys.iter().take(NAMED).map(|key| key.shown()).collect();
        let more = if keys.len() > NAMED { ", ..." } else { "" };
        (!keys.is_empty()).then(|| format!("{} {kind} ({}{more})", keys.len(), named.join(", ")))
    });
    groups.collect::<Vec<_>>().join(", ")
}
