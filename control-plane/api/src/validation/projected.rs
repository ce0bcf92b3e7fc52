//! Files that volumes show: keys of config maps and secrets, fields of the pod, tokens and
//! certificates, alone or several kinds in one directory.
//!
//! Guarantees: no file is shown twice in one directory, as far as the manifest says what is in it.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{list, text};
use super::environment::{Shown, field_reference, resource_reference};
use super::metadata::label_selector;
use super::names::{label, subdomain};
use super::paths::not_reserved;
use super::{Errors, Path};

const HIGHEST_MODE: i64 = 0o777;
const SHORTEST_TOKEN_SECONDS: i64 = 600;
const LONGEST_TOKEN_SECONDS: i64 = 1 << 32;
const SHORTEST_CERTIFICATE_SECONDS: i64 = 3600;
/// 91 days, and a day from the signers of Kubernetes.
const LONGEST_CERTIFICATE_SECONDS: i64 = 91 * 86_400;
const LONGEST_OWN_CERTIFICATE_SECONDS: i64 = 86_400;
const KEY_TYPES: &[&str] =
    &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const CONFLICT: &str = "conflicting duplicate paths";
const DOMAIN_LENGTH: usize = 253;
const SIGNER_LENGTH: usize = 571;

pub(super) fn file_mode(errors: &mut Errors, mode: &Value, path: &Path) {
    if mode.as_i64().is_some_and(|mode| !(0..=HIGHEST_MODE).contains(&mode)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(path, mode, why);
    }
}

/// Checks a key of a config map or secret, and the file that shows it.
pub(super) fn key_to_path(errors: &mut Errors, item: &Value, path: &Path) {
    for field in ["key", "path"] {
        if text(item, field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    not_reserved(errors, text(item, "path"), &path.child("path"));
    file_mode(errors, &item["mode"], &path.child("mode"));
}

/// Checks the files of the `source` at `path`; which of them it is, is not said.
pub(super) fn downward_files(errors: &mut Errors, source: &Value, path: &Path) {
    for file in list(source, "items") {
        file_of(errors, file, path);
        let (field, resource) = (&file["fieldRef"], &file["resourceFieldRef"]);
        if !field.is_null() {
            field_reference(errors, field, Shown::InFile, &path.child("fieldRef"));
            if !resource.is_null() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid_text(path, "resource", why);
            }
        } else if !resource.is_null() {
            resource_reference(errors, resource, Shown::InFile, &path.child("resourceFieldRef"));
        } else {
            errors.required(path, "one of fieldRef and resourceFieldRef is required");
        }
        file_mode(errors, &file["mode"], &path.child("mode"));
    }
}

/// The files of a directory so far.
#[derive(Default)]
struct Files<'a>(HashSet<&'a str>);

impl<'a> Files<'a> {
    /// Adds a file. `shown` is what is said if it is there already.
    fn add(&mut self, errors: &mut Errors, file: &'a str, shown: &str, path: &Path) {
        if !self.0.insert(file) {
            errors.invalid_text(path, shown, CONFLICT);
        }
    }
}

pub(super) fn projected(errors: &mut Errors, volume: &Value, path: &Path) {
    file_mode(errors, &volume["defaultMode"], &path.child("defaultMode"));
    let mut files = Files::default();
    for (index, one) in list(volume, "sources").iter().enumerate() {
        let path_of_one = path.child("sources").index(index);
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let (source, path_of_source) = (&one[kind], path_of_one.child(kind));
            if source.is_null() {
                continue;
            }
            count += 1;
            match kind {
                "secret" | "configMap" => keys(errors, source, &mut files, path, &path_of_source),
                "downwardAPI" => {
                    downward_files(errors, source, &path_of_source);
                    for file in list(source, "items").iter().map(|file| text(file, "path")) {
                        if !file.is_empty() {
                            files.add(errors, file, file, path);
                        }
                    }
                }
                "serviceAccountToken" => token(errors, source, path, &path_of_source),
                "clusterTrustBundle" => {
                    trust_bundle(errors, source, &path_of_source);
                    let file = text(source, "path");
                    files.add(errors, file, file, path);
                }
                _ => certificate(errors, source, &mut files, path, &path_of_source),
            }
        }
        if count > 1 {
            let why = "may not specify more than 1 volume type per source";
            errors.forbidden(&path_of_one, why);
        }
    }
}

fn keys<'a>(
    errors: &mut Errors,
    source: &'a Value,
    files: &mut Files<'a>,
    path: &Path,
    path_of_source: &Path,
) {
    let name = text(source, "name");
    if name.is_empty() {
        errors.required(&path_of_source.child("name"), "");
    }
    for (index, item) in list(source, "items").iter().enumerate() {
        key_to_path(errors, item, &path_of_source.child("items").index(index));
        let file = text(item, "path");
        if !file.is_empty() {
            files.add(errors, file, name, path);
        }
    }
}

/// The file's problems are said to be the volume's.
fn token(errors: &mut Errors, source: &Value, path: &Path, path_of_source: &Path) {
    let seconds = &source["expirationSeconds"];
    let why = match seconds.as_i64().unwrap_or(0) {
        ..SHORTEST_TOKEN_SECONDS => Some("may not specify a duration less than 10 minutes"),
        SHORTEST_TOKEN_SECONDS..=LONGEST_TOKEN_SECONDS => None,
        _ => Some("may not specify a duration larger than 2^32 seconds"),
    };
    if let Some(why) = why {
        errors.invalid(&path_of_source.child("expirationSeconds"), seconds, why);
    }
    file_of(errors, source, path);
}

/// The file that a source or an item of one makes.
fn file_of(errors: &mut Errors, source: &Value, path: &Path) {
    let file = text(source, "path");
    if file.is_empty() {
        errors.required(&path.child("path"), "");
    }
    not_reserved(errors, file, &path.child("path"));
}

fn trust_bundle(errors: &mut Errors, source: &Value, path: &Path) {
    let (name, signer) = (source["name"].as_str(), source["signerName"].as_str());
    let path_of_selector = path.child("labelSelector");
    match (name, signer) {
        (Some(_), Some(_)) => {
            errors.invalid(path, source, "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(&path.child("name"), "must be a valid object name");
            }
            // The bundles of a signer are called after it: the rest is a name like others.
            let own = name.rsplit_once(':').map_or(name, |(_, own)| own);
            for why in subdomain(own) {
                let why = format!("not a valid clustertrustbundlename: {why}");
                errors.invalid_text(&path.child("name"), name, &why);
            }
            if !source["labelSelector"].is_null() {
                let why = "labelSelector must be unset if name is specified";
                errors.invalid(&path_of_selector, &source["labelSelector"], why);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            signer_name(errors, signer, &path.child("signerName"));
            label_selector(errors, &source["labelSelector"], &path_of_selector);
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    file_of(errors, source, path);
}

fn certificate<'a>(
    errors: &mut Errors,
    source: &'a Value,
    files: &mut Files<'a>,
    path: &Path,
    path_of_source: &Path,
) {
    let signer = text(source, "signerName");
    signer_name(errors, signer, &path_of_source.child("signerName"));
    if !KEY_TYPES.contains(&text(source, "keyType")) {
        let kind = Value::from(text(source, "keyType"));
        errors.unsupported(&path_of_source.child("keyType"), &kind, KEY_TYPES);
    }
    if let Some(seconds) = source["maxExpirationSeconds"].as_i64() {
        let domain = signer.split('/').next().unwrap_or_default();
        let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
        let most = if own { LONGEST_OWN_CERTIFICATE_SECONDS } else { LONGEST_CERTIFICATE_SECONDS };
        let bound = match seconds {
            ..SHORTEST_CERTIFICATE_SECONDS => Some(format!(">= {SHORTEST_CERTIFICATE_SECONDS}")),
            _ => (seconds > most).then(|| format!("<= {most}")),
        };
        if let Some(bound) = bound {
            let why = format!("if provided, maxExpirationSeconds must be {bound}");
            let path = path_of_source.child("maxExpirationSeconds");
            errors.invalid(&path, &source["maxExpirationSeconds"], &why);
        }
    }
    let mut shown = false;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let file = text(source, field);
        if !file.is_empty() {
            shown = true;
            not_reserved(errors, file, &path_of_source.child(field));
            files.add(errors, file, file, path);
        }
    }
    if !shown {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(path_of_source, why);
    }
}

/// `example.com/signer`: a domain of two parts or more, and a name below it.
fn signer_name(errors: &mut Errors, name: &str, path: &Path) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, own)) = name.split_once('/').filter(|(_, own)| !own.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid_text(path, name, why);
    };
    if domain.len() > DOMAIN_LENGTH {
        errors.too_long(path, DOMAIN_LENGTH);
    }
    first_bad_part(errors, domain, label, path);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.invalid_text(path, domain, why);
    }
    first_bad_part(errors, own, subdomain, path);
    if name.len() > SIGNER_LENGTH {
        errors.too_long(path, SIGNER_LENGTH);
    }
}

fn first_bad_part(errors: &mut Errors, whole: &str, rule: fn(&str) -> Vec<String>, path: &Path) {
    let Some(bad) = whole.split('.').find(|part| !rule(part).is_empty()) else { return };
    for why in rule(bad) {
        errors.invalid_text(path, whole, &format!("validating label {bad:?}: {why}"));
    }
}
