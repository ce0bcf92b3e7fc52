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
    let length = 400 + usize::try_from(n.wrapping_mul(7919) % 2000).unwrap();
    Bytes::from(vec![u8::try_from(n % 251).unwrap(); length])
}

#[test]
fn the_file_stays_within_twice_its_live_data_over_a_day() {
    // A day in small: every limit is a 32nd of what it is, and so are the objects.
    const OBJECTS: u64 = 1500;
    let retention = Retention {
        bytes: 2 << 20,
        least_bytes: 128 << 10,
        small_file: 1 << 20,
        ..Retention::DEFAULT
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let length = || {
        let metadata = std::fs::metadata(&path).unwrap();
        (metadata.blocks() * 512).min(metadata.len())
    };
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    runtime().block_on(async {
        let store = RedbStore::open(&path, retention).unwrap();
        let mut held: Vec<(u64, usize)> = Vec::new();
        let mut worst = 0.0_f64;
        for hour in 0_u64..24 {
            // Twice a day there are a third of the objects only.
            let wanted = if hour % 12 < 6 { OBJECTS } else { OBJECTS / 3 };
            let writes = held.len() as u64..wanted;
            let made = writes.map(|n| {
                let value = value(n + hour);
                let length = value.len();
                let write = store.write(format!("/k/{n:06}"), Write::Create(value));
                async move { (write.await.unwrap(), length) }
            });
            held.extend(futures::future::join_all(made).await);
            while held.len() as u64 > wanted {
                let Some((at, _)) = held.pop() else { break };
                let key = format!("/k/{:06}", held.len());
                store.write(key, Write::Delete { at }).await.unwrap();
            }
            for round in 0..2 {
                let updates = held.iter().enumerate().map(|(n, (at, _))| {
                    let value = value(n as u64 + hour + round);
                    let length = value.len();
                    let write = Write::Update { at: *at, value };
                    let write = store.write(format!("/k/{n:06}"), write);
                    async move { (write.await.unwrap(), length) }
                });
                held = futures::future::join_all(updates).await;
            }
            let live: u64 = held.iter().map(|(_, length)| (*length + 9) as u64).sum();
            let live = live + retention.history(live);
            let ratio = length() as f64 / live as f64;
            println!("hour {hour}: {live} live bytes, {} on the disk, {ratio:.2}", length());
            worst = worst.max(ratio);
        }
        assert!(worst <= 2.0, "the file has {worst:.2} times its live data");
    });
}
