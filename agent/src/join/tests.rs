//! Tokens, what is kept, and what a user is told.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn token(hash: &str, secret: &str) -> String {
    format!("bl1.{hash}.{secret}")
}

#[test]
fn tokens() {
    let hash = "ab".repeat(32);
    let good = Token::parse(&format!(" {}\n", token(&hash, "s3cret.with.dots"))).unwrap();
    assert_eq!(good, Token { ca_hash: [0xab; 32], secret: "s3cret.with.dots".to_owned().into() });
    assert!(!format!("{good:?}").contains("s3cret"));
    for bad in [
        String::new(),
        token(&hash, ""),
        token(&hash[1..], "s"),
        token(&"zz".repeat(32), "s"),
        token(&"é".repeat(32), "s"),
        format!("bl2.{hash}.s"),
        format!("bl1.{hash}"),
    ] {
        assert_eq!(Token::parse(&bad), None, "{bad}");
    }
}

fn certificate(days: i64) -> (CertificateDer<'static>, String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["node1".to_owned()]).unwrap();
    let now = SystemTime::now();
    let before = now - Duration::from_secs(3600);
    params.not_before = before.into();
    params.not_after = (now + Duration::from_secs(days.unsigned_abs() * 86400)).into();
    if days < 0 {
        params.not_after = before.into();
    }
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), certificate.pem(), key.serialize_pem())
}

#[test]
fn an_identity_is_kept_privately_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::new(dir.path());
    assert!(kept.load().is_none());
    let (ca, chain, key) = certificate(365);
    kept.store(&ca, &chain, &key).unwrap();
    kept.store(&ca, &chain, &key).unwrap();
    let (loaded, identity) = kept.load().unwrap();
    assert_eq!(loaded, ca);
    assert!(identity.is_current());
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
    assert_eq!(mode("pki") & 0o777, 0o700);
    assert_eq!(mode("pki/agent.pem") & 0o777, 0o600);
    // Half an identity, or one whose key is another's, is none.
    let (_, _, other_key) = certificate(365);
    fs::write(dir.path().join("pki/agent.pem"), format!("{other_key}{chain}")).unwrap();
    assert!(kept.load().is_none());
    fs::write(dir.path().join("pki/agent.pem"), key).unwrap();
    assert!(kept.load().is_none());
}

#[test]
fn an_old_certificate_is_not_current() {
    let (_, chain, key) = certificate(-1);
    let old = certified(&format!("{key}{chain}")).unwrap();
    assert!(old.renew_at < SystemTime::now() && old.expires_at < SystemTime::now());
    let (_, chain, key) = certificate(3);
    let renew_at = certified(&format!("{key}{chain}")).unwrap().renew_at;
    let left = renew_at.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((46 * 3600..49 * 3600).contains(&left), "{left}");
}

#[tokio::test]
async fn what_cannot_work_is_said_in_one_line_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new("node1", "https://127.0.0.1:1");
    config.data_dir = dir.path().to_owned();
    let fails = async |config: &Config| {
        let error = identity(config, Ipv4Addr::LOCALHOST).await.unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    assert!(fails(&config).await.contains("--token"));
    config.token = Some("nonsense".to_owned().into());
    assert!(fails(&config).await.contains("malformed"));
    config.server = "127.0.0.1:6443".to_owned();
    assert!(fails(&config).await.contains("not the URL of a server"));
    assert!(!dir.path().join("pki").exists());
}

#[tokio::test]
async fn an_unreachable_server_is_given_up_after_the_limit() {
    // A port that was free a moment ago and that nobody listens on.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let server: Uri = format!("https://127.0.0.1:{port}").parse().unwrap();
    let began = Instant::now();
    let limit = Duration::from_secs(1);
    let request = || Request::builder().uri(&server).body(Full::default());
    let tls = connect::unverified().unwrap();
    let error = call(&server, tls, limit, request).await.unwrap_err().to_string();
    assert!(error.contains("was not reachable for 1 s") && error.contains("refused"), "{error}");
    assert!(began.elapsed() <= limit);
}
