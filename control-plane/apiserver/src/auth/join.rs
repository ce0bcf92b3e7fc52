//! How an agent becomes a member: it shows the join secret and gets a certificate. With that it
//! gets its next one, without the secret.
//!
//! Guarantees: the secret gives nobody the name of a node that is alive, nor the address of another
//! node. It has no end of its own: it is replaced by removing its file before the server starts.

use super::pki::Authority;
use super::{NODE_USER_PREFIX, NODES, User};
use crate::watch::{Caches, Filter, Object};
use bowline_api::object::is_true;
use bowline_api::resource::find;
use bowline_api::status::Status;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};

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

/// Fails while a node of this name is alive: its agent has a certificate, and shows it when it
/// wants another.
pub(crate) fn check_absent(caches: &Caches, node: &str) -> Result<(), Status> {
    let Some(nodes) = find("", "v1", "nodes") else { return Ok(()) };
    if !caches.of(nodes).get(node).is_some_and(|object| is_true(&object.value, "Ready")) {
        return Ok(());
    }
    let cause = format!(
        "a node {node:?} has joined and is Ready; choose another name, or stop its agent and wait \
         until it is NotReady, or delete the node"
    );
    Err(Status::conflict(nodes, node, &cause))
}

/// Fails if the node asks for an address that cannot be its own.
fn check_addresses(caches: &Caches, node: &str, names: &[SanType]) -> Result<(), Status> {
    let Some(nodes) = find("", "v1", "nodes") else { return Ok(()) };
    let others = caches.of(nodes).list(&Filter::default(), None, None).objects;
    for name in names {
        let SanType::IpAddress(address) = name else { continue };
        if address.is_unspecified() || address.is_multicast() {
            return Err(Status::bad_request(format!("{address} is not the address of a node")));
        }
        let text = address.to_string();
        let has = |other: &Object| {
            let addresses = other.value["status"]["addresses"].as_array();
            addresses.into_iter().flatten().any(|one| one["address"] == text.as_str())
        };
        if let Some(other) = others.iter().find(|other| other.key != node && has(other)) {
            let cause = format!("the address {address} is that of node {:?}", other.key);
            return Err(Status::conflict(nodes, node, &cause));
        }
    }
    Ok(())
}

/// Signs the certificate of `node` if the request is for that node. The caller has checked who
/// asks.
pub(crate) fn join(
    authority: &Authority,
    caches: &Caches,
    node: &str,
    request_pem: &str,
) -> Result<String, Status> {
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
    check_addresses(caches, node, &request.params.subject_alt_names)?;
    let user = User::new(name, &[NODES]);
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
