//! Which IP families and cluster addresses a service gets (KEP-563).
//!
//! The fields are known to be valid in themselves; here they meet the ranges of the cluster and
//! the addresses of the other services. The first range is the default family's.

use super::service_ledger::Taken;
use bowline_api::cidr::{Cidr, DualStackCidr};
use bowline_api::validation::FieldError;
use rand::Rng;
use serde_json::{Value, json};
use std::net::IpAddr;

pub(super) const NONE: &str = "None";
/// Addresses at the start of a range that are only given on request: the API server, DNS.
const RESERVED_ADDRESSES: u64 = 16;

fn invalid(field: &str, detail: String) -> FieldError {
    FieldError { field: field.to_owned(), reason: "FieldValueInvalid", detail }
}

/// The texts of a list field.
fn texts(spec: &Value, field: &str) -> Vec<String> {
    let all = spec[field].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The cluster addresses that a service has or asks for, `None` included.
pub(super) fn addresses_of(value: &Value) -> Vec<String> {
    let spec = &value["spec"];
    let listed = texts(spec, "clusterIPs");
    let first = spec["clusterIP"].as_str().filter(|first| !first.is_empty());
    match (listed.is_empty(), first) {
        (true, Some(first)) => vec![first.to_owned()],
        _ => listed,
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn range_of(ranges: DualStackCidr, family: &str) -> Option<Cidr> {
    if family == "IPv6" { ranges.v6 } else { Some(ranges.v4) }
}

/// Settles `ipFamilies` and `ipFamilyPolicy`.
pub(super) fn settle_families(value: &mut Value, ranges: DualStackCidr) -> Vec<FieldError> {
    let asked = addresses_of(value);
    let spec = &mut value["spec"];
    let mut families = texts(spec, "ipFamilies");
    for address in asked.iter().skip(families.len()) {
        families.extend(address.parse().ok().map(|address| family(address).to_owned()));
    }
    if families.is_empty() {
        families.push("IPv4".to_owned());
    }
    let headless = asked.first().is_some_and(|first| first == NONE);
    let selects = spec["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    // Whoever writes the endpoints of such a service says which families they have.
    let any_family = headless && !selects;
    let policy = spec["ipFamilyPolicy"].as_str().map(str::to_owned);
    let default = if any_family { "RequireDualStack" } else { "SingleStack" };
    let policy = policy.unwrap_or_else(|| default.to_owned());
    let mut errors = Vec::new();
    if !any_family {
        for (index, family) in families.iter().enumerate() {
            if range_of(ranges, family).is_none() {
                let detail = format!("Invalid value: {family:?}: not configured on this cluster");
                errors.push(invalid(&format!("spec.ipFamilies[{index}]"), detail));
            }
        }
        if policy == "RequireDualStack" && ranges.v6.is_none() {
            let why = "this cluster is not configured for dual-stack services";
            let detail = format!("Invalid value: {policy:?}: {why}");
            errors.push(invalid("spec.ipFamilyPolicy", detail));
        }
    }
    if policy != "SingleStack" && families.len() == 1 && (any_family || ranges.v6.is_some()) {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
    spec["ipFamilies"] = json!(families);
    spec["ipFamilyPolicy"] = json!(policy);
    errors
}

/// Settles `clusterIPs`: an address of each family, the asked one or a free one. `held` are those
/// that the service has already.
pub(super) fn settle_addresses(
    value: &mut Value,
    held: &[String],
    ranges: DualStackCidr,
    taken: &Taken<'_>,
) -> Result<(), FieldError> {
    let asked = addresses_of(value);
    let mut addresses = Vec::new();
    if asked.first().is_some_and(|first| first == NONE) {
        addresses.push(NONE.to_owned());
    } else {
        for (index, family) in texts(&value["spec"], "ipFamilies").iter().enumerate() {
            let Some(range) = range_of(ranges, family) else { continue };
            let address = match asked.get(index) {
                Some(address) if held.contains(address) => address.clone(),
                Some(address) => check_asked(address, range, taken)?,
                None => free_address(range, taken).ok_or_else(|| {
                    let why = format!("failed to allocate a serviceIP: range {range} is full");
                    invalid("spec.clusterIPs", format!("Invalid value: []: {why}"))
                })?,
            };
            addresses.push(address);
        }
    }
    value["spec"]["clusterIP"] = json!(addresses.first());
    value["spec"]["clusterIPs"] = json!(addresses);
    Ok(())
}

fn check_asked(asked: &str, range: Cidr, taken: &Taken<'_>) -> Result<String, FieldError> {
    let refused = |why: String| {
        let why = format!("failed to allocate IP {asked}: {why}");
        invalid("spec.clusterIPs", format!("Invalid value: [\"{asked}\"]: {why}"))
    };
    let Ok(address) = asked.parse::<IpAddr>() else {
        return Err(refused("it is not an IP address".to_owned()));
    };
    // An IPv4 range also has a broadcast address.
    let last = if range.is_ipv6() { None } else { Some(range.size() - 1) };
    let index = range.index_of(address);
    if index.is_none() || index == Some(0) || index == last {
        return Err(refused(format!(
            "the provided IP ({address}) is not in the valid range. The range of valid IPs is \
             {range}"
        )));
    }
    if taken.has_address(address) {
        return Err(refused("provided IP is already allocated".to_owned()));
    }
    Ok(address.to_string())
}

/// Starts somewhere at random, so that an address just freed is not given again at once.
fn free_address(range: Cidr, taken: &Taken<'_>) -> Option<String> {
    let first = RESERVED_ADDRESSES.min(range.size() / 2).max(1);
    let count = range.size().checked_sub(first + 1).filter(|count| *count > 0)?;
    let start = rand::rng().random_range(0..count);
    // Of more addresses than are taken one is free.
    (0..count.min(taken.addresses() + 1))
        .filter_map(|step| range.address(first + (start + step) % count))
        .find(|address| !taken.has_address(*address))
        .map(|address| address.to_string())
}
