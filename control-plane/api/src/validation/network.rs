//! Services, endpoints and endpoint slices.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::containers::{list, port_or_name, text};
use super::metadata::{SUBDOMAIN, labels, metadata};
use super::names::{endpoint_ip, label, label_1035, port, subdomain};
use super::{Errors, FieldError, Path, service_addresses};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
const SLICE_HINTS: usize = 8;
const SLICE_ENDPOINTS: usize = 1000;
const SLICE_PORTS: usize = 100;
const STICKY_SECONDS: i64 = 86_400;

pub(crate) fn service(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, label_1035);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    errors.one_of(&path.child("type"), &spec["type"], TYPES);
    let external = spec["type"] == "ExternalName";
    if external {
        external_name(&mut errors, spec, &path);
    }
    let headless = spec["clusterIP"] == "None";
    if headless && matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {} services", text(spec, "type"));
        errors.invalid(&path.child("clusterIPs").index(0), &spec["clusterIP"], &why);
    }
    if list(spec, "ports").is_empty() && !headless && !external {
        errors.required(&path.child("ports"), "");
    }
    service_ports(&mut errors, spec, &path);
    labels(&mut errors, &spec["selector"], &path.child("selector"));
    errors.one_of(&path.child("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
    let sticky = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if sticky.as_i64().is_some_and(|seconds| !(1..=STICKY_SECONDS).contains(&seconds)) {
        let path = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        errors.invalid(&path, sticky, "must be greater than 0 and less than 86400");
    }
    for field in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        errors.one_of(&path.child(field), &spec[field], &["Cluster", "Local"]);
    }
    errors.one_of(&path.child("trafficDistribution"), &spec["trafficDistribution"], DISTRIBUTIONS);
    if !external {
        service_addresses::check(&mut errors, spec, &path);
    }
    if let Some(old) = old {
        service_addresses::check_update(&mut errors, spec, &old["spec"], &path);
    }
    for (index, address) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        errors.complain(&path.child("externalIPs").index(index), address, endpoint_ip(address));
    }
    errors.into_vec()
}

fn external_name(errors: &mut Errors, spec: &Value, path: &Path) {
    let name = text(spec, "externalName").trim_end_matches('.');
    if name.is_empty() {
        errors.required(&path.child("externalName"), "");
    } else {
        errors.complain(&path.child("externalName"), name, subdomain(name));
    }
    service_addresses::forbid(errors, spec, path);
}

fn service_ports(errors: &mut Errors, spec: &Value, path: &Path) {
    let ports = list(spec, "ports");
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    let mut node_ports = HashSet::new();
    for (index, one) in ports.iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = text(one, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&path.child("name"), "");
            }
        } else {
            errors.complain(&path.child("name"), name, label(name));
            if !names.insert(name) {
                errors.duplicate(&path.child("name"), &one["name"]);
            }
        }
        for why in port(one["port"].as_i64().unwrap_or(0)) {
            let value = if one["port"].is_null() { json!(0) } else { one["port"].clone() };
            errors.invalid(&path.child("port"), &value, &why);
        }
        protocol(errors, one, &path);
        if !one["targetPort"].is_null() {
            port_or_name(errors, &one["targetPort"], &path.child("targetPort"));
        }
        if !numbers.insert((text(one, "protocol"), one["port"].as_i64())) {
            let value = json!({"port": one["port"], "protocol": one["protocol"]});
            errors.duplicate(&path, &value);
        }
        let Some(number) = one["nodePort"].as_i64().filter(|&number| number != 0) else { continue };
        let path = path.child("nodePort");
        if text(spec, "type") == "ClusterIP" || text(spec, "type") == "ExternalName" {
            errors.forbidden(&path, "may not be used when `type` is 'ClusterIP'");
        }
        for why in port(number) {
            errors.invalid(&path, &one["nodePort"], &why);
        }
        if !node_ports.insert((text(one, "protocol"), number)) {
            errors.duplicate(&path, &one["nodePort"]);
        }
    }
}

fn protocol(errors: &mut Errors, port: &Value, path: &Path) {
    if text(port, "protocol").is_empty() {
        errors.required(&path.child("protocol"), "");
    } else {
        errors.one_of(&path.child("protocol"), &port["protocol"], PROTOCOLS);
    }
}

pub(crate) fn endpoints(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    for (index, subset) in list(new, "subsets").iter().enumerate() {
        let path = Path::root("subsets").index(index);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (index, address) in list(subset, field).iter().enumerate() {
                let path = path.child(field).index(index).child("ip");
                let address = text(address, "ip");
                errors.complain(&path, address, endpoint_ip(address));
            }
        }
        let several = list(subset, "ports").len() > 1;
        for (index, one) in list(subset, "ports").iter().enumerate() {
            let path = path.child("ports").index(index);
            if several && text(one, "name").is_empty() {
                errors.required(&path.child("name"), "");
            }
            for why in port(one["port"].as_i64().unwrap_or(0)) {
                errors.invalid(&path.child("port"), &one["port"], &why);
            }
            protocol(&mut errors, one, &path);
        }
    }
    errors.into_vec()
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
        hints(&mut errors, &endpoint["hints"], &path.index(index).child("hints"));
        let path = path.index(index).child("addresses");
        let addresses = list(endpoint, "addresses");
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
    }
}
