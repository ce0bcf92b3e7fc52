//! What a pod is called, and how it resolves names.

use serde_json::Value;

use super::containers::{list, text};
use super::names::{ip, label, subdomain, underscored_subdomain};
use super::{Errors, Path};

/// What the resolvers of C libraries can hold.
const NAME_SERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_BYTES: usize = 2048;
/// What the kernel can hold.
const HOSTNAME_LENGTH: usize = 64;

pub(super) fn resolver(errors: &mut Errors, spec: &Value, path: &Path) {
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let servers = list(config, "nameservers");
    let path_of_servers = path.child("nameservers");
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            return errors.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&path_of_servers, why);
        }
    }
    if servers.len() > NAME_SERVERS {
        let why = format!("must not have more than {NAME_SERVERS} nameservers");
        errors.invalid(&path_of_servers, &config["nameservers"], &why);
    }
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        errors.complain(&path_of_servers.index(index), server, ip(server));
    }
    searches(errors, config, &path.child("searches"));
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(&path.child("options").index(index), "must not be empty");
        }
    }
}

fn searches(errors: &mut Errors, config: &Value, path: &Path) {
    let searches = list(config, "searches").iter().filter_map(Value::as_str);
    let searches: Vec<&str> = searches.collect();
    if searches.len() > SEARCHES {
        let why = format!("must not have more than {SEARCHES} search paths");
        errors.invalid(path, &config["searches"], &why);
    }
    if searches.join(" ").len() > SEARCH_BYTES {
        let why = format!(
            "must not have more than {SEARCH_BYTES} characters (including spaces) in the search \
             list"
        );
        errors.invalid(path, &config["searches"], &why);
    }
    for (index, search) in searches.into_iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.complain(&path.index(index), search, underscored_subdomain(search));
    }
}

/// Checks the name that replaces the pod's own everywhere.
pub(super) fn hostname_override(errors: &mut Errors, spec: &Value, path: &Path) {
    let Some(name) = spec["hostnameOverride"].as_str() else { return };
    let path = path.child("hostnameOverride");
    if spec["setHostnameAsFQDN"] == true {
        errors.forbidden(&path, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec["hostNetwork"] == true {
        errors.forbidden(&path, "may not be specified when hostNetwork is true");
    }
    if name.len() > HOSTNAME_LENGTH {
        errors.too_long(&path, HOSTNAME_LENGTH);
    }
    errors.complain(&path, name, subdomain(name));
}

pub(super) fn hostname(errors: &mut Errors, spec: &Value, path: &Path) {
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            errors.complain(&path.child(field), name, label(name));
        }
    }
}

/// Checks the lines of the pod's `/etc/hosts`.
pub(super) fn host_aliases(errors: &mut Errors, spec: &Value, path: &Path) {
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(index);
        let address = text(alias, "ip");
        errors.complain(&path.child("ip"), address, ip(address));
        let names = list(alias, "hostnames").iter().filter_map(Value::as_str);
        for (index, name) in names.enumerate() {
            errors.complain(&path.child("hostnames").index(index), name, subdomain(name));
        }
    }
}
