//! Requests to agents, with the server's client certificate.

use axum::body::Body;
use http::Method;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For the connection, the handshake and the head of the answer, each.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskAgentFailed {
    #[error("the agent at {0} did not answer in time")]
    Timeout(SocketAddr),
    #[error("the agent at {address} cannot be reached: {reason}")]
    Connect { address: SocketAddr, reason: String },
    #[error("the agent at {address} broke off: {reason}")]
    Broken { address: SocketAddr, reason: String },
}

/// See the module's documentation.
pub(crate) struct AgentClient {
    tls: TlsConnector,
}

impl AgentClient {
    pub(crate) fn new(tls: ClientConfig) -> Self {
        Self { tls: TlsConnector::from(Arc::new(tls)) }
    }

    /// The answer of the agent at `address`, which may come before all of the body has gone. One
    /// connection a request: they are long and few.
    pub(super) async fn ask(
        &self,
        address: SocketAddr,
        method: Method,
        path_and_query: &str,
        body: Body,
    ) -> Result<http::Response<Incoming>, AskAgentFailed> {
        let connect = |reason: String| AskAgentFailed::Connect { address, reason };
        let broken = |reason: String| AskAgentFailed::Broken { address, reason };
        let late = |_| AskAgentFailed::Timeout(address);
        let tcp = timeout(TIMEOUT, TcpStream::connect(address)).await.map_err(late)?;
        let tcp = tcp.map_err(|error| connect(error.to_string()))?;
        let name = ServerName::from(address.ip());
        let tls = timeout(TIMEOUT, self.tls.connect(name, tcp)).await.map_err(late)?;
        let tls = tls.map_err(|error| connect(error.to_string()))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|e| broken(e.to_string()))?;
        // Ends with the answer's body or when that is dropped.
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(http::header::HOST, address.to_string())
            .body(body)
            .map_err(|error| broken(error.to_string()))?;
        let answer = timeout(TIMEOUT, sender.send_request(request)).await.map_err(late)?;
        answer.map_err(|error| broken(error.to_string()))
    }
}
