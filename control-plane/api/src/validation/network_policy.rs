//! Network policies.

use serde_json::Value;

use super::addresses::cidr;
use super::containers::{list, port_or_name, text};
use super::metadata::{SUBDOMAIN, label_selector, metadata};
use super::names::port;
use super::{Errors, FieldError, Path};
use crate::cidr::Cidr;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const TYPES: &[&str] = &["Ingress", "Egress"];

pub(crate) fn network_policy(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    label_selector(&mut errors, &spec["podSelector"], &path.child("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let path = path.child(direction).index(index);
            for (index, one) in list(rule, "ports").iter().enumerate() {
                ports(&mut errors, one, &path.child("ports").index(index));
            }
            for (index, one) in list(rule, peers).iter().enumerate() {
                peer(&mut errors, one, &path.child(peers).index(index));
            }
        }
    }
    let types = list(spec, "policyTypes");
    let path = path.child("policyTypes");
    if types.len() > TYPES.len() {
        let why = "may not specify more than two policyTypes";
        errors.invalid(&path, &spec["policyTypes"], why);
        return errors.into_vec();
    }
    for (index, one) in types.iter().enumerate() {
        errors.one_of(&path.index(index), one, TYPES);
    }
    errors.into_vec()
}

/// One port, a range of ports, or all of them.
fn ports(errors: &mut Errors, one: &Value, path: &Path) {
    errors.one_of(&path.child("protocol"), &one["protocol"], PROTOCOLS);
    let (first, last) = (&one["port"], &one["endPort"]);
    let path_of_last = path.child("endPort");
    if !first.is_null() {
        port_or_name(errors, first, &path.child("port"));
    }
    let Some(number) = last.as_i64() else { return };
    match first {
        Value::Null => {
            let why = "may not be specified when `port` is not specified";
            errors.invalid(&path_of_last, last, why);
        }
        Value::String(_) => {
            let why = "may not be specified when `port` is non-numeric";
            errors.invalid(&path_of_last, last, why);
        }
        first => {
            if first.as_i64().is_some_and(|first| number < first) {
                let why = "must be greater than or equal to `port`";
                errors.invalid(&path_of_last, last, why);
            }
            for why in port(number) {
                errors.invalid(&path_of_last, last, &why);
            }
        }
    }
}

fn peer(errors: &mut Errors, peer: &Value, path: &Path) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if !peer[field].is_null() {
            count += 1;
            label_selector(errors, &peer[field], &path.child(field));
        }
    }
    let block = &peer["ipBlock"];
    if !block.is_null() {
        ip_block(errors, block, &path.child("ipBlock"));
        if count > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
    } else if count == 0 {
        errors.required(path, "must specify a peer");
    }
}

fn ip_block(errors: &mut Errors, block: &Value, path: &Path) {
    let range = text(block, "cidr");
    if range.is_empty() {
        errors.required(&path.child("cidr"), "");
        return;
    }
    errors.complain(&path.child("cidr"), range, cidr(range));
    let Ok(range) = range.parse::<Cidr>() else { return };
    for (index, text) in list(block, "except").iter().filter_map(Value::as_str).enumerate() {
        let path = path.child("except").index(index);
        errors.complain(&path, text, cidr(text));
        let Ok(inner) = text.parse::<Cidr>() else { continue };
        if inner.prefix() <= range.prefix() || !range.contains(inner.network()) {
            errors.invalid_text(&path, text, "must be a strict subset of `cidr`");
        }
    }
}
