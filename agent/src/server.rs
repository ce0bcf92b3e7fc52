//! The HTTPS server of the agent: health, metrics and, for the API server, logs and events.
//!
//! Guarantees: only clients with a certificate of the cluster's authority whose organization is
//! `system:masters` get an answer to anything. A client that is slow to shake hands holds up
//! nobody else.

use std::{
    io::{self, ErrorKind::AddrInUse},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{connect, join::Identity};

/// How long a client may take to shake hands.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long an agent that was killed may hold its port, and how often that is looked at.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(2);
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);

/// The organization whose members may ask an agent.
const MASTERS: &str = "system:masters";

/// The HTTPS server cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartServerFailed {
    #[error("listening on {address}: {source}; is another agent running on this node?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("setting up TLS: {0}")]
    Tls(String),
}

/// A listening socket that nobody is served on yet. An agent that was killed holds its own until
/// the last of its threads has ended, and may take a moment for that.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, StartServerFailed> {
    let end = Instant::now() + PREDECESSOR_LIMIT;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) if source.kind() == AddrInUse && Instant::now() < end => {
                sleep(PREDECESSOR_PAUSE).await;
            }
            Err(source) => return Err(StartServerFailed::Listen { address, source }),
        }
    }
}

/// TLS as the server speaks it.
pub(crate) fn tls(identity: &Identity) -> Result<TlsAcceptor, StartServerFailed> {
    let failed = |error: &dyn std::fmt::Display| StartServerFailed::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca.clone()).map_err(|error| failed(&error))?;
    let provider = connect::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| failed(&error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.keys.clone());
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `shutdown`; then open answers may end for as long as the process lasts.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    routes: Router,
    shutdown: CancellationToken,
) {
    let routes = routes.route("/healthz", get(async || "ok"));
    let refusal = Router::new().fallback(async || {
        (StatusCode::FORBIDDEN, "only members of system:masters may ask an agent")
    });
    let clients = TaskTracker::new();
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors: wait for some to be closed.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let client = serve_client(stream, tls.clone(), routes.clone(), refusal.clone());
            clients.spawn(shutdown.clone().run_until_cancelled_owned(client));
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown.cancelled() => {}
    }
}

async fn serve_client(stream: TcpStream, tls: TlsAcceptor, routes: Router, refusal: Router) {
    let shaken = timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await;
    let Ok(Ok(stream)) = shaken else {
        tracing::debug!("a client did not get through the TLS handshake");
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let is_master = certificates.and_then(<[_]>::first).is_some_and(is_master);
    let service = TowerToHyperService::new(if is_master { routes } else { refusal });
    let connection = Builder::new(TokioExecutor::new());
    // A client that goes away in the middle is its own affair.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

fn is_master(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        let mut organizations = certificate.subject().iter_organization();
        organizations.any(|organization| organization.as_str().is_ok_and(|name| name == MASTERS))
    })
}

#[cfg(test)]
mod tests;
