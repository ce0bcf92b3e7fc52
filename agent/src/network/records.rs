//! What is kept on disk about sandboxes: one record each, and the order in which addresses were
//! given back.
//!
//! Guarantees: a record is there, whole, before anything of its sandbox is made and goes after
//! everything of it; it is replaced in one step. Losing the order file costs nothing but the
//! order. The files need not survive a power cut: no sandbox does.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Addresses, PodIdentity, Sandbox, shm};

const RECORD: &str = "sandbox.json";
const ORDER: &str = "addresses.json";

/// How far a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Being made; after a restart: left half made by a crash.
    Making,
    /// Handed out.
    Ready,
    /// Being taken down, or left behind by a tear-down that failed.
    Removing,
}

/// What is known about one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) hostname: String,
    pub(super) host_network: bool,
    #[serde(flatten)]
    pub(super) addresses: Addresses,
    pub(super) phase: Phase,
}

impl Record {
    pub(super) fn new(pod: &PodIdentity, addresses: Addresses) -> Self {
        Self {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            hostname: pod.hostname.clone(),
            host_network: pod.host_network,
            addresses,
            phase: Phase::Making,
        }
    }
}

/// A file about sandboxes could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("sandbox record {}: {source}", path.display())]
pub(crate) struct RecordFailed {
    path: PathBuf,
    source: io::Error,
}

/// The directory that holds the records.
#[derive(Debug, Clone)]
pub(super) struct Records {
    run_dir: PathBuf,
}

/// A sandbox directory as found at the start: its uid, and its record if that can be read.
pub(super) type Found = (String, Option<Record>);

impl Records {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned() }
    }

    fn all(&self) -> PathBuf {
        self.run_dir.join("sandboxes")
    }

    /// The directory of one sandbox.
    pub(super) fn dir(&self, uid: &str) -> PathBuf {
        self.all().join(uid)
    }

    /// The sandbox as its users see it.
    pub(super) fn sandbox(&self, record: &Record) -> Sandbox {
        let dir = self.dir(&record.uid);
        Sandbox {
            addresses: record.addresses,
            netns: dir.join("net"),
            ipc: dir.join("ipc"),
            uts: dir.join("uts"),
            shm: dir.join(shm::NAME),
        }
    }

    /// Every sandbox directory there is.
    pub(super) fn load(&self) -> Result<Vec<Found>, RecordFailed> {
        let all = self.all();
        let failed = |source| RecordFailed { path: all.clone(), source };
        fs::create_dir_all(&all).map_err(failed)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&all).map_err(failed)? {
            let Ok(uid) = entry.map_err(failed)?.file_name().into_string() else { continue };
            let text = fs::read(self.dir(&uid).join(RECORD)).ok();
            let record = text.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            let own = record.filter(|record| record.uid == uid);
            found.push((uid, own));
        }
        Ok(found)
    }

    /// Writes a record, its directory included.
    pub(super) fn write(&self, record: &Record) -> Result<(), RecordFailed> {
        let dir = self.dir(&record.uid);
        fs::create_dir_all(&dir).map_err(|source| RecordFailed { path: dir.clone(), source })?;
        replace(&dir.join(RECORD), record)
    }

    /// Removes a record and its directory. What is not there is no error.
    pub(super) fn remove(&self, uid: &str) -> Result<(), RecordFailed> {
        let dir = self.dir(uid);
        for name in [RECORD, "sandbox.json.new"] {
            let path = dir.join(name);
            present(fs::remove_file(&path)).map_err(|source| RecordFailed { path, source })?;
        }
        present(fs::remove_dir(&dir)).map_err(|source| RecordFailed { path: dir, source })
    }

    /// The addresses that were given back, oldest first; none if that is not known.
    pub(super) fn load_order(&self) -> Vec<Ipv4Addr> {
        let text = fs::read(self.run_dir.join(ORDER)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    pub(super) fn write_order(&self, order: &[Ipv4Addr]) -> Result<(), RecordFailed> {
        replace(&self.run_dir.join(ORDER), &order)
    }

    /// Removes the directories that hold the records, once they are empty.
    pub(super) fn remove_all(&self) -> Result<(), RecordFailed> {
        let order = self.run_dir.join(ORDER);
        present(fs::remove_file(&order)).map_err(|source| RecordFailed { path: order, source })?;
        let all = self.all();
        present(fs::remove_dir(&all)).map_err(|source| RecordFailed { path: all, source })
    }
}

fn replace<T: Serialize>(path: &Path, value: &T) -> Result<(), RecordFailed> {
    let failed = |source| RecordFailed { path: path.to_owned(), source };
    let new = path.with_extension("json.new");
    let text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    fs::write(&new, text).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

fn present(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(uid: &str) -> Record {
        let pod = PodIdentity {
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            hostname: "web".to_owned(),
            host_network: false,
        };
        Record::new(&pod, Ipv4Addr::new(10, 240, 1, 2).into())
    }

    #[test]
    fn a_record_comes_back_and_goes_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        assert!(records.load().unwrap().is_empty());
        records.write(&record("u1")).unwrap();
        let ready = Record { phase: Phase::Ready, ..record("u1") };
        records.write(&ready).unwrap();
        assert_eq!(records.load().unwrap(), [("u1".to_owned(), Some(ready))]);
        records.remove("u1").unwrap();
        records.remove("u1").unwrap();
        assert!(records.load().unwrap().is_empty());
        records.write_order(&[Ipv4Addr::LOCALHOST]).unwrap();
        assert_eq!(records.load_order(), [Ipv4Addr::LOCALHOST]);
        records.remove_all().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_record_of_an_agent_that_knew_one_family_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        let text = r#"{"uid":"u1","namespace":"default","name":"web","hostname":"web",
            "host_network":false,"address":"10.240.1.2","phase":"Making"}"#;
        fs::create_dir_all(records.dir("u1")).unwrap();
        fs::write(records.dir("u1").join(RECORD), text).unwrap();
        assert_eq!(records.load().unwrap(), [("u1".to_owned(), Some(record("u1")))]);
        let both = Addresses { v6: "fd00::2".parse().ok(), ..record("u2").addresses };
        let both = Record { addresses: both, ..record("u2") };
        records.write(&both).unwrap();
        assert!(records.load().unwrap().contains(&("u2".to_owned(), Some(both))));
    }

    #[test]
    fn a_torn_or_foreign_record_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        for (uid, text) in [("torn", "{\"uid\":\"to"), ("empty", "")] {
            fs::create_dir_all(records.dir(uid)).unwrap();
            fs::write(records.dir(uid).join(RECORD), text).unwrap();
        }
        records.write(&record("copied")).unwrap();
        fs::create_dir_all(records.dir("other")).unwrap();
        fs::copy(records.dir("copied").join(RECORD), records.dir("other").join(RECORD)).unwrap();
        fs::create_dir_all(records.dir("bare")).unwrap();
        let mut found = records.load().unwrap();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let readable: Vec<_> = found.iter().filter(|(_, r)| r.is_some()).map(|(u, _)| u).collect();
        assert_eq!(found.len(), 5);
        assert_eq!(readable, ["copied"]);
    }
}
