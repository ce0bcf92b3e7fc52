//! IP addresses and ranges in their one spelling, and the kinds that record them.

use std::net::IpAddr;

use serde_json::Value;

use super::containers::{list, text};
use super::equality::same;
use super::metadata::{SUBDOMAIN, metadata};
use super::names::{ip, path_segment, subdomain};
use super::{Errors, FieldError, Path};
use crate::cidr::{Cidr, ParseCidrFailed};

const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const IMMUTABLE: &str = "field is immutable";

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// A range, whatever its spelling.
pub(super) fn cidr(text: &str) -> Vec<String> {
    match text.parse::<Cidr>() {
        Ok(range) if is_mapped(range.network()) => {
            vec!["must not have an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(ParseCidrFailed::HostBits { .. }) => {
            vec!["must not have bits set beyond the prefix length".to_owned()]
        }
        Err(ParseCidrFailed::Malformed(_)) => vec![CIDR.to_owned()],
    }
}

fn canonical(text: &str, shown: &str) -> Vec<String> {
    if text == shown { Vec::new() } else { vec![format!("must be in canonical form ({shown:?})")] }
}

/// The name of an object that stands for an address is the address, spelled in one way only.
fn canonical_ip(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(address) if is_mapped(address) => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(address) => canonical(text, &address.to_string()),
        Err(_) => ip(text),
    }
}

fn canonical_cidr(text: &str) -> Vec<String> {
    match text.parse::<Cidr>() {
        Ok(range) if !is_mapped(range.network()) => canonical(text, &range.to_string()),
        _ => cidr(text),
    }
}

pub(crate) fn ip_address(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, canonical_ip);
    let parent = &new["spec"]["parentRef"];
    let path = Path::root("spec").child("parentRef");
    if parent.is_null() {
        errors.required(&path, "");
    } else {
        parent_reference(&mut errors, parent, &path);
    }
    if let Some(old) = old
        && !same(parent, &old["spec"]["parentRef"])
    {
        errors.invalid(&path, parent, IMMUTABLE);
    }
    errors.into_vec()
}

fn parent_reference(errors: &mut Errors, parent: &Value, path: &Path) {
    let group = text(parent, "group");
    if !group.is_empty() {
        errors.complain(&path.child("group"), group, subdomain(group));
    }
    for field in ["resource", "name", "namespace"] {
        let value = text(parent, field);
        if value.is_empty() && field != "namespace" {
            errors.required(&path.child(field), "");
        }
        errors.complain(&path.child(field), value, path_segment(value));
    }
}

pub(crate) fn service_cidr(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let path = Path::root("spec").child("cidrs");
    let ranges = list(&new["spec"], "cidrs");
    service_ranges(&mut errors, &new["spec"]["cidrs"], &path);
    if let Some(old) = old {
        let before = list(&old["spec"], "cidrs");
        // A range of the other family may be added, once.
        let added = before.len() == 1 && ranges.len() == 2;
        if before.len() != ranges.len() && !added {
            errors.invalid(&path, &new["spec"]["cidrs"], IMMUTABLE);
        } else {
            for (index, (now, before)) in ranges.iter().zip(before).enumerate() {
                errors.immutable(&path.index(index), now, before);
            }
        }
    }
    errors.into_vec()
}

fn service_ranges(errors: &mut Errors, value: &Value, path: &Path) {
    let ranges = value.as_array().map_or(&[][..], Vec::as_slice);
    if ranges.is_empty() {
        errors.required(path, "at least one CIDR required");
        return;
    }
    if ranges.len() > 2 {
        errors.invalid(path, value, "may only hold up to 2 values");
        return;
    }
    let ranges: Vec<&str> = ranges.iter().map(|one| one.as_str().unwrap_or_default()).collect();
    for (index, range) in ranges.iter().enumerate() {
        errors.complain(&path.index(index), range, canonical_cidr(range));
    }
    let parsed = ranges.iter().map(|range| range.parse::<Cidr>()).collect::<Result<Vec<_>, _>>();
    if let Ok([first, second]) = parsed.as_deref()
        && first.is_ipv6() == second.is_ipv6()
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                   2001:db8::/64";
        errors.invalid(path, value, why);
    }
}
