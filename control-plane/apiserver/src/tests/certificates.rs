//! Certificates that are renewed while the server runs.

use super::*;
use crate::auth::pki::Authority;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;

const LIFE: Duration = Duration::from_secs(5);

/// More than two thirds of that, and twice as much is more than all of it.
const UNTIL_RENEWED: Duration = Duration::from_millis(3_600);

/// The certificate that the server shows to who trusts the authority.
async fn shown(address: SocketAddr, root: &CertificateDer<'static>) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::from(address.ip());
    let tls = connector.connect(name, stream).await.expect("a certificate that is valid");
    tls.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test]
async fn the_serving_certificate_is_renewed_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { certificate_life: LIFE, ..config(dir.path()) };
    let server = Server { api: ApiServer::start(config).await.unwrap(), dir };
    let root = CertificateDer::from_pem_slice(server.api.root_certificate().as_bytes()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (api, stopped) = (server.api.clone(), stop.clone());
    let serving = tokio::spawn(async move { api.serve(vec![listener], stopped).await });

    let first = shown(address, &root).await;
    assert_eq!(shown(address, &root).await, first, "it is not made for each connection");
    tokio::time::sleep(UNTIL_RENEWED).await;
    let second = shown(address, &root).await;
    assert_ne!(second, first);
    // The first has ended by now; without the second nobody would come in.
    tokio::time::sleep(UNTIL_RENEWED).await;
    let third = shown(address, &root).await;
    let lives = |certificate: &CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        certificate.validity().not_after.timestamp() >= now.cast_signed()
    };
    assert_eq!((lives(&first), lives(&third)), (false, true));
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_identity_for_agents_is_renewed_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open(directory.path(), None, &[], LIFE).unwrap();
    let tls = Arc::new(authority).agent_tls().unwrap();
    let identity = || {
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        tls.client_auth_cert_resolver.resolve(&[], &schemes).unwrap().cert[0].clone()
    };
    let first = identity();
    assert_eq!(identity(), first);
    tokio::time::sleep(UNTIL_RENEWED).await;
    let second = identity();
    assert_ne!(second, first);
    let user = User::of_certificate(&second).unwrap();
    assert_eq!((user.name.as_str(), user.groups), ("system:apiserver", vec![MASTERS.to_owned()]));
}
