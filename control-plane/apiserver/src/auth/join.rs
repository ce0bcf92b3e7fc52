//! How an agent becomes a member: it shows the join secret and gets a certificate.

use super::pki::Authority;
use super::{NODE_USER_PREFIX, NODES, User};
use bowline_api::status::Status;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue};

/// The longest name of a node, as of any object.
const NODE_NAME_MAX: usize = 253;

/// Whether `authorization` (the header) carries the join secret.
pub(crate) fn check_secret(
    authority: &Authority,
    authorization: Option<&str>,
) -> Result<(), Status> {
    let secret = authorization.and_then(|header| header.strip_prefix("Bearer "));
    if secret.is_some_and(|secret| authority.is_join_secret(secret.trim())) {
        return Ok(());
    }
    Err(Status::unauthorized())
}

/// Signs the certificate of `node` if the request is for that node. The caller has checked the
/// secret.
pub(crate) fn join(authority: &Authority, node: &str, request_pem: &str) -> Result<String, Status> {
    if !is_node_name(node) {
        return Err(Status::bad_request(format!(
            "node {node:?} is not a name: it must consist of lower case letters, digits, '-' \
             and '.'"
        )));
    }
    let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|error| {
        Status::bad_request(format!("the body is not a certificate signing request: {error}"))
    })?;
    let name = format!("{NODE_USER_PREFIX}{node}");
    let common_name = request.params.distinguished_name.get(&DnType::CommonName);
    if common_name.and_then(text) != Some(name.as_str()) {
        return Err(Status::bad_request(format!(
            "the certificate signing request must have the common name {name:?}"
        )));
    }
    let user = User { name, groups: vec![NODES.to_owned()] };
    authority.sign_node(&user, node, &request).map_err(|error| Status::internal_error(&error))
}

fn text(value: &DnValue) -> Option<&str> {
    match value {
        DnValue::Utf8String(text) => Some(text),
        DnValue::PrintableString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn is_node_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= NODE_NAME_MAX
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
}
