//! The names of what is programmed, in a file beside the maps: maps hold numbers only, and who
//! reads them wants to see pods and services.
//!
//! Guarantees: the file is replaced whole, so a reader sees one state or the next; changes are
//! gathered for a moment, so that many of them cost one write, and never delay the maps. Losing
//! the file loses names, nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_ebpf_abi::ServiceKey;
use serde::{Deserialize, Serialize};

use crate::plan::services::{BackendAddress, ServiceStep, ServiceTable, WantedService};

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(200);

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

    fn set_services(&mut self, table: &ServiceTable) {
        self.services.clear();
        self.targets.clear();
        for (key, wanted) in &table.services {
            self.add_service(key, wanted);
        }
    }

    fn add_service(&mut self, key: &ServiceKey, wanted: &WantedService) {
        let (namespace, name) = (wanted.namespace.clone(), wanted.name.clone());
        self.services.insert(key.address.into(), ServiceName { namespace, name });
        for (backend, target) in &wanted.backends {
            if let Some(target) = target {
                self.targets.insert(socket_address(backend), target.clone());
            }
        }
    }

    /// Follows the steps of an apply; `gone` are the backends that no service has any more.
    fn follow(&mut self, table: &ServiceTable, steps: &[ServiceStep<'_>], gone: &[BackendAddress]) {
        for step in steps {
            match step {
                ServiceStep::Add { key, wanted } | ServiceStep::Change { key, wanted } => {
                    self.add_service(key, wanted);
                }
                ServiceStep::Remove { key } if !table.has_address(key.address) => {
                    self.services.remove(&key.address.into());
                }
                ServiceStep::Remove { .. } => {}
            }
        }
        for backend in gone {
            self.targets.remove(&socket_address(backend));
        }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }
}

#[derive(Debug, Default)]
struct Shared {
    names: Names,
    changed: bool,
    ended: bool,
}

type Cell = Arc<(Mutex<Shared>, Condvar)>;

/// Keeps the file up to date from a thread of its own; dropping it writes what is left.
#[derive(Debug)]
pub(super) struct NamesWriter {
    cell: Cell,
    thread: Option<JoinHandle<()>>,
    knows_services: bool,
}

impl NamesWriter {
    pub(super) fn start(path: PathBuf) -> io::Result<Self> {
        let shared = Shared { names: Names::read(&path), ..Shared::default() };
        let cell: Cell = Arc::new((Mutex::new(shared), Condvar::new()));
        let theirs = cell.clone();
        let thread = std::thread::Builder::new()
            .name("datapath-names".to_owned())
            .spawn(move || write_changes(&theirs, &path))?;
        Ok(Self { cell, thread: Some(thread), knows_services: false })
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Names)) {
        let mut shared = lock(&self.cell.0);
        change(&mut shared.names);
        shared.changed = true;
        self.cell.1.notify_one();
    }

    /// Takes over the names after an apply: all of them at first, then what changed.
    pub(super) fn follow(
        &mut self,
        table: &ServiceTable,
        steps: &[ServiceStep<'_>],
        gone: &[BackendAddress],
    ) {
        if !self.knows_services {
            self.change(|names| names.set_services(table));
        } else if !steps.is_empty() {
            self.change(|names| names.follow(table, steps, gone));
        }
        self.knows_services = true;
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

fn write_changes(cell: &Cell, path: &Path) {
    loop {
        let shared = lock(&cell.0);
        let shared = cell
            .1
            .wait_while(shared, |shared| !shared.changed && !shared.ended)
            .unwrap_or_else(PoisonError::into_inner);
        // Gathering ends early when the agent does.
        let (mut shared, _) = cell
            .1
            .wait_timeout_while(shared, GATHER, |shared| !shared.ended)
            .unwrap_or_else(PoisonError::into_inner);
        let (names, ended) = (shared.names.clone(), shared.ended);
        let changed = std::mem::take(&mut shared.changed);
        drop(shared);
        if changed && let Err(error) = names.write(path) {
            tracing::warn!("writing {} failed: {error}", path.display());
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_ebpf_abi::U16Be;

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
        let wanted = |backends: &[&str]| WantedService {
            namespace: "default".into(),
            name: "web".into(),
            backends: backends.iter().map(|b| (backend(b), Some((*b).into()))).collect(),
            affinity_seconds: 0,
        };
        let key = |port| ServiceKey::new(address("10.9.0.1").into(), U16Be::new(port), 6);
        let (one, two) = (wanted(&["10.240.0.1"]), wanted(&["10.240.0.2"]));
        let mut table = ServiceTable::default();
        table.services.insert(key(80), one);
        table.services.insert(key(81), two);
        let mut names = Names::default();
        names.set_services(&table);
        assert_eq!(names.targets.len(), 2);

        table.services.remove(&key(80));
        let gone = [backend("10.240.0.1")];
        names.follow(&table, &[ServiceStep::Remove { key: key(80) }], &gone);
        assert_eq!((names.services.len(), names.targets.len()), (1, 1), "port 81 is left");
        let change = ServiceStep::Change { key: key(81), wanted: &wanted(&["10.240.0.3"]) };
        names.follow(&table, &[change], &[backend("10.240.0.2")]);
        let targets: Vec<&str> = names.targets.values().map(|name| &**name).collect();
        assert_eq!(targets, ["10.240.0.3"]);
        names.follow(&ServiceTable::default(), &[ServiceStep::Remove { key: key(81) }], &[]);
        assert!(names.services.is_empty());
    }
}
