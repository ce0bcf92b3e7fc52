//! Ingresses and their classes.

use std::net::IpAddr;

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, metadata};
use super::names::{
    domain_prefixed_path, ip, label, path_segment, port, port_name, subdomain, wildcard_subdomain,
};
use super::{Errors, FieldError, Path};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const CONTROLLER_LENGTH: usize = 250;
const NOT_AN_IP: &str = "must be a DNS name, not an IP address";

pub(crate) fn ingress(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let rules = list(spec, "rules");
    let backend_of_all = &spec["defaultBackend"];
    if rules.is_empty() && backend_of_all.is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&path, &spec["rules"], why);
    }
    if !backend_of_all.is_null() {
        backend(&mut errors, backend_of_all, &path.child("defaultBackend"));
    }
    for (index, one) in rules.iter().enumerate() {
        rule(&mut errors, one, &path.child("rules").index(index));
    }
    for (index, one) in list(spec, "tls").iter().enumerate() {
        tls(&mut errors, one, &path.child("tls").index(index));
    }
    let class = &spec["ingressClassName"];
    if let Some(class) = class.as_str() {
        errors.complain(&path.child("ingressClassName"), class, subdomain(class));
    }
    let annotation = &new["metadata"]["annotations"][CLASS_ANNOTATION];
    if old.is_none() && !annotation.is_null() && !class.is_null() && annotation != class {
        let path = Path::root("annotations").child(CLASS_ANNOTATION);
        let why = "must match `ingressClassName` when both are specified";
        errors.invalid(&path, annotation, why);
    }
    load_balancer(&mut errors, &new["status"]["loadBalancer"]);
    errors.into_vec()
}

/// A host may stand for all names below a domain.
fn host(errors: &mut Errors, host: &str, path: &Path) {
    let rule = if host.contains('*') { wildcard_subdomain } else { subdomain };
    errors.complain(path, host, rule(host));
}

fn tls(errors: &mut Errors, tls: &Value, path: &Path) {
    for (index, one) in list(tls, "hosts").iter().filter_map(Value::as_str).enumerate() {
        host(errors, one, &path.child("hosts").index(index));
    }
    let secret = text(tls, "secretName");
    if !secret.is_empty() {
        errors.complain(&path.child("secretName"), secret, subdomain(secret));
    }
}

fn rule(errors: &mut Errors, rule: &Value, path: &Path) {
    let name = text(rule, "host");
    if !name.is_empty() {
        if name.parse::<IpAddr>().is_ok() {
            errors.invalid_text(&path.child("host"), name, NOT_AN_IP);
        }
        host(errors, name, &path.child("host"));
    }
    let http = &rule["http"];
    if http.is_null() {
        return;
    }
    let path = path.child("http").child("paths");
    let paths = list(http, "paths");
    if paths.is_empty() {
        errors.required(&path, "");
    }
    for (index, one) in paths.iter().enumerate() {
        http_path(errors, one, &path.index(index));
    }
}

fn http_path(errors: &mut Errors, one: &Value, path: &Path) {
    let target = text(one, "path");
    let path_of_target = path.child("path");
    let absolute = target.starts_with('/');
    let kind = &one["pathType"];
    if kind.is_null() {
        errors.required(&path.child("pathType"), "pathType must be specified");
        return;
    }
    match kind.as_str() {
        Some("Exact" | "Prefix") => {
            if !absolute {
                errors.invalid_text(&path_of_target, target, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if target.contains(part) {
                    let why = format!("must not contain '{part}'");
                    errors.invalid_text(&path_of_target, target, &why);
                }
            }
            for end in ["/..", "/."] {
                if target.ends_with(end) {
                    let why = format!("cannot end with '{end}'");
                    errors.invalid_text(&path_of_target, target, &why);
                }
            }
        }
        Some("ImplementationSpecific") => {
            if !target.is_empty() && !absolute {
                errors.invalid_text(&path_of_target, target, "must be an absolute path");
            }
        }
        _ => errors.unsupported(&path.child("pathType"), kind, PATH_TYPES),
    }
    backend(errors, &one["backend"], &path.child("backend"));
}

fn backend(errors: &mut Errors, backend: &Value, path: &Path) {
    let (resource, service) = (&backend["resource"], &backend["service"]);
    match (resource.is_null(), service.is_null()) {
        (false, false) => {
            errors.invalid_text(path, "", "cannot set both resource and service backends");
        }
        (true, true) => errors.invalid_text(path, "", "resource or service backend is required"),
        (false, true) => reference(errors, resource, &path.child("resource")),
        (true, false) => service_backend(errors, service, path),
    }
}

fn service_backend(errors: &mut Errors, service: &Value, path: &Path) {
    let path_of_service = path.child("service");
    let name = text(service, "name");
    if name.is_empty() {
        errors.required(&path_of_service.child("name"), "");
    } else {
        errors.complain(&path_of_service.child("name"), name, label(name));
    }
    let (by_name, by_number) = (text(&service["port"], "name"), &service["port"]["number"]);
    let path_of_port = path_of_service.child("port");
    match (by_name, by_number.as_i64().unwrap_or(0)) {
        ("", 0) => errors.required(path, "port name or number is required"),
        ("", number) => {
            for why in port(number) {
                errors.invalid(&path_of_port.child("number"), by_number, &why);
            }
        }
        (name, 0) => errors.complain(&path_of_port.child("name"), name, port_name(name)),
        _ => errors.invalid_text(path, "", "cannot set both port name & port number"),
    }
}

/// An object of some kind.
fn reference(errors: &mut Errors, reference: &Value, path: &Path) {
    if let Some(group) = reference["apiGroup"].as_str() {
        errors.complain(&path.child("apiGroup"), group, subdomain(group));
    }
    for field in ["kind", "name"] {
        let value = text(reference, field);
        if value.is_empty() {
            errors.required(&path.child(field), "");
        }
        errors.complain(&path.child(field), value, path_segment(value));
    }
}

fn load_balancer(errors: &mut Errors, status: &Value) {
    let path = Path::root("status").child("loadBalancer").child("ingress");
    for (index, point) in list(status, "ingress").iter().enumerate() {
        let path = path.index(index);
        let address = text(point, "ip");
        if !address.is_empty() {
            errors.complain(&path.child("ip"), address, ip(address));
        }
        let name = text(point, "hostname");
        if !name.is_empty() {
            errors.complain(&path.child("hostname"), name, subdomain(name));
            if name.parse::<IpAddr>().is_ok() {
                errors.invalid_text(&path.child("hostname"), name, NOT_AN_IP);
            }
        }
    }
}

pub(crate) fn ingress_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let controller = text(spec, "controller");
    let path_of_controller = path.child("controller");
    if let Some(old) = old {
        let before = &old["spec"]["controller"];
        errors.immutable(&path_of_controller, &spec["controller"], before);
    }
    if controller.is_empty() {
        errors.required(&path_of_controller, "");
    } else {
        if controller.len() > CONTROLLER_LENGTH {
            errors.too_long(&path_of_controller, CONTROLLER_LENGTH);
        }
        for (part, why) in domain_prefixed_path(controller) {
            errors.invalid_text(&path_of_controller, part, &why);
        }
    }
    if !spec["parameters"].is_null() {
        parameters(&mut errors, &spec["parameters"], &path.child("parameters"));
    }
    errors.into_vec()
}

fn parameters(errors: &mut Errors, parameters: &Value, path: &Path) {
    reference(errors, parameters, path);
    let namespace = &parameters["namespace"];
    let path_of_namespace = path.child("namespace");
    match parameters["scope"].as_str() {
        None => errors.required(&path.child("scope"), ""),
        Some("Cluster") => {
            if !namespace.is_null() {
                errors.forbidden(&path_of_namespace, "`parameters.scope` is set to 'Cluster'");
            }
        }
        Some("Namespace") => match namespace.as_str() {
            None => errors.required(&path_of_namespace, "`parameters.scope` is set to 'Namespace'"),
            Some(name) => errors.complain(&path_of_namespace, name, label(name)),
        },
        Some(_) => {
            let path = path.child("scope");
            errors.unsupported(&path, &parameters["scope"], &["Cluster", "Namespace"]);
        }
    }
}
