//! The cluster's certificate authority and the certificates that come from it.
//!
//! The CA's key is made once and kept under `<data_dir>/pki` with mode 0600. The server's own
//! certificates are made anew at every start and live in memory only.

use super::User;
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
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const JOIN_SECRET: &str = "join-secret";
const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;
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
    /// The names and addresses of the server itself, which no node may claim.
    server_names: Vec<SanType>,
}

fn file_failed(path: &Path) -> impl FnOnce(std::io::Error) -> PkiFailed + '_ {
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
        Ok(Self { pem, der, issuer, join_secret, server_names })
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
        let certificate = self.sign(user, names, usages, &key)?;
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
        self.sign(node, names, &usages, &request.public_key)
    }

    fn sign(
        &self,
        user: &User,
        names: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
        key: &impl PublicKeyData,
    ) -> Result<String, PkiFailed> {
        let mut params = validity(LEAF_YEARS);
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
        roots.add(self.der.clone()).map_err(|error| PkiFailed::Tls(error.to_string()))?;
        Ok(Arc::new(roots))
    }

    /// TLS for the listeners: a fresh serving certificate; client certificates of this authority
    /// are verified, and may be absent.
    pub(crate) fn server_tls(&self) -> Result<ServerConfig, PkiFailed> {
        let tls = |error: rustls::Error| PkiFailed::Tls(error.to_string());
        let user = User::new("bowline-apiserver", &[]);
        let usages = [ExtendedKeyUsagePurpose::ServerAuth];
        let identity = self.identity(&user, self.server_names.clone(), &usages)?;
        let (chain, key) = identity.for_tls()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| PkiFailed::Tls(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// TLS for the server's connections to agents.
    pub(crate) fn agent_tls(&self) -> Result<ClientConfig, PkiFailed> {
        let tls = |error: rustls::Error| PkiFailed::Tls(error.to_string());
        let user = User::apiserver();
        let (chain, key) = self.client_identity(&user)?.for_tls()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)
            .map_err(tls)?;
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
    fn for_tls(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiFailed> {
        let tls = |error: rustls_pki_types::pem::Error| PkiFailed::Tls(error.to_string());
        let certificate =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(tls)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key.as_bytes()).map_err(tls)?;
        Ok((vec![certificate], key.into()))
    }
}

/// Named, because another crate in the build may bring a second provider along.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn make_authority() -> Result<Identity, PkiFailed> {
    let failed = issue_failed("the cluster's authority");
    let key = KeyPair::generate().map_err(&failed)?;
    let mut params = validity(CA_YEARS);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "bowline-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(&failed)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// From yesterday (clocks differ) for so many years, with a random serial number.
fn validity(years: i16) -> CertificateParams {
    let mut params = CertificateParams::default();
    let today = jiff::Zoned::now().date();
    let start = today.yesterday().unwrap_or(today);
    // The first of a month exists in every year.
    let (year, month) = (i32::from(start.year()), start.month().unsigned_abs());
    params.not_before = date_time_ymd(year, month, start.day().unsigned_abs());
    params.not_after = date_time_ymd(year + i32::from(years), month, 1);
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
