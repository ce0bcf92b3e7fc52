//! Namespaces, config maps, secrets, accounts and leases.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, finalizer, metadata};
use super::names::{config_key, label};
use super::{Errors, FieldError, Path};
use crate::object;

/// All data of a config map or secret together.
const DATA_SIZE: usize = 1024 * 1024;
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

pub(crate) fn namespace(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, label);
    let path = Path::root("spec").child("finalizers");
    for (index, name) in
        list(&new["spec"], "finalizers").iter().filter_map(Value::as_str).enumerate()
    {
        finalizer(&mut errors, name, &path.index(index));
    }
    let phase = &new["status"]["phase"];
    let (only, deletion) = match object::deletion_timestamp(new) {
        None => ("Active", "is empty"),
        Some(_) => ("Terminating", "is not empty"),
    };
    if old.is_some_and(|old| old["status"] != new["status"]) && *phase != only {
        let why = format!("may only be '{only}' if `deletionTimestamp` {deletion}");
        errors.invalid(&Path::root("status").child("Phase"), phase, &why);
    }
    errors.into_vec()
}

pub(crate) fn service_account(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    errors.into_vec()
}

pub(crate) fn config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    immutable_data(&mut errors, new, old, &["data", "binaryData"]);
    data_keys(&mut errors, new, "data");
    for (key, _) in new["data"].as_object().into_iter().flatten() {
        if new["binaryData"].get(key).is_some() {
            let why = "duplicate of key present in binaryData";
            errors.invalid_text(&Path::root("data").key(key), key, why);
        }
    }
    data_keys(&mut errors, new, "binaryData");
    let plain = values(new, "data").map(|(_, value)| value.len()).sum::<usize>();
    if plain + decoded_size(new, "binaryData") > DATA_SIZE {
        // No field is too long by itself.
        errors.too_long(&Path::root("[]"), DATA_SIZE);
    }
    errors.into_vec()
}

pub(crate) fn secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    if let Some(old) = old {
        errors.immutable(&Path::root("type"), &new["type"], &old["type"]);
    }
    immutable_data(&mut errors, new, old, &["data"]);
    data_keys(&mut errors, new, "data");
    if decoded_size(new, "data") > DATA_SIZE {
        errors.too_long(&Path::root("data"), DATA_SIZE);
    }
    typed_secret(&mut errors, new);
    errors.into_vec()
}

/// What the types ask for that the cluster or its clients know.
fn typed_secret(errors: &mut Errors, secret: &Value) {
    let data = |key: &str| secret["data"].get(key).and_then(Value::as_str);
    let path = Path::root("data");
    let mut missing = |keys: &[&str]| {
        for key in keys {
            errors.required(&path.key(key), "");
        }
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let account = object::annotations(secret).and_then(|all| all.get(ACCOUNT_NAME));
            if account.and_then(Value::as_str).unwrap_or_default().is_empty() {
                let path = Path::root("metadata").child("annotations").key(ACCOUNT_NAME);
                errors.required(&path, "");
            }
        }
        "kubernetes.io/dockercfg" => registry_secret(errors, secret, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => registry_secret(errors, secret, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if data("username").or(data("password")).is_none() => {
            missing(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if data("ssh-privatekey").unwrap_or_default().is_empty() => {
            missing(&["ssh-privatekey"]);
        }
        "kubernetes.io/tls" => {
            let keys = ["tls.crt", "tls.key"].into_iter();
            missing(&keys.filter(|key| data(key).is_none()).collect::<Vec<_>>());
        }
        _ => {}
    }
}

fn registry_secret(errors: &mut Errors, secret: &Value, key: &str) {
    let path = Path::root("data").key(key);
    let Some(encoded) = secret["data"].get(key).and_then(Value::as_str) else {
        return errors.required(&path, "");
    };
    let content = STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&content) {
        errors.invalid_text(&path, "<secret contents redacted>", &error.to_string());
    }
}

fn data_keys(errors: &mut Errors, object: &Value, field: &str) {
    for (key, _) in object[field].as_object().into_iter().flatten() {
        errors.complain(&Path::root(field).key(key), key, config_key(key));
    }
}

fn values<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a str)> {
    let values = object[field].as_object().into_iter().flatten();
    values.filter_map(|(key, value)| Some((key, value.as_str()?)))
}

/// How many bytes the values of a map are that stand there in base64.
fn decoded_size(object: &Value, field: &str) -> usize {
    let size = |encoded: &str| encoded.trim_end_matches('=').len() * 3 / 4;
    values(object, field).map(|(_, encoded)| size(encoded)).sum()
}

fn immutable_data(errors: &mut Errors, new: &Value, old: Option<&Value>, fields: &[&str]) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    let why = "field is immutable when `immutable` is set";
    for field in std::iter::once(&"immutable").chain(fields) {
        if !same_map(&new[*field], &old[*field]) {
            errors.forbidden(&Path::root(field), why);
        }
    }
}

/// Whether the two are equal; no map is an empty map.
fn same_map(one: &Value, other: &Value) -> bool {
    let is_empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    one == other || (is_empty(one) && is_empty(other))
}

pub(crate) fn lease(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let duration = &spec["leaseDurationSeconds"];
    if duration.as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), duration, "must be greater than 0");
    }
    errors.non_negative(&path.child("leaseTransitions"), &spec["leaseTransitions"]);
    errors.into_vec()
}
