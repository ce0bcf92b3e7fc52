//! The listeners: TLS, HTTP/1.1 and HTTP/2, and who is at the other end.
//!
//! Guarantees: a connection that does not finish its handshake is dropped; one that fails takes
//! nobody with it; at shutdown open requests get [`DRAIN`] to end.

use crate::auth::User;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// For the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request, the wait for it on an idle connection included: longer than clients
/// keep an idle connection, so that it is they who close it and no request meets a closed one.
const HEADER_READ: Duration = Duration::from_secs(180);
/// What open requests get at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Connections at a time, over all listeners.
const CONNECTIONS: usize = 8192;
/// Requests at a time on one HTTP/2 connection: a client's watches share one.
const STREAMS: u32 = 1000;
/// Between two signs of life that an HTTP/2 client is asked for, and for its answer: a client whose
/// network is gone never closes its connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After an accept that failed, as it does without free file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listener cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the listener cannot be used: {0}")]
pub struct ListenFailed(#[from] std::io::Error);

pub(crate) async fn serve(
    listeners: Vec<std::net::TcpListener>,
    tls: ServerConfig,
    router: Router,
    stop: CancellationToken,
) -> Result<(), ListenFailed> {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let graceful = Arc::new(GracefulShutdown::new());
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let accept = Accept {
            acceptor: acceptor.clone(),
            router: router.clone(),
            connections: connections.clone(),
            stop: stop.clone(),
        };
        let graceful = graceful.clone();
        tasks.spawn(async move { accept.run(listener, &graceful).await });
    }
    tasks.join_all().await;
    // The accept loops are gone, and with them the other references.
    let Some(graceful) = Arc::into_inner(graceful) else { return Ok(()) };
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::info!("connections that did not end in time are dropped");
    }
    Ok(())
}

#[derive(Clone)]
struct Accept {
    acceptor: TlsAcceptor,
    router: Router,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Accept {
    async fn run(self, listener: TcpListener, graceful: &GracefulShutdown) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Ok(permit) = self.connections.clone().try_acquire_owned() else {
                tracing::warn!(limit = CONNECTIONS, "too many connections; one is refused");
                continue;
            };
            let (this, watcher) = (self.clone(), graceful.watcher());
            tokio::spawn(async move {
                let _permit = permit;
                if let Err(error) = this.connection(stream, watcher).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        watcher: Watcher,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // Watch events are small and must not wait for each other.
        stream.set_nodelay(true)?;
        let tls = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await??;
        let user = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|certificate| User::of_certificate(certificate));
        let router = self.router;
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            if let Some(user) = &user {
                request.extensions_mut().insert(user.clone());
            }
            let request: Request = request.map(axum::body::Body::new);
            router.clone().oneshot(request)
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let connection = builder.serve_connection(TokioIo::new(tls), service);
        watcher.watch(connection.into_owned()).await
    }
}
