//! The end of a server: what is under way is answered, and what cannot go on is said.

use super::*;
use crate::ServeFailed;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

type Serving = JoinHandle<Result<(), ServeFailed>>;

fn serve(server: &Server) -> (std::net::SocketAddr, CancellationToken, Serving) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (api, stop) = (server.api.clone(), CancellationToken::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { api.serve(vec![listener], stopped).await });
    (address, stop, serving)
}

#[tokio::test]
async fn a_write_that_is_under_way_at_the_end_is_answered() {
    let server = server().await;
    let (address, stop, serving) = serve(&server);
    let mut watch = call("GET", &format!("{CONFIGMAPS}?watch=1")).stream(&server).await;

    let tls = Arc::new(server.api.authority.agent_tls().unwrap());
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls);
    let mut connection = connector.connect(name, tcp).await.unwrap();
    let body = configmap("last", json!({})).to_string();
    let head = format!(
        "POST {CONFIGMAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut said = vec![0; go_on.len()];
    connection.read_exact(&mut said).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said), go_on);

    // The server waits for the body, and is told to end.
    stop.cancel();
    assert_eq!(watch.next().await, None, "the streams end first");
    tokio::task::yield_now().await;
    connection.write_all(body.as_bytes()).await.unwrap();
    let mut answer = vec![0; "HTTP/1.1 201".len()];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 201");
    drop(connection);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_follow_its_store_ends() {
    let server = server().await;
    let (_, _, serving) = serve(&server);
    server.api.stop.feed.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ServeFailed::FeedEnded)), "{ended:?}");
}
