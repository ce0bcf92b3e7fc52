//! The cluster's certificate authority and the certificates that come from it.
//!
//! The CA's key is made once and kept under `<data_dir>/pki` with mode 0600. The server's own
//! certificates are made anew at every start, and again after two thirds of their life; they live
//! in memory only. Agents ask for theirs anew.

use super::User;
use super::jwt::Signer;
use super::renewed::Renewed;
use super::secret_file;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const JOIN_SECRET: &str = "join-secret";
/// The key that tokens of service accounts are signed with.
const ACCOUNT_KEY: &str = "sa.key";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = DAY.saturating_mul(10 * 365);
/// Of a certificate that somebody else renews: an agent.
const NODE_LIFE: Duration = DAY.saturating_mul(365);
/// Of the server's own certificates and the administrator's, unless it is told otherwise.
pub const CERTIFICATE_LIFE: Duration = DAY.saturating_mul(365);
/// How much earlier than now a certificate begins: clocks differ.
const BACKDATED: Duration = DAY;
/// Random bytes in a join secret.
const JOIN_SECRET_BYTES: usize = 24;

/// The server's keys cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiFailed {
    #[error("{path} cannot be read or written: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the files under {path} are not a certificate authority: {reason}")]
    Authority { path: PathBuf, reason: String },
    #[error("a certificate for {subject} cannot be made: {reason}")]
    Issue { subject: String, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// A certificate with its key, both PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// The cluster's certificate authority.
pub(crate) struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    join_secret: String,
    directory: PathBuf,
    /// Of the certificates that the server itself renews.
    life: Duration,
    /// The names and addresses of the server itself, which no node may claim.
    server_names: Vec<SanType>,
}

pub(super) fn file_failed(path: &Path) -> impl FnOnce(std::io::Error) -> PkiFailed + '_ {
    |source| PkiFailed::File { path: path.to_owned(), source }
}

fn issue_failed<'a>(subject: &'a str) -> impl Fn(rcgen::Error) -> PkiFailed + 'a {
    move |error| PkiFailed::Issue { subject: subject.to_owned(), reason: error.to_string() }
}

impl Authority {
    /// Reads the authority below `directory`, or makes it.
    pub(crate) fn open(
        directory: &Path,
        join_secret: Option<String>,
        server_names: &[String],
        life: Duration,
    ) -> Result<Self, PkiFailed> {
        std::fs::create_dir_all(directory).map_err(file_failed(directory))?;
        let (certificate, key) = (directory.join(CA_CERTIFICATE), directory.join(CA_KEY));
        // The certificate is written last: with it there, the key is there too.
        if !certificate.exists() {
            let made = make_authority()?;
            secret_file::write(&key, &made.key).map_err(file_failed(&key))?;
            secret_file::write(&certificate, &made.certificate)
                .map_err(file_failed(&certificate))?;
        }
        let pem = std::fs::read_to_string(&certificate).map_err(file_failed(&certificate))?;
        let key_pem = std::fs::read_to_string(&key).map_err(file_failed(&key))?;
        let unusable = |reason: String| PkiFailed::Authority { path: directory.into(), reason };
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(error.to_string()))?;
        let key_pair = KeyPair::from_pem(&key_pem).map_err(|error| unusable(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&der, key_pair)
            .map_err(|error| unusable(error.to_string()))?;
        let join_secret = match join_secret {
            Some(secret) => secret,
            None => stored_join_secret(&directory.join(JOIN_SECRET))?,
        };
        let server_names = server_names
            .iter()
            .map(|name| subject_name(name).map_err(issue_failed(name)))
            .collect::<Result<_, _>>()?;
        let directory = directory.to_owned();
        Ok(Self { pem, der, issuer, join_secret, directory, life, server_names })
    }

    /// What tokens of service accounts are signed with.
    pub(crate) fn account_signer(&self) -> Result<Signer, PkiFailed> {
        Signer::stored(&self.directory.join(ACCOUNT_KEY))
    }

    /// How long the certificates live that the server itself renews.
    pub(crate) fn life(&self) -> Duration {
        self.life
    }

    /// The authority's own certificate.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// `bl1.<sha256 of the CA certificate>.<secret>`: what an agent needs to trust the server and
    /// to be trusted by it.
    pub(crate) fn join_token(&self) -> String {
        let mut token = "bl1.".to_owned();
        for byte in Sha256::digest(&self.der) {
            // Writing to a string cannot fail.
            let _ = write!(token, "{byte:02x}");
        }
        token + "." + &self.join_secret
    }

    /// Whether this is the join secret. Takes as long for a wrong one as for the right one. An
    /// empty one lets nobody in.
    pub(crate) fn is_join_secret(&self, offered: &str) -> bool {
        !offered.is_empty() && Sha256::digest(offered) == Sha256::digest(&self.join_secret)
    }

    /// A new key and a client certificate for it.
    pub(crate) fn client_identity(&self, user: &User) -> Result<Identity, PkiFailed> {
        self.identity(user, Vec::new(), &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn identity(
        &self,
        user: &User,
        names: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Identity, PkiFailed> {
        let key = KeyPair::generate().map_err(issue_failed(&user.name))?;
        let certificate = self.sign(user, names, usages, &key, self.life)?;
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    /// Signs a node's key. Only the key and the acceptable names of the request are used; the
    /// subject and the usages are the server's decision.
    pub(crate) fn sign_node(
        &self,
        node: &User,
        host_name: &str,
        request: &CertificateSigningRequestParams,
    ) -> Result<String, PkiFailed> {
        let names = request
            .params
            .subject_alt_names
            .iter()
            .filter(|name| match name {
                SanType::DnsName(dns) => dns.as_str() == host_name,
                SanType::IpAddress(_) => true,
                _ => false,
            })
            .filter(|name| !self.server_names.contains(name))
            .cloned()
            .collect();
        let usages = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(node, names, &usages, &request.public_key, NODE_LIFE)
    }

    fn sign(
        &self,
        user: &User,
        names: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
        key: &impl PublicKeyData,
        life: Duration,
    ) -> Result<String, PkiFailed> {
        let mut params = validity(life);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user.name.as_str());
        for group in &user.groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(issue_failed(&user.name))?;
        Ok(certificate.pem())
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, PkiFailed> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).map_err(tls_failed)?;
        Ok(Arc::new(roots))
    }

    /// TLS for the listeners; client certificates of this authority are verified, and may be
    /// absent.
    pub(crate) fn server_tls(self: &Arc<Self>) -> Result<ServerConfig, PkiFailed> {
        let this = self.clone();
        let make = move || {
            let user = User::new("bowline-apiserver", &[]);
            let usages = [ExtendedKeyUsagePurpose::ServerAuth];
            this.identity(&user, this.server_names.clone(), &usages)?.for_tls()
        };
        let certificate = Renewed::new("the serving certificate", self.life, Box::new(make))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .allow_unauthenticated()
            .build()
            .map_err(tls_failed)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls_failed)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(certificate));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS for the server's connections to agents.
    pub(crate) fn agent_tls(self: &Arc<Self>) -> Result<ClientConfig, PkiFailed> {
        let this = self.clone();
        let make = move || this.client_identity(&User::apiserver())?.for_tls();
        let certificate = Renewed::new("the identity for agents", self.life, Box::new(make))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls_failed)?
            .with_root_certificates(self.roots()?)
            .with_client_cert_resolver(Arc::new(certificate));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A kubeconfig that makes its holder `user` at `server`.
    pub(crate) fn kubeconfig(&self, user: &User, server: &str) -> Result<String, PkiFailed> {
        let identity = self.client_identity(user)?;
        let authority = STANDARD.encode(&self.pem);
        let certificate = STANDARD.encode(&identity.certificate);
        let key = STANDARD.encode(&identity.key);
        let name = &user.name;
        Ok(format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: bowline\n\
             \x20 cluster:\n\
             \x20   server: {server}\n\
             \x20   certificate-authority-data: {authority}\n\
             users:\n\
             - name: {name}\n\
             \x20 user:\n\
             \x20   client-certificate-data: {certificate}\n\
             \x20   client-key-data: {key}\n\
             contexts:\n\
             - name: bowline\n\
             \x20 context:\n\
             \x20   cluster: bowline\n\
             \x20   user: {name}\n\
             current-context: bowline\n"
        ))
    }
}

impl Identity {
    fn for_tls(&self) -> Result<CertifiedKey, PkiFailed> {
        let certificate =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(tls_failed)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key.as_bytes()).map_err(tls_failed)?;
        CertifiedKey::from_der(vec![certificate], key.into(), &provider()).map_err(tls_failed)
    }
}

fn tls_failed(error: impl std::fmt::Display) -> PkiFailed {
    PkiFailed::Tls(error.to_string())
}

/// Named, because another crate in the build may bring a second provider along.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn make_authority() -> Result<Identity, PkiFailed> {
    let failed = issue_failed("the cluster's authority");
    let key = KeyPair::generate().map_err(&failed)?;
    let mut params = validity(CA_LIFE);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "bowline-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(&failed)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// From yesterday (clocks differ) until the end of a life that begins now, with a random serial
/// number.
fn validity(life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Whole seconds are all that a certificate can say.
    let at = |after: Duration| date_time_ymd(1970, 1, 1) + Duration::from_secs(after.as_secs());
    params.not_before = at(now.saturating_sub(BACKDATED));
    params.not_after = at(now + life);
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn subject_name(name: &str) -> Result<SanType, rcgen::Error> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

fn stored_join_secret(path: &Path) -> Result<String, PkiFailed> {
    match std::fs::read_to_string(path) {
        Ok(secret) => return Ok(secret.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(file_failed(path)(error)),
    }
    let bytes: [u8; JOIN_SECRET_BYTES] = rand::random();
    let secret = URL_SAFE_NO_PAD.encode(bytes);
    secret_file::write(path, &secret).map_err(file_failed(path))?;
    Ok(secret)
}
