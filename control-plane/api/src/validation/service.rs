//! Services.
//!
//! Does not: know the cluster's ranges of addresses and node ports; the API server, which gives
//! them out, does.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::addresses::cidr;
use super::containers::{PROTOCOLS, list, port_or_name, text};
use super::metadata::{labels, metadata};
use super::names::{endpoint_ip, ip, label, port, qualified_name, subdomain};
use super::{Errors, FieldError, Path, service_addresses};
use crate::object;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
const IP_MODES: &[&str] = &["Proxy", "VIP"];
const STICKY_SECONDS: i64 = 86_400;
const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(crate) fn service(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, label);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    if let Some(old) = old {
        service_addresses::check_update(&mut errors, spec, &old["spec"], &path);
        update(&mut errors, spec, &old["spec"], &path);
        if new["status"] != old["status"] {
            status(&mut errors, new);
        }
    }
    topology_annotations(&mut errors, new);
    of_type(&mut errors, spec, &path);
    service_ports(&mut errors, spec, &path);
    labels(&mut errors, &spec["selector"], &path.child("selector"));
    affinity(&mut errors, spec, &path);
    if spec["type"] != "ExternalName" {
        service_addresses::check(&mut errors, spec, &path);
    }
    for (index, address) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        errors.complain(&path.child("externalIPs").index(index), address, endpoint_ip(address));
    }
    errors.required_one_of(&path.child("type"), &spec["type"], TYPES);
    unique_ports(&mut errors, spec, &path);
    balanced(&mut errors, new, &path);
    traffic(&mut errors, spec, &path);
    errors.into_vec()
}

fn is_balanced(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer"
}

/// Whether a balancer in front of the cluster has to ask the nodes which of them has an endpoint.
fn needs_health_check(spec: &Value) -> bool {
    is_balanced(spec) && spec["externalTrafficPolicy"] == "Local"
}

fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    if is_balanced(old) && is_balanced(new) && old["loadBalancerClass"] != new["loadBalancerClass"]
    {
        let path = path.child("loadBalancerClass");
        errors.invalid(&path, &new["loadBalancerClass"], "may not change once set");
    }
    let port = |spec: &Value| spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    let fixed = needs_health_check(old) && needs_health_check(new) && port(old) != 0;
    if fixed && port(old) != port(new) {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

/// The old and the new name of one annotation.
fn topology_annotations(errors: &mut Errors, service: &Value) {
    let annotation = |key: &str| object::annotations(service).and_then(|all| all.get(key)).cloned();
    if let (Some(mode), Some(hints)) = (annotation(TOPOLOGY_MODE), annotation(TOPOLOGY_HINTS))
        && mode != hints
    {
        let path = Path::root("metadata").child("annotations").key(TOPOLOGY_MODE);
        let why = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.invalid(&path, &mode, &why);
    }
}

fn of_type(errors: &mut Errors, spec: &Value, path: &Path) {
    let kind = text(spec, "type");
    let headless = spec["clusterIP"] == "None";
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.invalid(&path.child("clusterIPs").index(0), &spec["clusterIP"], &why);
    }
    if kind != "ExternalName" {
        return;
    }
    service_addresses::forbid(errors, spec, path);
    let name = text(spec, "externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required(&path.child("externalName"), "");
    } else {
        errors.complain(&path.child("externalName"), name, subdomain(name));
    }
}

fn service_ports(errors: &mut Errors, spec: &Value, path: &Path) {
    let ports = list(spec, "ports");
    let mut names = HashSet::new();
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
        let number = one["port"].as_i64().unwrap_or(0);
        for why in port(number) {
            errors.invalid(&path.child("port"), &Value::from(number), &why);
        }
        protocol(errors, one, &path);
        if !one["targetPort"].is_null() {
            port_or_name(errors, &one["targetPort"], &path.child("targetPort"));
        }
        app_protocol(errors, one, &path);
    }
}

pub(super) fn protocol(errors: &mut Errors, port: &Value, path: &Path) {
    errors.required_one_of(&path.child("protocol"), &port["protocol"], PROTOCOLS);
}

pub(super) fn app_protocol(errors: &mut Errors, port: &Value, path: &Path) {
    if let Some(name) = port["appProtocol"].as_str() {
        errors.complain(&path.child("appProtocol"), name, qualified_name(name));
    }
}

/// Ports by which a client could not tell which of two is meant.
fn unique_ports(errors: &mut Errors, spec: &Value, path: &Path) {
    let path = path.child("ports");
    let ports = || list(spec, "ports").iter().enumerate();
    let node_port = |one: &Value| one["nodePort"].as_i64().filter(|number| *number != 0);
    let kind = text(spec, "type");
    for (index, _) in ports().filter(|(_, one)| node_port(one).is_some()) {
        if kind == "ClusterIP" {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(&path.index(index).child("nodePort"), why);
        }
    }
    let mut seen = HashSet::new();
    for (index, one) in ports() {
        let Some(number) = node_port(one) else { continue };
        let path = path.index(index).child("nodePort");
        errors.complain_number(&path, number, port(number));
        if !seen.insert((text(one, "protocol"), number)) {
            errors.duplicate(&path, &one["nodePort"]);
        }
    }
    let mut seen = HashSet::new();
    for (index, one) in ports() {
        if !seen.insert((text(one, "protocol"), one["port"].as_i64())) {
            let value = json!({"port": one["port"], "protocol": one["protocol"]});
            errors.duplicate(&path.index(index), &value);
        }
    }
}

/// Whether a client stays with its endpoint.
fn affinity(errors: &mut Errors, spec: &Value, path: &Path) {
    let (affinity, config) = (&spec["sessionAffinity"], &spec["sessionAffinityConfig"]);
    errors.required_one_of(&path.child("sessionAffinity"), affinity, AFFINITIES);
    let path = path.child("sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let path = path.child("clientIP").child("timeoutSeconds");
            let seconds = &config["clientIP"]["timeoutSeconds"];
            match seconds.as_i64() {
                None => errors.required(&path, "when session affinity type is ClientIP"),
                Some(1..=STICKY_SECONDS) => {}
                Some(_) => {
                    let why = format!("must be greater than 0 and less than {STICKY_SECONDS}");
                    errors.invalid(&path, seconds, &why);
                }
            }
        }
        "None" if !config.is_null() => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// What is for a balancer in front of the cluster.
fn balanced(errors: &mut Errors, service: &Value, path: &Path) {
    let (spec, balanced) = (&service["spec"], is_balanced(&service["spec"]));
    let mut ranges = |ranges: &[&str], path: &dyn Fn(usize) -> Path, whole: &Path| {
        if !balanced {
            errors.forbidden(whole, ONLY_BALANCED);
        }
        for (index, range) in ranges.iter().map(|range| range.trim()).enumerate() {
            errors.complain(&path(index), range, cidr(range));
        }
    };
    let listed: Vec<&str> =
        list(spec, "loadBalancerSourceRanges").iter().filter_map(Value::as_str).collect();
    let annotated = object::annotations(service).and_then(|all| all.get(SOURCE_RANGES));
    if !listed.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        ranges(&listed, &|index| path.index(index), &path);
    } else if let Some(annotated) = annotated.and_then(Value::as_str) {
        let path = Path::root("metadata").child("annotations").key(SOURCE_RANGES);
        let listed: Vec<&str> =
            annotated.split(',').filter(|_| !annotated.trim().is_empty()).collect();
        ranges(&listed, &|_| path.clone(), &path);
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !balanced && !spec[field].is_null() {
            errors.forbidden(&path.child(field), ONLY_BALANCED);
        }
    }
    if let Some(class) = spec["loadBalancerClass"].as_str().filter(|_| balanced) {
        errors.complain(&path.child("loadBalancerClass"), class, qualified_name(class));
    }
}

/// Which endpoints get what traffic.
fn traffic(errors: &mut Errors, spec: &Value, path: &Path) {
    let kind = text(spec, "type");
    let by_address = kind == "ClusterIP" && !list(spec, "externalIPs").is_empty();
    let external = &spec["externalTrafficPolicy"];
    let path_of_external = path.child("externalTrafficPolicy");
    if matches!(kind, "NodePort" | "LoadBalancer") || by_address {
        errors.required_one_of(&path_of_external, external, POLICIES);
    } else if !text(spec, "externalTrafficPolicy").is_empty() {
        let why = "may only be set for externally-accessible services";
        errors.invalid(&path_of_external, external, why);
    }
    let health = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    let path_of_health = path.child("healthCheckNodePort");
    if health != 0 && needs_health_check(spec) {
        errors.complain_number(&path_of_health, health, port(health));
    } else if health != 0 {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                   'Local'";
        errors.invalid(&path_of_health, &spec["healthCheckNodePort"], why);
    }
    let internal = path.child("internalTrafficPolicy");
    if spec["internalTrafficPolicy"].is_null()
        && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer")
    {
        errors.required(&internal, "");
    }
    errors.one_of(&internal, &spec["internalTrafficPolicy"], POLICIES);
    errors.one_of(&path.child("trafficDistribution"), &spec["trafficDistribution"], DISTRIBUTIONS);
}

fn status(errors: &mut Errors, service: &Value) {
    let path = Path::root("status").child("loadBalancer").child("ingress");
    let ingress = list(&service["status"]["loadBalancer"], "ingress");
    if !ingress.is_empty() && !is_balanced(&service["spec"]) {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        return errors.forbidden(&path, why);
    }
    for (index, one) in ingress.iter().enumerate() {
        let path = path.index(index);
        let (address, host) = (text(one, "ip"), text(one, "hostname"));
        if !address.is_empty() {
            errors.complain(&path.child("ip"), address, ip(address));
            errors.one_of(&path.child("ipMode"), &one["ipMode"], IP_MODES);
        } else if !one["ipMode"].is_null() {
            errors.forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set");
        }
        if !host.is_empty() {
            errors.complain(&path.child("hostname"), host, subdomain(host));
            if ip(host).is_empty() {
                let why = "must be a DNS name, not an IP address";
                errors.invalid_text(&path.child("hostname"), host, why);
            }
        }
    }
}
