//! How the agent speaks to the API server: TCP that notices a dead peer, TLS, HTTP.
//!
//! Guarantees: the certificate that is presented can be replaced while connections are open; a
//! connection whose other end is gone without a sign fails within [`DEAD_AFTER`]; so does one
//! whose other end has stopped, while something is asked of it; a request of the API whose answer
//! does not begin within [`ANSWER_LIMIT`] fails. Proxies named in the environment are not used.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use http::{
    Uri,
    header::{HeaderValue, USER_AGENT},
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::client::ConfigExt;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// As the entries of managers in objects name the agent.
const PROGRAM: &str = concat!("bowline-agent/", env!("CARGO_PKG_VERSION"));

/// A peer that acknowledges nothing for this long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// How long making a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long the API server may take until an answer begins. A watch's answer begins at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How often a server that owes us something is asked whether it still runs.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The agent's certificate and key, exchangeable at any time.
pub(crate) struct Keys(RwLock<Arc<CertifiedKey>>);

impl Keys {
    pub(crate) fn new(key: CertifiedKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }

    pub(crate) fn replace(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl ResolvesClientCert for Keys {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// The cryptography that everything here uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// TLS towards a server that shows a certificate of this authority.
pub(crate) fn verified(
    ca: &CertificateDer<'static>,
    keys: Option<Arc<Keys>>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match keys {
        Some(keys) => builder.with_client_cert_resolver(keys),
        None => builder.with_no_client_auth(),
    })
}

/// TLS towards a server that shows any certificate. Only for fetching the authority's own, which
/// is then checked against the hash in the join token.
pub(crate) fn unverified() -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(provider())));
    Ok(config)
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An HTTP client over such a connection.
pub(crate) fn http<B>(mut tls: ClientConfig) -> Client<Connector, B>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
{
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = Connector { tls: TlsConnector::from(Arc::new(tls)) };
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(DEAD_AFTER)
        .build(connector)
}

/// A client of the API.
pub(crate) fn api(server: Uri, tls: ClientConfig) -> kube::Client {
    api_within(server, tls, ANSWER_LIMIT)
}

fn api_within(server: Uri, tls: ClientConfig, limit: Duration) -> kube::Client {
    let base = kube::Config::new(server).base_uri_layer();
    let service = tower::ServiceBuilder::new()
        .map_request(|mut request: http::Request<kube::client::Body>| {
            request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(PROGRAM));
            request
        })
        .layer(base)
        .map_future(move |answer| begins_within(limit, answer))
        .service(http(tls));
    kube::Client::new(service, "default")
}

/// The API server did not answer.
#[derive(Debug, thiserror::Error)]
enum AskApiFailed<E> {
    #[error("the API server gave no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error(transparent)]
    Call(#[from] E),
}

async fn begins_within<T, E>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, AskApiFailed<E>> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(AskApiFailed::Call),
        Err(_) => Err(AskApiFailed::TimedOut(limit)),
    }
}

/// Makes connections for the HTTP client.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let limit = || io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s");
            timeout(CONNECT_LIMIT, connect(tls, uri)).await.map_err(|_| limit())?
        })
    }
}

async fn connect(tls: TlsConnector, uri: Uri) -> io::Result<TokioIo<Stream>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let host = uri.host().ok_or_else(|| invalid("the server's URL names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| invalid("the server's URL has a host name that cannot be"))?;
    let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    tcp.set_nodelay(true)?;
    notice_dead_peers(&tcp)?;
    Ok(TokioIo::new(Stream(tls.connect(name, tcp).await?)))
}

fn notice_dead_peers(tcp: &TcpStream) -> io::Result<()> {
    let limit = u32::try_from(DEAD_AFTER.as_millis()).unwrap_or(u32::MAX);
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &4)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &2)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &limit)?;
    Ok(())
}

/// A TLS connection that tells the HTTP client which protocol was agreed upon.
pub(crate) struct Stream(TlsStream<TcpStream>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self.0.get_ref().1.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use rcgen::{CertificateParams, KeyPair, SanType};
    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Accepts connections and requests, and answers nothing.
    async fn silent_server() -> (Uri, CertificateDer<'static>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let address = std::net::Ipv4Addr::LOCALHOST;
        params.subject_alt_names = vec![SanType::IpAddress(address.into())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((tcp, _)) = listener.accept().await {
                held.push(acceptor.accept(tcp).await);
            }
        });
        (url, certificate)
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let (url, ca) = silent_server().await;
        let client = api_within(url, verified(&ca, None).unwrap(), Duration::from_millis(300));
        let asked = kube::Api::<Node>::all(client);
        let answer = timeout(Duration::from_secs(5), asked.get("node1")).await;
        let error = answer.expect("the request is given up").unwrap_err();
        assert!(matches!(error, kube::Error::Service(_)), "{error:?}");
        assert!(error.to_string().contains("no answer within 0.3 s"), "{error}");
    }
}
