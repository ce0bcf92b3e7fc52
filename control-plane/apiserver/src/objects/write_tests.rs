//! What a write relies on is held until it is visible, over a store that takes its time.

use super::*;
use crate::auth::MASTERS;
use crate::store::{BeforeWrite, Hooked, RedbStore, Retention};
use bowline_api::resource::find;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Each write of a service waits for a permit.
struct Slow {
    arrived: Semaphore,
    permits: Arc<Semaphore>,
}

impl BeforeWrite for Slow {
    fn before(&self, key: &str) -> BoxFuture<'static, Result<(), StoreError>> {
        if !key.contains("/services/") {
            return ready(Ok(())).boxed();
        }
        self.arrived.add_permits(1);
        let permits = self.permits.clone();
        async move {
            permits.acquire().await.unwrap().forget();
            Ok(())
        }
        .boxed()
    }
}

struct Server {
    store: Arc<Hooked<Slow>>,
    slow: Arc<Slow>,
    objects: Arc<Objects>,
    feed: CancellationToken,
    _dir: tempfile::TempDir,
}

/// A server with the namespace `default`.
async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let engine = RedbStore::open(&dir.path().join("store"), Retention::default()).unwrap();
    let (arrived, permits) = (Semaphore::new(0), Arc::new(Semaphore::new(0)));
    let slow = Arc::new(Slow { arrived, permits });
    let store = Arc::new(Hooked::new(Arc::new(engine), slow.clone()));
    let feed = CancellationToken::new();
    let caches = Caches::start(store.clone(), feed.clone()).await.unwrap();
    let admission = Admission::new(caches.clone(), "10.9.0.0/16".parse().unwrap(), 5);
    let objects = Arc::new(Objects::new(store.clone(), caches, admission));
    let resource = find("", "v1", "namespaces").unwrap();
    let place = Place { resource, namespace: String::new(), name: String::new() };
    let namespace = json!({ "metadata": { "name": "default" } });
    objects.create(&mut caller(), &place, namespace).await.unwrap();
    Server { store, slow, objects, feed, _dir: dir }
}

fn caller() -> Caller {
    Caller::new(User::new("admin", &[MASTERS]))
}

/// Makes a service that asks for one certain address.
async fn create(objects: Arc<Objects>, name: &'static str) -> Result<Arc<Object>, Status> {
    let resource = find("", "v1", "services").unwrap();
    let place = Place { resource, namespace: "default".to_owned(), name: String::new() };
    let service = json!({
        "metadata": { "name": name },
        "spec": { "clusterIP": "10.9.0.7", "ports": [{ "port": 80 }] },
    });
    objects.create(&mut caller(), &place, service).await
}

#[tokio::test]
async fn an_address_stays_reserved_when_the_client_goes_away() {
    let server = server().await;
    let first = tokio::spawn(create(server.objects.clone(), "first"));
    server.slow.arrived.acquire().await.unwrap().forget();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // Both may be written now; only the first has the right to.
    let (second, ()) = tokio::join!(create(server.objects.clone(), "second"), async {
        tokio::task::yield_now().await;
        server.slow.permits.add_permits(2);
    });
    assert_eq!(second.unwrap_err().code, 422);
}

#[tokio::test]
async fn an_address_stays_reserved_until_its_write_is_seen() {
    let server = server().await;
    let before = server.store.revision().await.unwrap();
    let first = tokio::spawn(create(server.objects.clone(), "first"));
    server.slow.arrived.acquire().await.unwrap().forget();
    server.feed.cancel();
    tokio::task::yield_now().await;
    server.slow.permits.add_permits(1);
    while server.store.revision().await.unwrap() == before {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let resource = find("", "v1", "services").unwrap();
    let place = Place { resource, namespace: "default".to_owned(), name: "second".to_owned() };
    let mut service = json!({ "spec": { "clusterIP": "10.9.0.7", "ports": [{ "port": 80 }] } });
    let second = server.objects.admission.allocate(&place, &mut service, None);
    assert!(second.now_or_never().is_none(), "nobody holds the addresses");
}
