//! Who shows a token instead of a certificate.
//!
//! Guarantees: a request with a token that is worth nothing is nobody's; it is not taken for one
//! without a token.

use super::account_tokens::{AccountTokens, Known, Refused, shared};
use super::{User, bootstrap_tokens};
use crate::watch::Caches;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use std::sync::Arc;

/// See the module's documentation.
pub(crate) struct Bearer {
    pub(crate) accounts: AccountTokens,
    /// What a token must be for, unless somebody asks for others.
    pub(crate) audiences: Vec<String>,
    caches: Arc<Caches>,
}

impl Bearer {
    /// A token is for who issues it.
    pub(crate) fn new(accounts: AccountTokens, caches: Arc<Caches>) -> Self {
        let audiences = vec![accounts.issuer().to_owned()];
        Self { accounts, audiences, caches }
    }

    /// Who the token is, to one of these audiences.
    pub(crate) fn check(&self, token: &str, asked: &[String]) -> Result<Known, Refused> {
        let now = Timestamp::now();
        if let Some(judged) = self.accounts.check(token, asked, now) {
            let known = judged?;
            return Ok(Known { user: known.user.authenticated(), ..known });
        }
        let user = bootstrap_tokens::user(&self.caches, token, now).ok_or(Refused::Unknown)?;
        // They are for this server.
        let audiences = shared(&self.audiences, asked).map_err(|_| Refused::Unknown)?;
        Ok(Known { user: user.authenticated(), audiences })
    }

    /// Who makes a request with these headers; `None` when they have no token.
    pub(crate) fn user(&self, headers: &HeaderMap) -> Result<Option<User>, Refused> {
        let Some(token) = token(headers) else { return Ok(None) };
        Ok(Some(self.check(token, &self.audiences)?.user))
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, rest) = header.split_once(' ')?;
    let token = rest.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_headers() {
        for (header, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            (" BEARER abc def", Some("abc")),
            ("Bearer", None),
            ("Bearer  abc", None),
            ("Basic abc", None),
            ("abc", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            assert_eq!(token(&headers), expected, "{header}");
        }
        assert_eq!(token(&HeaderMap::new()), None);
    }
}
