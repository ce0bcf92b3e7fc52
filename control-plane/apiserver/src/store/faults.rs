//! The redb engine over disks that are full, damaged or cut off, and over a long day.

use super::*;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn put(value: &[u8]) -> Write {
    Write::Create(Bytes::copy_from_slice(value))
}

fn all() -> Range {
    Range { prefix: "/".to_owned(), ..Range::default() }
}

/// Runtime-free: these tests hold a store for long and kill it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A small disk of its own; `None`, said loudly, where none can be mounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let args = ["-t", "tmpfs", "-o", size.as_str(), "bowline-test"];
        let mounted = std::process::Command::new("mount").args(args).arg(dir.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("SKIPPED: no tmpfs can be mounted here");
            return None;
        }
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // At once, or else when the last file in it is closed.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_the_store_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let path = disk.path().join("store.redb");
        let store = RedbStore::open(&path, Retention::default()).unwrap();
        let ballast = disk.path().join("ballast");
        std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
        let mut changes = store.watch("/", 0).await.unwrap();

        let (mut acknowledged, value) = (Vec::new(), vec![b'v'; 100_000]);
        let full = loop {
            let key = format!("/k/{}", acknowledged.len());
            match store.write(key.clone(), put(&value)).await {
                Ok(revision) => acknowledged.push((key, revision)),
                Err(error) => break error,
            }
            assert!(acknowledged.len() < 1000, "the disk is never full");
        };
        assert!(full.to_string().contains("No space left on device"), "{full}");
        assert!(!acknowledged.is_empty());
        let probe = loop {
            match store.probe().await {
                Err(error) => break error,
                // Without growth there may be room for a small change.
                Ok(()) => {
                    let more = store.write("/more".to_owned(), put(&value)).await;
                    assert!(more.is_err(), "there is room again by itself");
                }
            }
        };
        println!("{} writes before the disk was full; a probe says: {probe}", acknowledged.len());

        std::fs::remove_file(&ballast).unwrap();
        let start = Instant::now();
        let last = loop {
            match store.write("/last".to_owned(), put(b"1")).await {
                Ok(revision) => break revision,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        println!("took writes again after {:?}", start.elapsed());
        store.probe().await.unwrap();
        for (key, revision) in &acknowledged {
            let entry = store.get(key).await.unwrap().unwrap();
            assert_eq!((entry.modified, entry.value.len()), (*revision, value.len()), "{key}");
        }
        // Every revision once, in order, also of what was not acknowledged and is there.
        let mut expected = 1;
        while expected <= last {
            let change = changes.next().await.expect("the watch goes on");
            assert_eq!(change.revision, expected);
            expected += 1;
        }
        drop(store);
        let again = RedbStore::open(&path, Retention::default()).unwrap();
        assert_eq!(again.revision().await.unwrap(), last);
    });
}

/// A closed store with a few hundred objects; returns what it holds.
fn filled(path: &Path) -> Vec<Entry> {
    runtime().block_on(async {
        let store = RedbStore::open(path, Retention::default()).unwrap();
        for n in 0_u32..300 {
            let value = n.to_le_bytes().repeat(100);
            store.write(format!("/k/{n:03}"), put(&value)).await.unwrap();
        }
        store.range(all()).await.unwrap().entries
    })
}

/// What a store says that is opened over damaged bytes: `None` when it refuses.
fn read_back(path: &Path) -> Option<Vec<Entry>> {
    let store = match RedbStore::open(path, Retention::default()) {
        Ok(store) => store,
        Err(error) => {
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            return None;
        }
    };
    let page = runtime().block_on(store.range(all()));
    page.ok().map(|page| page.entries)
}

#[test]
fn damaged_bytes_are_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let entries = filled(&path);
    let sound = std::fs::read(&path).unwrap();
    let damaged = dir.path().join("damaged.redb");
    let (mut refused, mut harmless) = (0, 0);
    // A few bytes of every page, one page at a time, and of the header more of them.
    let header = (0..320).step_by(8);
    let places = header.chain((4096..sound.len()).step_by(4096).map(|page| page + 40));
    let places: Vec<usize> = places.filter(|place| place + 4 <= sound.len()).collect();
    let stride = (places.len() / 400).max(1);
    for place in places.into_iter().step_by(stride) {
        let mut bytes = sound.clone();
        bytes[place..place + 4].iter_mut().for_each(|byte| *byte ^= 0xa5);
        std::fs::write(&damaged, &bytes).unwrap();
        match read_back(&damaged) {
            None => refused += 1,
            Some(read) => {
                assert!(read == entries, "served something else, damaged at {place}");
                harmless += 1;
            }
        }
    }
    println!("{refused} damaged files refused, {harmless} with the damage where nothing is");
    assert!(refused > 0);
}

#[test]
fn a_file_that_was_cut_off_is_refused_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let entries = filled(&path);
    let sound = std::fs::read(&path).unwrap();
    let cut = dir.path().join("cut.redb");
    let mut refused = 0;
    for part in 0..20 {
        let length = sound.len() * part / 20;
        // Nothing at all is a new store.
        if length == 0 {
            continue;
        }
        std::fs::write(&cut, &sound[..length]).unwrap();
        match read_back(&cut) {
            None => refused += 1,
            Some(read) => assert!(read == entries, "served something else, cut at {length}"),
        }
        // A tail that was never written.
        let mut bytes = sound.clone();
        bytes[length.max(4096)..].fill(0);
        std::fs::write(&cut, &bytes).unwrap();
        match read_back(&cut) {
            None => refused += 1,
            Some(read) => assert!(read == entries, "served something else, zeroes at {length}"),
        }
    }
    println!("{refused} files refused");
    assert!(refused > 0);
}

/// Values of the sizes that objects have.
fn value(n: u64) -> Bytes {
    let length = 1000 + usize::try_from(n.wrapping_mul(7919) % 6000).unwrap();
    Bytes::from(vec![u8::try_from(n % 251).unwrap(); length])
}

/// What a file takes of its disk.
fn used(path: &Path) -> u64 {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.blocks() * 512).min(metadata.len())
}

/// The objects of a day: the revision and the bytes of each.
struct Day {
    store: RedbStore,
    held: Vec<(Revision, u64)>,
}

impl Day {
    fn key(n: usize) -> String {
        format!("/k/{n:06}")
    }

    /// Writes objects from `first` on, all at once.
    async fn write(&mut self, first: usize, count: usize, hour: u64) {
        let writes = (first..first + count).map(|n| {
            let value = value(n as u64 + hour);
            let length = (Self::key(n).len() + value.len()) as u64;
            let write = match self.held.get(n) {
                Some((at, _)) => Write::Update { at: *at, value },
                None => Write::Create(value),
            };
            let write = self.store.write(Self::key(n), write);
            async move { (write.await.unwrap(), length) }
        });
        let written = futures::future::join_all(writes).await;
        let replaced = self.held.len().min(first + count);
        self.held.splice(first..replaced, written);
    }

    async fn delete_to(&mut self, count: usize) {
        while self.held.len() > count {
            let Some((at, _)) = self.held.pop() else { break };
            let key = Self::key(self.held.len());
            self.store.write(key, Write::Delete { at }).await.unwrap();
        }
    }
}

#[test]
fn the_file_stays_within_twice_its_live_data_over_a_day() {
    // A day in small: fewer objects and smaller limits. The history that is kept is live, too.
    const OBJECTS: usize = 4000;
    let retention = Retention { least_bytes: 1 << 20, small_file: 8 << 20, ..Retention::DEFAULT };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let _ = tracing_subscriber::fmt().with_ansi(false).with_test_writer().try_init();
    runtime().block_on(async {
        let store = RedbStore::open(&path, retention).unwrap();
        let mut day = Day { store, held: Vec::new() };
        let mut worst = 0.0_f64;
        for hour in 0_u64..24 {
            // Twice a day there are a third of the objects only.
            let wanted = if hour % 12 < 6 { OBJECTS } else { OBJECTS / 3 };
            let there = day.held.len();
            day.write(there, wanted.saturating_sub(there), hour).await;
            day.delete_to(wanted).await;
            for part in 0..4 {
                day.write(part * wanted / 4, wanted / 8, hour).await;
            }
            let objects: u64 = day.held.iter().map(|(_, length)| length).sum();
            let live = objects + retention.history(objects);
            let (file, limit) = (used(&path), retention.small_file.max(live));
            let ratio = file as f64 / limit as f64;
            println!("hour {hour}: {objects} bytes of objects, {live} live, {file}: {ratio:.2}");
            worst = worst.max(ratio);
        }
        println!("the file took {worst:.2} times its live data at most");
        assert!(worst <= 2.0, "the file took {worst:.2} times its live data");
    });
}
