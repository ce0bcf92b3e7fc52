//! What every engine of the store must do, written against the trait alone.

use super::*;
use std::time::Duration;

fn put(value: &str) -> Write {
    Write::Create(Bytes::copy_from_slice(value.as_bytes()))
}

fn update(at: Revision, value: &str) -> Write {
    Write::Update { at, value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn all(prefix: &str) -> Range {
    Range { prefix: prefix.to_owned(), ..Range::default() }
}

fn rows(page: &Page) -> Vec<(&str, &str, Revision)> {
    page.entries
        .iter()
        .map(|e| (e.key.as_str(), std::str::from_utf8(&e.value).unwrap(), e.modified))
        .collect()
}

async fn compare_and_swap(store: &dyn Store) {
    assert_eq!(store.write("/a/1".into(), put("one")).await.unwrap(), 1);
    let again = store.write("/a/1".into(), put("two")).await;
    assert!(matches!(again, Err(WriteFailed::Conflict { current: Some(1) })), "{again:?}");
    assert_eq!(store.write("/a/1".into(), update(1, "two")).await.unwrap(), 2);
    let stale = store.write("/a/1".into(), update(1, "three")).await;
    assert!(matches!(stale, Err(WriteFailed::Conflict { current: Some(2) })), "{stale:?}");
    let stale = store.write("/a/1".into(), Write::Delete { at: 1 }).await;
    assert!(matches!(stale, Err(WriteFailed::Conflict { current: Some(2) })), "{stale:?}");
    let absent = store.write("/a/2".into(), update(2, "x")).await;
    assert!(matches!(absent, Err(WriteFailed::Conflict { current: None })), "{absent:?}");
    // Nothing that failed has used a revision.
    assert_eq!(store.revision().await.unwrap(), 2);
    let entry = store.get("/a/1").await.unwrap().unwrap();
    assert_eq!((entry.value.as_ref(), entry.modified), (&b"two"[..], 2));
    assert_eq!(store.write("/a/1".into(), Write::Delete { at: 2 }).await.unwrap(), 3);
    assert!(store.get("/a/1").await.unwrap().is_none());
}

async fn ranges_in_pages_and_in_the_past(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    for name in ["b", "a", "d", "c"] {
        store.write(format!("/r/{name}"), put(name)).await.unwrap();
    }
    store.write("/s/other".into(), put("other")).await.unwrap();
    let then = store.revision().await.unwrap();
    store.write("/r/a".into(), update(start + 2, "A")).await.unwrap();
    store.write("/r/b".into(), Write::Delete { at: start + 1 }).await.unwrap();
    store.write("/r/e".into(), put("e")).await.unwrap();

    let now = store.range(all("/r/")).await.unwrap();
    assert_eq!(now.revision, then + 3);
    let names: Vec<_> = rows(&now).iter().map(|row| row.1).collect();
    assert_eq!(names, ["A", "c", "d", "e"]);

    let past = Range { at: Some(then), ..all("/r/") };
    let page = store.range(past.clone()).await.unwrap();
    assert_eq!(
        rows(&page),
        [
            ("/r/a", "a", start + 2),
            ("/r/b", "b", start + 1),
            ("/r/c", "c", start + 4),
            ("/r/d", "d", start + 3),
        ]
    );
    let first = store.range(Range { limit: Some(3), ..past.clone() }).await.unwrap();
    assert_eq!((first.entries.len(), first.remaining), (3, 1));
    let after = Some(first.entries[2].key.clone());
    let second = store.range(Range { limit: Some(3), after, ..past }).await.unwrap();
    assert_eq!(rows(&second), [("/r/d", "d", start + 3)]);
    assert_eq!(second.remaining, 0);

    let future = store.range(Range { at: Some(then + 9), ..all("/r/") }).await;
    assert!(matches!(future, Err(StoreError::Future { .. })), "{future:?}");
}

async fn watches_resume_without_gaps(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    let mut live = store.watch("/w/", start).await.unwrap();
    store.write("/w/x".into(), put("1")).await.unwrap();
    store.write("/elsewhere".into(), put("1")).await.unwrap();
    store.write("/w/x".into(), update(start + 1, "2")).await.unwrap();
    store.write("/w/x".into(), Write::Delete { at: start + 3 }).await.unwrap();

    let mut late = store.watch("/w/", start + 1).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(live.next().await.unwrap());
    }
    let revisions: Vec<_> = seen.iter().map(|c| c.revision - start).collect();
    assert_eq!(revisions, [1, 3, 4]);
    assert_eq!(seen[0].previous, None);
    assert_eq!(seen[1].previous, Some((start + 1, Bytes::from_static(b"1"))));
    assert_eq!(seen[2].value, None);
    assert_eq!(seen[2].previous, Some((start + 3, Bytes::from_static(b"2"))));
    for expected in &seen[1..] {
        assert_eq!(&late.next().await.unwrap(), expected);
    }
    let silence = tokio::time::timeout(Duration::from_millis(20), late.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}

async fn a_probe_changes_nothing(store: &dyn Store) {
    let before = store.revision().await.unwrap();
    let mut changes = store.watch("/probe/", before).await.unwrap();
    store.probe().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before);
    let next = store.write("/probe/a".to_owned(), put("1")).await.unwrap();
    assert_eq!(next, before + 1);
    assert_eq!(changes.next().await.unwrap().revision, next);
}

async fn compaction_ends_history_not_state(store: &dyn Store) {
    let start = store.revision().await.unwrap();
    store.write("/c/x".into(), put("1")).await.unwrap();
    store.write("/c/x".into(), update(start + 1, "2")).await.unwrap();
    store.write("/c/x".into(), update(start + 2, "3")).await.unwrap();
    store.compact(start + 2).await.unwrap();
    assert_eq!(store.compacted().await.unwrap(), start + 2);
    let old = store.watch("/c/", start + 1).await.err();
    assert!(matches!(old, Some(StoreError::Compacted { .. })), "{old:?}");
    let old = store.range(Range { at: Some(start + 1), ..all("/c/") }).await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    let mut kept = store.watch("/c/", start + 2).await.unwrap();
    assert_eq!(kept.next().await.unwrap().revision, start + 3);
    assert_eq!(rows(&store.range(all("/c/")).await.unwrap()), [("/c/x", "3", start + 3)]);
    // Again, and further back: nothing to do.
    store.compact(start + 1).await.unwrap();
}

async fn concurrent_writers_get_one_winner(store: std::sync::Arc<dyn Store>) {
    let base = store.write("/race".into(), put("0")).await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(
                async move { store.write("/race".into(), update(base, &n.to_string())).await },
            )
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!(winners, 1);
}

fn engine(dir: &tempfile::TempDir) -> RedbStore {
    RedbStore::open(&dir.path().join("store.redb"), Retention::default()).unwrap()
}

#[tokio::test]
async fn redb_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(engine(&dir));
    compare_and_swap(&*store).await;
    ranges_in_pages_and_in_the_past(&*store).await;
    watches_resume_without_gaps(&*store).await;
    a_probe_changes_nothing(&*store).await;
    compaction_ends_history_not_state(&*store).await;
    concurrent_writers_get_one_winner(store).await;
}

#[tokio::test]
async fn redb_history_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = engine(&dir);
        store.write("/x".into(), put("1")).await.unwrap();
        store.write("/x".into(), update(1, "2")).await.unwrap();
    }
    let store = engine(&dir);
    assert_eq!(store.revision().await.unwrap(), 2);
    let mut changes = store.watch("/", 1).await.unwrap();
    let change = changes.next().await.unwrap();
    assert_eq!((change.revision, change.previous), (2, Some((1, Bytes::from_static(b"1")))));
    assert_eq!(store.write("/y".into(), put("3")).await.unwrap(), 3);
}

#[tokio::test]
async fn redb_refuses_a_second_process_and_an_unknown_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = engine(&dir);
    let second = RedbStore::open(&dir.path().join("store.redb"), Retention::default()).err();
    assert!(matches!(second, Some(OpenFailed::InUse { .. })), "{second:?}");
    drop(store);
    std::fs::write(dir.path().join("junk"), "not a database, but long enough to look at").unwrap();
    let junk = RedbStore::open(&dir.path().join("junk"), Retention::default()).err();
    assert!(matches!(junk, Some(OpenFailed::File { .. })), "{junk:?}");
}

#[tokio::test]
async fn redb_keeps_only_as_much_history_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention { events: 10, ..Retention::default() };
    let path = dir.path().join("store.redb");
    {
        let store = RedbStore::open(&path, retention).unwrap();
        for n in 0..50 {
            store.write(format!("/k/{n}"), put("v")).await.unwrap();
        }
    }
    // The first write after a start compacts.
    let store = RedbStore::open(&path, retention).unwrap();
    store.write("/k/last".into(), put("v")).await.unwrap();
    store.compact(0).await.unwrap();
    assert_eq!(store.compacted().await.unwrap(), 41);
    assert_eq!(store.range(all("/k/")).await.unwrap().entries.len(), 51);
}

#[tokio::test]
async fn redb_keeps_only_as_many_bytes_of_history_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention { bytes: 100_000, ..Retention::default() };
    let store = RedbStore::open(&dir.path().join("store.redb"), retention).unwrap();
    let large = "v".repeat(10_000);
    for n in 0..40 {
        store.write(format!("/k/{n}"), put(&large)).await.unwrap();
    }
    store.compact(0).await.unwrap();
    let compacted = store.compacted().await.unwrap();
    // A look every quarter of the limit: never a half more than it.
    assert!((25..40).contains(&compacted), "{compacted}");
    assert_eq!(store.range(all("/k/")).await.unwrap().entries.len(), 40);
}

#[tokio::test]
async fn redb_says_when_the_disk_does_not_keep_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = engine(&dir);
    // All are asked before the first one is waited for.
    let writes = (0..20_000).map(|n| store.write(format!("/k/{n}"), put("v")));
    let answers = futures::future::join_all(writes).await;
    let refused = answers.iter().filter(|answer| match answer {
        Ok(_) => false,
        Err(WriteFailed::Store(StoreError::Overloaded { .. })) => true,
        Err(other) => panic!("{other}"),
    });
    let refused = refused.count();
    assert!(refused > 0, "the queue was never full");
    // What was refused is not there, what was not is.
    assert_eq!(store.range(all("/k/")).await.unwrap().entries.len(), answers.len() - refused);
}
