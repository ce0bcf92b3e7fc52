//! Claims that are signed: JSON web tokens.
//!
//! Guarantees: the key is made once and kept with mode 0600; what comes back from [`Signer::open`]
//! was signed with it, by the one algorithm that it has, whatever the token says of itself. It does
//! not look at what is claimed.

use super::pki::{PkiFailed, file_failed};
use super::secret_file;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::PublicKeyData;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// ECDSA over P-256 with SHA-256: the one algorithm, in the words of tokens.
pub(crate) const ALGORITHM: &str = "ES256";
/// A point of the curve as it is written: a byte for its form, then the coordinates.
const COORDINATE_BYTES: usize = 32;

/// The token cannot be signed: the system has no randomness.
#[derive(Debug, thiserror::Error)]
#[error("a token cannot be signed")]
pub(crate) struct SignFailed;

/// The key that tokens are signed with.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    /// What names the key: a digest of its public half.
    id: String,
    random: SystemRandom,
}

impl Signer {
    /// Reads the key in the file, or makes it.
    pub(crate) fn stored(path: &Path) -> Result<Self, PkiFailed> {
        if !path.exists() {
            let made = rcgen::KeyPair::generate().map_err(|error| unusable(path, &error))?;
            secret_file::write(path, &made.serialize_pem()).map_err(file_failed(path))?;
        }
        let pem = std::fs::read_to_string(path).map_err(file_failed(path))?;
        let pair = rcgen::KeyPair::from_pem(&pem).map_err(|error| unusable(path, &error))?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| unusable(path, &error))?;
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der(), &random)
            .map_err(|error| unusable(path, &error))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info()));
        Ok(Self { key, id, random })
    }

    /// The public half, as a JSON web key.
    pub(crate) fn public(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(COORDINATE_BYTES);
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": ALGORITHM,
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// A token of these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, SignFailed> {
        let header = json!({ "alg": ALGORITHM, "kid": self.id });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&self.random, token.as_bytes()).map_err(|_| SignFailed)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of a token that was signed with this key.
    pub(crate) fn open(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = read(header)?;
        let is_own = header["kid"].is_null() || header["kid"] == self.id.as_str();
        // What is critical to somebody is not known here.
        if header["alg"] != ALGORITHM || !is_own || header.get("crit").is_some() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let public = self.key.public_key().as_ref();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
        public.verify(signed.as_bytes(), &signature).ok()?;
        read(claims)
    }
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> PkiFailed {
    PkiFailed::Authority { path: path.to_owned(), reason: reason.to_string() }
}

/// What a token claims, whoever signed it; `None` when it is no token.
pub(crate) fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then(|| read(claims)).flatten()
}

/// A part of a token: an object.
fn read(part: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let directory = tempfile::tempdir().unwrap();
        Signer::stored(&directory.path().join("key")).unwrap()
    }

    fn encoded(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// The token with another header, claims or signature.
    fn changed(token: &str, place: usize, part: &str) -> String {
        let mut parts: Vec<&str> = token.split('.').collect();
        parts[place] = part;
        parts.join(".")
    }

    #[test]
    fn only_what_the_key_signed_is_opened() {
        let (own, other) = (signer(), signer());
        let claims = json!({ "sub": "a" });
        let token = own.sign(&claims).unwrap();
        assert_eq!(own.open(&token), Some(claims.clone()));
        let id = own.id.as_str();
        let header = |alg: &str| encoded(&json!({ "alg": alg, "kid": id }));
        let foreign = other.sign(&claims).unwrap();
        let foreign_signature = foreign.rsplit('.').next().unwrap();
        for (what, token) in [
            ("another key", foreign.clone()),
            ("another key under this one's name", changed(&foreign, 0, &header(ALGORITHM))),
            ("another's signature", changed(&token, 2, foreign_signature)),
            ("other claims", changed(&token, 1, &encoded(&json!({ "sub": "b" })))),
            ("no algorithm", changed(&changed(&token, 0, &header("none")), 2, "")),
            ("no algorithm, and a signature", changed(&token, 0, &header("none"))),
            ("a shared secret", changed(&token, 0, &header("HS256"))),
            ("no signature", changed(&token, 2, "")),
            ("a critical field", {
                let header = json!({ "alg": ALGORITHM, "kid": id, "crit": ["x"] });
                changed(&token, 0, &encoded(&header))
            }),
            ("a part more", format!("{token}.")),
            ("two parts", token.rsplit_once('.').unwrap().0.to_owned()),
            ("nothing", String::new()),
            ("no token", "a.b.c".to_owned()),
        ] {
            assert_eq!(own.open(&token), None, "{what}");
        }
    }

    #[test]
    fn a_stored_key_stays_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let token = Signer::stored(&path).unwrap().sign(&json!({})).unwrap();
        let again = Signer::stored(&path).unwrap();
        assert_eq!(again.open(&token), Some(json!({})));
        let public = again.public();
        for coordinate in ["x", "y"] {
            let bytes = URL_SAFE_NO_PAD.decode(public[coordinate].as_str().unwrap()).unwrap();
            assert_eq!(bytes.len(), COORDINATE_BYTES, "{coordinate}");
        }
        std::fs::write(&path, "junk").unwrap();
        assert!(matches!(Signer::stored(&path), Err(PkiFailed::Authority { .. })));
    }
}
