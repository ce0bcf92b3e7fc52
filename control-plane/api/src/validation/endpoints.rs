//! Endpoints and endpoint slices.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, metadata};
use super::names::{endpoint_ip, label, port, subdomain};
use super::service::{app_protocol, protocol};
use super::{Errors, FieldError, Path};

const SLICE_HINTS: usize = 8;
const SLICE_ENDPOINTS: usize = 1000;
const SLICE_ADDRESSES: usize = 100;
const SLICE_PORTS: usize = 100;

pub(crate) fn endpoints(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    // What was let in before there was a rule may stay.
    if old.is_some_and(|old| old["subsets"] == new["subsets"]) {
        return errors.into_vec();
    }
    for (index, subset) in list(new, "subsets").iter().enumerate() {
        let path = Path::root("subsets").index(index);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (index, address) in list(subset, field).iter().enumerate() {
                subset_address(&mut errors, address, &path.child(field).index(index));
            }
        }
        let several = list(subset, "ports").len() > 1;
        for (index, one) in list(subset, "ports").iter().enumerate() {
            let path = path.child("ports").index(index);
            let name = text(one, "name");
            if !name.is_empty() {
                errors.complain(&path.child("name"), name, label(name));
            } else if several {
                errors.required(&path.child("name"), "");
            }
            let number = one["port"].as_i64().unwrap_or(0);
            errors.complain_number(&path.child("port"), number, port(number));
            protocol(&mut errors, one, &path);
            app_protocol(&mut errors, one, &path);
        }
    }
    errors.into_vec()
}

fn subset_address(errors: &mut Errors, address: &Value, path: &Path) {
    let ip = text(address, "ip");
    errors.complain(&path.child("ip"), ip, endpoint_ip(ip));
    host_and_node(errors, address, path);
}

/// What an endpoint is called, and where it runs.
fn host_and_node(errors: &mut Errors, endpoint: &Value, path: &Path) {
    let host = text(endpoint, "hostname");
    if !host.is_empty() {
        errors.complain(&path.child("hostname"), host, label(host));
    }
    if let Some(node) = endpoint["nodeName"].as_str() {
        errors.complain(&path.child("nodeName"), node, subdomain(node));
    }
}

pub(crate) fn endpoint_slice(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let kind = text(new, "addressType");
    let path = Path::root("addressType");
    if kind.is_empty() {
        errors.required(&path, "");
    } else {
        errors.one_of(&path, &new["addressType"], &["FQDN", "IPv4", "IPv6"]);
    }
    if let Some(old) = old {
        errors.immutable(&path, &new["addressType"], &old["addressType"]);
    }
    let path = Path::root("endpoints");
    let endpoints = list(new, "endpoints");
    if endpoints.len() > SLICE_ENDPOINTS {
        errors.too_many(&path, endpoints.len(), SLICE_ENDPOINTS);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        host_and_node(&mut errors, endpoint, &path.index(index));
        hints(&mut errors, &endpoint["hints"], &path.index(index).child("hints"));
        let path = path.index(index).child("addresses");
        let addresses = list(endpoint, "addresses");
        if addresses.len() > SLICE_ADDRESSES {
            errors.too_many(&path, addresses.len(), SLICE_ADDRESSES);
        }
        if addresses.is_empty() {
            errors.required(&path, "must contain at least 1 address");
        }
        for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            errors.complain(&path.index(index), address, slice_address(kind, address));
        }
    }
    slice_ports(&mut errors, new);
    errors.into_vec()
}

/// Topology hints: names, few of them, each once.
fn hints(errors: &mut Errors, hints: &Value, path: &Path) {
    for field in ["forZones", "forNodes"] {
        let (named, path) = (list(hints, field), path.child(field));
        if named.len() > SLICE_HINTS {
            errors.too_many(&path, named.len(), SLICE_HINTS);
        }
        for (index, one) in named.iter().enumerate() {
            let path = path.index(index).child("name");
            if text(one, "name").is_empty() {
                errors.required(&path, "");
            } else if named[..index].contains(one) {
                errors.duplicate(&path, &one["name"]);
            }
        }
    }
}

fn slice_address(kind: &str, address: &str) -> Vec<String> {
    if kind == "FQDN" {
        return subdomain(address);
    }
    let mut complaints = endpoint_ip(address);
    if complaints.is_empty() && address.contains(':') != (kind == "IPv6") {
        complaints.push(format!("must be an {kind} address"));
    }
    complaints
}

fn slice_ports(errors: &mut Errors, slice: &Value) {
    let path = Path::root("ports");
    let ports = list(slice, "ports");
    if ports.len() > SLICE_PORTS {
        errors.too_many(&path, ports.len(), SLICE_PORTS);
    }
    let mut names = HashSet::new();
    for (index, one) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(one, "name");
        if !name.is_empty() {
            errors.complain(&path.child("name"), name, label(name));
        }
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), &one["name"]);
        }
        for why in one["port"].as_i64().map(port).unwrap_or_default() {
            errors.invalid(&path.child("port"), &one["port"], &why);
        }
        protocol(errors, one, &path);
        app_protocol(errors, one, &path);
    }
}
