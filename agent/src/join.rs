//! Certificates: how an agent gets its identity from a token, keeps it and renews it.
//!
//! The token carries the hash of the cluster's authority. The authority's certificate is fetched
//! from whoever answers and believed only if it has that hash; from then on every connection is
//! verified. Guarantees: the secret of the token is only ever sent to a server that proved to
//! belong to the cluster; certificate and key are replaced in one step; the key is readable by
//! its owner alone.

use std::{
    fs, io,
    io::Write as _,
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full, Limited};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::{ClientConfig, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    config::{Config, Secret},
    connect::{self, Keys},
};

/// How long the server may be unreachable when an agent joins.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

/// How long one request of the join may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The most that is read of an answer.
const ANSWER_LIMIT: usize = 64 * 1024;

/// An agent could not get its identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinFailed {
    #[error("{0:?} is not the URL of a server, such as https://172.30.0.1:6443")]
    BadServer(String),
    #[error("no certificate in {} yet: a join token is needed (--token-file)", .0.display())]
    NoToken(PathBuf),
    #[error("the join token is malformed; `bl1.<hash>.<secret>` is what the server prints")]
    MalformedToken,
    #[error("the server {0} refused the join token: it is wrong or was replaced")]
    WrongToken(String),
    #[error("the server {0} is not of the cluster that the join token is for")]
    OtherCluster(String),
    #[error("the server {server} was not reachable for {} s: {source}", limit.as_secs())]
    Unreachable { server: String, limit: Duration, source: CallFailed },
    #[error("the server {server} did not let this node join: {status} {message}")]
    Refused { server: String, status: StatusCode, message: String },
    #[error("the server's certificate or ours is unusable: {0}")]
    BadCertificate(String),
    #[error("{}: {source}", path.display())]
    Keep { path: PathBuf, source: io::Error },
}

/// A request of the join had no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallFailed {
    #[error("{0}")]
    Http(String),
    #[error("no answer within {} s", REQUEST_LIMIT.as_secs())]
    TimedOut,
}

/// Who the agent is, and whom it believes.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) keys: Arc<Keys>,
    renew_at: SystemTime,
    expires_at: SystemTime,
}

/// What a join token says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    ca_hash: [u8; 32],
    secret: Secret,
}

impl Token {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '.');
        let (version, hash, secret) = (parts.next()?, parts.next()?, parts.next()?);
        if version != "bl1" || hash.len() != 64 || !hash.is_ascii() || secret.is_empty() {
            return None;
        }
        let mut ca_hash = [0; 32];
        for (byte, digits) in ca_hash.iter_mut().zip(hash.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self { ca_hash, secret: secret.to_owned().into() })
    }
}

/// The server's URL.
pub(crate) fn server_url(config: &Config) -> Result<Uri, JoinFailed> {
    let bad = || JoinFailed::BadServer(config.server.clone());
    let url: Uri = config.server.parse().map_err(|_| bad())?;
    if url.scheme_str() != Some("https") || url.host().is_none() {
        return Err(bad());
    }
    Ok(url)
}

/// The identity that is kept in the data directory if it is sound, else a new one by the token.
pub(crate) async fn identity(config: &Config, address: Ipv4Addr) -> Result<Identity, JoinFailed> {
    let server = server_url(config)?;
    let kept = Kept::new(&config.data_dir);
    let token = match &config.token {
        Some(text) => Some(Token::parse(text.reveal()).ok_or(JoinFailed::MalformedToken)?),
        None => None,
    };
    if let Some((ca, identity)) = kept.load() {
        let same_cluster = token.as_ref().is_none_or(|token| token.ca_hash == hash(&ca));
        if same_cluster && identity.is_current() {
            return Ok(identity);
        }
        tracing::info!("the certificate that was kept is of no more use; joining anew");
    }
    let token = token.ok_or_else(|| JoinFailed::NoToken(kept.dir.clone()))?;
    let ca = fetch_authority(&server, &token).await?;
    let tls = connect::verified(&ca, None).map_err(bad_certificate)?;
    let request = CertificateRequest::new(config, address)?;
    let chain = request.send(&server, tls, Some(token.secret.reveal())).await?;
    kept.store(&ca, &chain, &request.key)?;
    let (_, identity) = kept
        .load()
        .ok_or_else(|| JoinFailed::BadCertificate("what the server signed is odd".to_owned()))?;
    Ok(identity)
}

/// Renews the certificate whenever two thirds of its time have passed.
pub(crate) async fn renew(
    config: Arc<Config>,
    address: Ipv4Addr,
    mut identity: Identity,
    shutdown: CancellationToken,
) {
    let keys = identity.keys.clone();
    loop {
        let wait = identity.renew_at.duration_since(SystemTime::now()).unwrap_or_default();
        // A failed renewal is tried again every minute; waiting a day at a time keeps the wait
        // right when the clock is set.
        let wait = wait.clamp(Duration::from_secs(60), Duration::from_secs(24 * 3600));
        if shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
        if identity.renew_at > SystemTime::now() {
            continue;
        }
        match renew_once(&config, address, &identity).await {
            Ok(certified) => {
                keys.replace(certified.key);
                identity.renew_at = certified.renew_at;
                tracing::info!("renewed the certificate");
            }
            Err(error) => tracing::warn!(%error, "cannot renew the certificate"),
        }
    }
}

async fn renew_once(
    config: &Config,
    address: Ipv4Addr,
    identity: &Identity,
) -> Result<Certified, JoinFailed> {
    let server = server_url(config)?;
    let tls = connect::verified(&identity.ca, Some(identity.keys.clone()));
    let request = CertificateRequest::new(config, address)?;
    // The certificate that is about to end says who asks; no secret is needed.
    let chain = request.send(&server, tls.map_err(bad_certificate)?, None).await?;
    Kept::new(&config.data_dir).store(&identity.ca, &chain, &request.key)?;
    certified(&format!("{}{chain}", request.key))
        .ok_or_else(|| JoinFailed::BadCertificate("what the server signed is odd".to_owned()))
}

impl Identity {
    /// An identity that is never renewed.
    #[cfg(test)]
    pub(crate) fn for_tests(ca: CertificateDer<'static>, keys: Arc<Keys>) -> Self {
        let never = SystemTime::UNIX_EPOCH;
        Self { ca, keys, renew_at: never, expires_at: never }
    }

    /// Whether it is of use. One that is due for renewal still is: it is renewed with itself.
    fn is_current(&self) -> bool {
        self.expires_at > SystemTime::now()
    }
}

/// A key and the request to have it certified.
struct CertificateRequest {
    path: String,
    pem: String,
    key: String,
}

impl CertificateRequest {
    fn new(config: &Config, address: Ipv4Addr) -> Result<Self, JoinFailed> {
        let node = &config.node_name;
        let mut params = CertificateParams::new([node.clone()]).map_err(bad_certificate)?;
        params.subject_alt_names.push(SanType::IpAddress(address.into()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        let key = KeyPair::generate().map_err(bad_certificate)?;
        let request = params.serialize_request(&key).map_err(bad_certificate)?;
        Ok(Self {
            path: format!("/bowline/v1/join?node={node}"),
            pem: request.pem().map_err(bad_certificate)?,
            key: key.serialize_pem(),
        })
    }

    /// Sends the request and gives back the certificate, as PEM.
    async fn send(
        &self,
        server: &Uri,
        tls: ClientConfig,
        secret: Option<&str>,
    ) -> Result<String, JoinFailed> {
        let (status, body) = call(server, tls, JOIN_LIMIT, || {
            let mut request = Request::builder().method(Method::POST).uri(join(server, &self.path));
            if let Some(secret) = secret {
                request = request.header(AUTHORIZATION, format!("Bearer {secret}"));
            }
            request.body(Full::new(Bytes::from(self.pem.clone())))
        })
        .await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        match status {
            StatusCode::UNAUTHORIZED => Err(JoinFailed::WrongToken(server.to_string())),
            status if status.is_success() => Ok(text),
            status => {
                let message = message_of(&text);
                Err(JoinFailed::Refused { server: server.to_string(), status, message })
            }
        }
    }
}

async fn fetch_authority(
    server: &Uri,
    token: &Token,
) -> Result<CertificateDer<'static>, JoinFailed> {
    let tls = connect::unverified().map_err(bad_certificate)?;
    let (status, body) = call(server, tls, JOIN_LIMIT, || {
        Request::builder().uri(join(server, "/bowline/v1/ca")).body(Full::default())
    })
    .await?;
    if !status.is_success() {
        let message = message_of(&String::from_utf8_lossy(&body));
        return Err(JoinFailed::Refused { server: server.to_string(), status, message });
    }
    let ca = CertificateDer::from_pem_slice(&body).map_err(bad_certificate)?;
    if hash(&ca) == token.ca_hash {
        Ok(ca)
    } else {
        Err(JoinFailed::OtherCluster(server.to_string()))
    }
}

/// Sends a request until it has an answer, for at most `limit`.
async fn call(
    server: &Uri,
    tls: ClientConfig,
    limit: Duration,
    request: impl Fn() -> http::Result<Request<Full<Bytes>>>,
) -> Result<(StatusCode, Bytes), JoinFailed> {
    let client = connect::http::<Full<Bytes>>(tls);
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(50);
    loop {
        let request = request().map_err(|_| JoinFailed::BadServer(server.to_string()))?;
        let attempt = async {
            let answer = client.request(request).await.map_err(|error| {
                // The client's own message only says that connecting failed, not why.
                let cause = std::error::Error::source(&error);
                CallFailed::Http(cause.map_or_else(|| error.to_string(), ToString::to_string))
            })?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| CallFailed::Http(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        let result = timeout(REQUEST_LIMIT, attempt).await.unwrap_or(Err(CallFailed::TimedOut));
        match result {
            Ok(answer) => return Ok(answer),
            Err(source) if Instant::now() + pause >= end => {
                return Err(JoinFailed::Unreachable { server: server.to_string(), limit, source });
            }
            Err(error) => tracing::debug!(%error, %server, "not reachable yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn join(server: &Uri, path: &str) -> String {
    format!("{}{path}", server.to_string().trim_end_matches('/'))
}

/// The message of a Status object, or the text itself.
fn message_of(text: &str) -> String {
    let status = serde_json::from_str::<serde_json::Value>(text).ok();
    let message = status.as_ref().and_then(|status| status["message"].as_str());
    message.unwrap_or(text).trim().to_owned()
}

fn hash(ca: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(ca).into()
}

fn bad_certificate(error: impl std::fmt::Display) -> JoinFailed {
    JoinFailed::BadCertificate(error.to_string())
}

/// Writes a kubeconfig with which other programs on this node ask the API as its agent; says where.
pub(crate) fn write_kubeconfig(config: &Config) -> Result<PathBuf, JoinFailed> {
    let path = Kept::new(&config.data_dir).dir.join("kubeconfig");
    let user = format!("system:node:{}", config.node_name);
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bowline",
        "clusters": [{
            "name": "bowline",
            "cluster": { "server": config.server, "certificate-authority": "ca.crt" },
        }],
        // Renewed certificates come into the same file.
        "users": [{
            "name": user,
            "user": { "client-certificate": "agent.pem", "client-key": "agent.pem" },
        }],
        "contexts": [{ "name": "bowline", "context": { "cluster": "bowline", "user": user } }],
    });
    // JSON is YAML.
    replace(&path, format!("{kubeconfig:#}\n").as_bytes())
        .map_err(|source| JoinFailed::Keep { path: path.clone(), source })?;
    Ok(path)
}

/// The directory that holds the identity: `ca.crt`, `agent.pem` with key and certificate, and a
/// `kubeconfig` that names them.
struct Kept {
    dir: PathBuf,
}

impl Kept {
    fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("pki") }
    }

    fn load(&self) -> Option<(CertificateDer<'static>, Identity)> {
        let ca = CertificateDer::from_pem_file(self.dir.join("ca.crt")).ok()?;
        let text = fs::read_to_string(self.dir.join("agent.pem")).ok()?;
        let Certified { key, renew_at, expires_at } = certified(&text)?;
        let keys = Arc::new(Keys::new(key));
        Some((ca.clone(), Identity { ca, keys, renew_at, expires_at }))
    }

    fn store(&self, ca: &CertificateDer<'_>, chain: &str, key: &str) -> Result<(), JoinFailed> {
        let failed = |path: &Path, source| JoinFailed::Keep { path: path.to_owned(), source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|source| failed(&self.dir, source))?;
        let authority = pem("CERTIFICATE", ca);
        for (name, text) in [("ca.crt", authority), ("agent.pem", format!("{key}{chain}"))] {
            let path = self.dir.join(name);
            replace(&path, text.as_bytes()).map_err(|source| failed(&path, source))?;
        }
        Ok(())
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(new, path)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A key with its certificate, which should be renewed at one time and ends at another.
struct Certified {
    key: CertifiedKey,
    renew_at: SystemTime,
    expires_at: SystemTime,
}

/// Key and certificate from PEM.
fn certified(text: &str) -> Option<Certified> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let validity = certificate.validity();
    let begin = u64::try_from(validity.not_before.timestamp()).ok()?;
    let end = u64::try_from(validity.not_after.timestamp()).ok()?;
    let renew_at = begin + end.checked_sub(begin)? / 3 * 2;
    let key = CertifiedKey::new(chain, key);
    key.keys_match().ok()?;
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Some(Certified { key, renew_at: at(renew_at), expires_at: at(end) })
}

#[cfg(test)]
mod tests;
