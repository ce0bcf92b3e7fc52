//! Bootstrap tokens: secrets that let somebody in who has no certificate yet.
//!
//! A token is `ID.SECRET`; the secret `bootstrap-token-ID` of type `bootstrap.kubernetes.io/token`
//! in `kube-system` says what it is good for.
//!
//! Guarantees: a token that is wrong, has ended or is not for authentication is not known, and no
//! answer says which of these it is. Of its secret the time tells nothing; an id is no secret.

use super::User;
use crate::watch::Caches;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_api::object;
use bowline_api::resource::find;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

const NAMESPACE: &str = "kube-system";
const SECRET_PREFIX: &str = "bootstrap-token-";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// What the name of the user starts with; the token's id follows.
const USER_PREFIX: &str = "system:bootstrap:";
/// The group of all; what further groups start with, before a colon.
const GROUP: &str = "system:bootstrappers";
/// Letters of the id and of the secret.
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// Letters of a further group's own name.
const GROUP_NAME_MAX: usize = 256;

/// Who shows this token.
pub(super) fn user(caches: &Caches, token: &str, now: Timestamp) -> Option<User> {
    let (id, offered) = token.split_once('.')?;
    let fits = |part: &str, length: usize| part.len() == length && part.bytes().all(is_letter);
    if !fits(id, ID_LENGTH) || !fits(offered, SECRET_LENGTH) {
        return None;
    }
    let secrets = caches.of(find("", "v1", "secrets")?);
    let stored = secrets.get(&format!("{NAMESPACE}/{SECRET_PREFIX}{id}"))?;
    let secret = &stored.value;
    if object::deletion_timestamp(secret).is_some() || secret["type"] != SECRET_TYPE {
        return None;
    }
    let is_right = Sha256::digest(offered) == Sha256::digest(data(secret, "token-secret"));
    let is_for_this = data(secret, "usage-bootstrap-authentication") == "true";
    if !is_right || data(secret, "token-id") != id || has_ended(secret, now) || !is_for_this {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    let further = data(secret, "auth-extra-groups");
    for group in further.split(',').filter(|_| !further.is_empty()) {
        // One that is wrong spoils the token.
        if !is_group(group) {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Some(User { groups, ..User::new(format!("{USER_PREFIX}{id}"), &[]) })
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// A value of the secret; empty when it is absent or no text.
fn data(secret: &Value, key: &str) -> String {
    let encoded = secret["data"][key].as_str().unwrap_or_default();
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

fn has_ended(secret: &Value, now: Timestamp) -> bool {
    let end = data(secret, "expiration");
    // An end that cannot be read has come.
    !end.is_empty() && end.parse::<Timestamp>().map_or(true, |end| end <= now)
}

fn is_group(group: &str) -> bool {
    let own = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':'));
    own.is_some_and(|own| {
        let last = own.bytes().last().is_some_and(is_letter);
        let all = own.bytes().all(|byte| is_letter(byte) || b":-".contains(&byte));
        last && all && own.len() <= GROUP_NAME_MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_a_form() {
        let longest = format!("system:bootstrappers:{}", "a".repeat(256));
        for (group, fits) in [
            ("system:bootstrappers:a", true),
            ("system:bootstrappers:kubeadm:default-node-token", true),
            (&longest, true),
            (&format!("{longest}a"), false),
            ("system:bootstrappers", false),
            ("system:bootstrappers:", false),
            ("system:bootstrappers:a-", false),
            ("system:bootstrappers:A", false),
            ("system:masters", false),
            (" system:bootstrappers:a", false),
        ] {
            assert_eq!(is_group(group), fits, "{group}");
        }
    }
}
