//! Who gets an answer.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::PrivateKeyDer;

use super::*;
use crate::connect::Keys;

type Authority = (CertificateDer<'static>, Issuer<'static, KeyPair>);

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), Issuer::new(params, key))
}

fn keys(authority: &Authority, organization: &str) -> Arc<Keys> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let organization = DnValue::Utf8String(organization.to_owned());
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority.1).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let chain = vec![certificate.der().clone()];
    Arc::new(Keys::new(rustls::sign::CertifiedKey::new(chain, key)))
}

async fn ask(
    address: SocketAddr,
    ca: &CertificateDer<'static>,
    keys: Option<Arc<Keys>>,
) -> Option<(StatusCode, String)> {
    let client = connect::http::<Empty<Bytes>>(connect::verified(ca, keys).unwrap());
    let url: Uri = format!("https://{address}/healthz").parse().unwrap();
    let request = Request::builder().uri(url).body(Empty::new()).unwrap();
    let answer = client.request(request).await.ok()?;
    let status = answer.status();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn only_masters_of_the_cluster_are_answered() {
    let ours = authority();
    let identity = Identity::for_tests(ours.0.clone(), keys(&ours, "system:nodes"));
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving =
        tokio::spawn(serve(listener, tls(&identity).unwrap(), Router::new(), stop.clone()));

    let (ca, theirs) = (&ours.0, authority());
    let master = Some(keys(&ours, MASTERS));
    assert_eq!(ask(address, ca, master).await, Some((StatusCode::OK, "ok".to_owned())));
    let node = ask(address, ca, Some(keys(&ours, "system:nodes"))).await.unwrap();
    assert_eq!(node.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(address, ca, Some(keys(&theirs, MASTERS))).await, None);
    assert_eq!(ask(address, ca, None).await, None);

    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_port_is_waited_for_while_an_agent_before_this_one_ends_and_no_longer() {
    let held = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = held.local_addr().unwrap();
    let start = Instant::now();
    let refused = listen(address).await.err().unwrap().to_string();
    assert!(refused.contains("another agent"), "{refused}");
    assert!(start.elapsed() >= PREDECESSOR_LIMIT);
    tokio::spawn(async move {
        sleep(5 * PREDECESSOR_PAUSE).await;
        drop(held);
    });
    assert!(listen(address).await.is_ok());
}
