//! The names of what is programmed, in a file beside the maps: maps hold numbers only, and who
//! reads them wants to see pods and services.
//!
//! Guarantees: the file is replaced whole, so a reader sees one state or the next; changes are
//! gathered for a moment, the longer the larger the file is, so that many of them cost one write,
//! and never delay the maps. Losing the file loses names, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bowline_ebpf_abi::Address;
use serde::{Deserialize, Serialize};

use crate::plan::services::{BackendAddress, ServiceTable};

/// How long changes are gathered, at least.
const GATHER: Duration = Duration::from_millis(200);

/// Writing takes at most this part of the time.
const WRITING_SHARE: u32 = 20;

/// All names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Names {
    pub(super) pods: BTreeMap<IpAddr, PodName>,
    /// By cluster address.
    pub(super) services: BTreeMap<IpAddr, ServiceName>,
    /// By backend: `namespace/name` of the pod.
    pub(super) targets: BTreeMap<SocketAddr, Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) netns: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServiceName {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Names {
    /// What the file says; nothing if there is none or it is not readable.
    pub(super) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn take(&mut self, change: ServiceNames) {
        if change.replaces {
            // Not one by one: a tree that is made at once takes half of the memory.
            (self.services, self.targets) = (change.services, change.targets);
            return;
        }
        change.gone_services.iter().for_each(|address| drop(self.services.remove(address)));
        change.gone_targets.iter().for_each(|backend| drop(self.targets.remove(backend)));
        self.services.extend(change.services);
        self.targets.extend(change.targets);
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("json.new");
        let mut file = BufWriter::new(File::create(&fresh)?);
        serde_json::to_writer(&mut file, self)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        std::fs::rename(fresh, path)
    }
}

/// What is no longer programmed.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) addresses: Vec<Address>,
    pub(super) backends: Vec<BackendAddress>,
}

/// A change of the names of services and of their backends.
#[derive(Debug, Default)]
struct ServiceNames {
    /// These are all there are.
    replaces: bool,
    /// What is removed before the others come.
    gone_services: BTreeSet<IpAddr>,
    gone_targets: BTreeSet<SocketAddr>,
    services: BTreeMap<IpAddr, ServiceName>,
    targets: BTreeMap<SocketAddr, Arc<str>>,
}

impl ServiceNames {
    fn of(table: &ServiceTable, gone: Gone, replaces: bool) -> Self {
        let services = table.services.iter().map(|(key, wanted)| {
            let (namespace, name) = (wanted.namespace.clone(), wanted.name.clone());
            (key.address.into(), ServiceName { namespace, name })
        });
        let backends = table.services.values().flat_map(|wanted| &wanted.backends);
        let targets = backends
            .filter_map(|(backend, target)| Some((socket_address(backend), target.clone()?)));
        Self {
            replaces,
            gone_services: gone.addresses.into_iter().map(IpAddr::from).collect(),
            gone_targets: gone.backends.iter().map(socket_address).collect(),
            services: services.collect(),
            targets: targets.collect(),
        }
    }

    /// Takes in a change that came after this one: what waits grows with the names, not with the
    /// changes.
    fn add(&mut self, later: Self) {
        if later.replaces {
            *self = later;
            return;
        }
        later.gone_services.iter().for_each(|address| drop(self.services.remove(address)));
        later.gone_targets.iter().for_each(|backend| drop(self.targets.remove(backend)));
        self.gone_services.extend(later.gone_services);
        self.gone_targets.extend(later.gone_targets);
        self.services.extend(later.services);
        self.targets.extend(later.targets);
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// The names of pods; those of services are the writing thread's.
    names: Names,
    services: ServiceNames,
    changed: bool,
    ended: bool,
}

type Cell = Arc<(Mutex<Shared>, Condvar)>;

/// Keeps the file up to date from a thread of its own; dropping it writes what is left.
#[derive(Debug)]
pub(super) struct NamesWriter {
    cell: Cell,
    thread: Option<JoinHandle<()>>,
}

impl NamesWriter {
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let mut names = Names::read(&path);
        let shared = Shared {
            names: Names { pods: names.pods.clone(), ..Names::default() },
            ..Shared::default()
        };
        let cell: Cell = Arc::new((Mutex::new(shared), Condvar::new()));
        let theirs = cell.clone();
        let thread = std::thread::Builder::new()
            .name("datapath-names".to_owned())
            .spawn(move || write_changes(&theirs, &mut names, &path))?;
        Ok(Self { cell, thread: Some(thread) })
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Names)) {
        let mut shared = lock(&self.cell.0);
        change(&mut shared.names);
        shared.changed = true;
        self.cell.1.notify_one();
    }

    /// Takes over the names of all services.
    pub(super) fn replace_services(&self, table: &ServiceTable) {
        self.change_services(ServiceNames::of(table, Gone::default(), true));
    }

    /// Takes over the names of services that changed.
    pub(super) fn follow_services(&self, changed: &ServiceTable, gone: Gone) {
        self.change_services(ServiceNames::of(changed, gone, false));
    }

    fn change_services(&self, change: ServiceNames) {
        let mut shared = lock(&self.cell.0);
        shared.services.add(change);
        shared.changed = true;
        self.cell.1.notify_one();
    }
}

impl Drop for NamesWriter {
    fn drop(&mut self) {
        lock(&self.cell.0).ended = true;
        self.cell.1.notify_one();
        if let Some(thread) = self.thread.take() {
            // It only writes a file; a panic in it has nothing to add here.
            let _ = thread.join();
        }
    }
}

fn socket_address(backend: &BackendAddress) -> SocketAddr {
    SocketAddr::new(backend.address.into(), backend.port.get())
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_changes(cell: &Cell, names: &mut Names, path: &Path) {
    let mut gather = GATHER;
    loop {
        let shared = lock(&cell.0);
        let shared = cell
            .1
            .wait_while(shared, |shared| !shared.changed && !shared.ended)
            .unwrap_or_else(PoisonError::into_inner);
        // Gathering ends early when the agent does.
        let (mut shared, _) = cell
            .1
            .wait_timeout_while(shared, gather, |shared| !shared.ended)
            .unwrap_or_else(PoisonError::into_inner);
        let ended = shared.ended;
        let changed = std::mem::take(&mut shared.changed);
        let services = std::mem::take(&mut shared.services);
        names.pods.clone_from(&shared.names.pods);
        drop(shared);
        names.take(services);
        let start = Instant::now();
        if changed && let Err(error) = names.write(path) {
            tracing::warn!("writing {} failed: {error}", path.display());
        }
        gather = GATHER.max(start.elapsed() * WRITING_SHARE);
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::services::WantedService;
    use bowline_ebpf_abi::{ServiceKey, U16Be};

    #[test]
    fn names_survive_the_writer() {
        let dir = std::env::temp_dir().join(format!("bowline-names-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("names.json");
        let pod = PodName {
            namespace: "default".to_owned(),
            name: "web-1".to_owned(),
            uid: "u1".to_owned(),
            netns: "/run/netns/x".into(),
        };
        let address = IpAddr::from([10, 240, 0, 1]);
        let writer = NamesWriter::start(path.clone()).unwrap();
        writer.change(|names| {
            names.pods.insert(address, pod.clone());
        });
        drop(writer);
        assert_eq!(Names::read(&path).pods.get(&address), Some(&pod));
        std::fs::write(&path, "not json").unwrap();
        assert!(Names::read(&path).pods.is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_of_services_come_and_go_with_them() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let backend =
            |text: &str| BackendAddress { address: address(text).into(), port: U16Be::new(8) };
        let table = |services: &[(u16, &str)]| {
            let mut table = ServiceTable::default();
            for (port, text) in services {
                let key = ServiceKey::new(address("10.9.0.1").into(), U16Be::new(*port), 6);
                let wanted = WantedService {
                    namespace: "default".into(),
                    name: "web".into(),
                    backends: [(backend(text), Some((*text).into()))].into(),
                    ..WantedService::default()
                };
                table.services.insert(key, wanted);
            }
            table
        };
        let (first, second) = (table(&[(80, "10.240.0.1"), (81, "10.240.0.2")]), table(&[]));
        let changed = table(&[(81, "10.240.0.3")]);
        let gone = |addresses: &[&str], backends: &[&str]| Gone {
            addresses: addresses.iter().map(|text| address(text).into()).collect(),
            backends: backends.iter().map(|text| backend(text)).collect(),
        };
        let changes = || {
            [
                ServiceNames::of(&first, gone(&[], &[]), true),
                ServiceNames::of(&second, gone(&[], &["10.240.0.1"]), false),
                ServiceNames::of(&changed, gone(&[], &["10.240.0.2"]), false),
                ServiceNames::of(&second, gone(&["10.9.0.1"], &["10.240.0.3"]), false),
                ServiceNames::of(&first, gone(&[], &[]), false),
            ]
        };
        let mut names = Names::default();
        let mut seen = Vec::new();
        for (index, change) in changes().into_iter().enumerate() {
            names.take(change);
            let targets: Vec<&str> = names.targets.values().map(|name| &**name).collect();
            let found = (names.services.len(), targets.join(" "));
            // However many of them are gathered before they are taken.
            for gathered in 0..=index {
                let (mut together, mut waiting) = (Names::default(), ServiceNames::default());
                for (number, change) in changes().into_iter().take(index + 1).enumerate() {
                    if number == gathered {
                        together.take(std::mem::take(&mut waiting));
                    }
                    waiting.add(change);
                }
                together.take(waiting);
                assert_eq!(together.services, names.services);
                assert_eq!(together.targets, names.targets);
            }
            seen.push(found);
        }
        let both = (1, "10.240.0.1 10.240.0.2".to_owned());
        let one = |text: &str| (1, text.to_owned());
        let port_81 = one("10.240.0.2");
        let none = (0, String::new());
        assert_eq!(seen, [both.clone(), port_81, one("10.240.0.3"), none, both]);
    }
}
