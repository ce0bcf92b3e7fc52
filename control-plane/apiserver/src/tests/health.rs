//! `/livez`, `/readyz`, `/healthz`: what they look at, and that they fail when they should.

use super::faulty::{Faulty, Trouble};
use super::*;

async fn ask(server: &Server, path: &str) -> (u16, String) {
    let answer = call("GET", path).by(None).send(server).await;
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8", "{path}");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
    (answer.code, answer.body.as_str().unwrap().to_owned())
}

/// A server whose store is in trouble, once it has started.
async fn in_trouble(trouble: Trouble) -> (Server, std::sync::Arc<Faulty>) {
    let dir = tempfile::tempdir().unwrap();
    let (engine, store) = Faulty::open(dir.path());
    let server = server_over(engine, dir).await;
    store.set(Some(trouble));
    (server, store)
}

#[tokio::test]
async fn each_endpoint_tells_what_it_looked_at() {
    let server = server().await;
    let live = "[+]ping ok\n[+]log ok\n[+]etcd ok\n[+]informer-sync ok\n";
    let ready = "[+]ping ok\n[+]log ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n\
                 [+]shutdown ok\n";
    let excluded = live.replace("[+]etcd ok", "[+]etcd excluded: ok");
    let warn = "warn: some health checks cannot be excluded: no matches for \"disk\",\"moon\"\n";
    for (path, text) in [
        ("/livez", "ok".to_owned()),
        ("/readyz", "ok".to_owned()),
        ("/healthz", "ok".to_owned()),
        ("/livez?verbose", format!("{live}livez check passed\n")),
        ("/livez?verbose=false", format!("{live}livez check passed\n")),
        ("/healthz?verbose=true", format!("{live}healthz check passed\n")),
        ("/readyz?verbose", format!("{ready}readyz check passed\n")),
        ("/livez?exclude=etcd", "ok".to_owned()),
        ("/livez?verbose&exclude=etcd", format!("{excluded}livez check passed\n")),
        (
            "/livez?verbose&exclude=moon&exclude=etcd&exclude=disk",
            format!("{excluded}{warn}livez check passed\n"),
        ),
        ("/livez/ping", "ok".to_owned()),
        ("/livez/etcd", "ok".to_owned()),
        ("/readyz/etcd-readiness", "ok".to_owned()),
        ("/readyz/informer-sync", "ok".to_owned()),
        ("/readyz/shutdown", "ok".to_owned()),
        ("/healthz/log", "ok".to_owned()),
    ] {
        assert_eq!(ask(&server, path).await, (200, text), "{path}");
    }
    for path in ["/livez/moon", "/livez/shutdown", "/livez/ping/x"] {
        let answer = call("GET", path).by(None).send(&server).await;
        assert_eq!(answer.failure(), (404, "NotFound"), "{path}");
    }
}

#[tokio::test]
async fn a_server_whose_store_takes_no_writes_is_not_healthy() {
    let (failed, ok) = ("failed: reason withheld", "ok");
    // What fails, the checks `etcd` and `etcd-readiness`, and why.
    let table = [
        (
            Trouble::Full,
            failed,
            failed,
            "the store does not take writes: the store's engine failed",
        ),
        (Trouble::Busy, ok, failed, "the store is busy: 4096 writes already wait"),
        (Trouble::Stuck, failed, failed, "the store has not taken a write within 2s"),
    ];
    for (trouble, store, ready, why) in table {
        let (server, _store) = in_trouble(trouble).await;
        let line = |name: &str, text: &str| match text {
            "ok" => format!("[+]{name} ok\n"),
            text => format!("[-]{name} {text}\n"),
        };
        let (store_line, ready_line) = (line("etcd", store), line("etcd-readiness", ready));
        let text = format!(
            "[+]ping ok\n[+]log ok\n{store_line}{ready_line}[+]informer-sync ok\n[+]shutdown ok\n\
             readyz check failed\n"
        );
        assert_eq!(ask(&server, "/readyz").await, (500, text), "{trouble:?}");
        let live =
            format!("[+]ping ok\n[+]log ok\n{store_line}[+]informer-sync ok\nlivez check failed\n");
        let expected = if store == ok { (200, "ok".to_owned()) } else { (500, live) };
        assert_eq!(ask(&server, "/livez").await, expected, "{trouble:?}");
        assert_eq!(ask(&server, "/livez?exclude=etcd").await, (200, "ok".to_owned()));
        // Reads go on, and say nothing else.
        call("GET", CONFIGMAPS).send(&server).await.expect(200);

        let one = call("GET", "/readyz/etcd-readiness");
        let (code, text) = (500, "internal server error: reason withheld\n".to_owned());
        assert_eq!(ask(&server, "/readyz/etcd-readiness").await, (code, text));
        let told = one.send(&server).await.expect(code);
        let told = told.as_str().unwrap();
        assert!(told.starts_with(&format!("internal server error: {why}")), "{told}");
    }
}

#[tokio::test]
async fn a_store_that_recovers_is_healthy_again() {
    let (server, store) = in_trouble(Trouble::Full).await;
    assert_eq!(ask(&server, "/healthz").await.0, 500);
    store.set(None);
    // It is tried once a second.
    assert_eq!(ask(&server, "/healthz").await.0, 500);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(&server, "/healthz").await, (200, "ok".to_owned()));
}

#[tokio::test]
async fn a_server_that_does_not_follow_its_store_is_not_healthy() {
    let server = server().await;
    server.api.stop.feed.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.api.caches.ended()).await.unwrap();
    for endpoint in ["livez", "readyz", "healthz"] {
        let (code, text) = ask(&server, &format!("/{endpoint}")).await;
        assert_eq!(code, 500, "{endpoint}");
        assert!(text.contains("[-]informer-sync failed: reason withheld\n"), "{text}");
        assert!(text.contains("[+]etcd ok\n"), "{text}");
    }
    let why = call("GET", "/livez/informer-sync").send(&server).await.expect(500);
    assert_eq!(why, "internal server error: the caches do not follow the store any more\n");
}

#[tokio::test]
async fn a_server_that_ends_is_alive_and_not_ready() {
    let server = server().await;
    server.api.stop.streams.cancel();
    assert_eq!(ask(&server, "/livez").await, (200, "ok".to_owned()));
    let (code, text) = ask(&server, "/readyz").await;
    assert_eq!(code, 500);
    assert!(text.ends_with("[-]shutdown failed: reason withheld\nreadyz check failed\n"), "{text}");
}
