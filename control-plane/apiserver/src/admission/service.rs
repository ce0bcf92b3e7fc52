//! Cluster addresses and node ports of services, and what is to be said about them.
//!
//! An allocation holds the ledger's lock until the service is stored and visible, so two can never
//! get the same.

use super::Taken as Held;
use super::service_addresses::{self, addresses_of};
use super::service_ledger::{Ledger, Taken, protocol};
use crate::objects::Place;
use crate::watch::Caches;
use bowline_api::cidr::DualStackCidr;
use bowline_api::object;
use bowline_api::status::Status;
use bowline_api::validation::FieldError;
use rand::Rng;
use serde_json::Value;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use tokio::sync::Mutex;

const NODE_PORTS: RangeInclusive<i64> = 30_000..=32_767;

/// See the module's documentation.
pub(super) struct Allocator {
    ranges: DualStackCidr,
    ledger: Arc<Mutex<Ledger>>,
}

impl Allocator {
    pub(super) fn new(ranges: DualStackCidr) -> Self {
        Self { ranges, ledger: Arc::default() }
    }

    pub(super) async fn allocate(
        &self,
        caches: &Caches,
        place: &Place,
        value: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Held>, Status> {
        let kind = service_type(value);
        if kind == "ExternalName" {
            release(value);
            return Ok(None);
        }
        let held = old.map(addresses_of).unwrap_or_default();
        let mut ledger = self.ledger.clone().lock_owned().await;
        let taken = ledger.others(caches, place)?;
        let mut errors = service_addresses::settle_families(value, self.ranges);
        if errors.is_empty() {
            let settled = service_addresses::settle_addresses(value, &held, self.ranges, &taken);
            errors.extend(settled.err());
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            errors.extend(assign_ports(value, &taken));
        } else {
            clear_ports(value);
        }
        if errors.is_empty() {
            return Ok(Some(Box::new(ledger)));
        }
        Err(Status::invalid(place.resource, object::name(value), &errors))
    }

    /// What a service's owner should know although nothing is wrong with the object.
    pub(super) fn warnings(value: &Value) -> Vec<String> {
        let ports = value["spec"]["ports"].as_array().into_iter().flatten();
        let sctp = ports.enumerate().filter(|(_, port)| port["protocol"] == "SCTP");
        sctp.map(|(index, _)| {
            format!(
                "spec.ports[{index}].protocol: SCTP is not balanced by this cluster's data plane; \
                 connect to the endpoints' own addresses"
            )
        })
        .collect()
    }
}

fn service_type(value: &Value) -> String {
    value["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned()
}

fn release(value: &mut Value) {
    if let Some(spec) = value["spec"].as_object_mut() {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
    }
    clear_ports(value);
}

fn ports_of(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value["spec"]["ports"].as_array_mut().into_iter().flatten()
}

fn clear_ports(value: &mut Value) {
    if !value["spec"].is_object() {
        return;
    }
    for port in ports_of(value) {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
}

fn assign_ports(value: &mut Value, taken: &Taken<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut own = HashSet::new();
    for (index, port) in ports_of(value).enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        let invalid = |asked: i64, why: String| FieldError {
            field: field.clone(),
            reason: "FieldValueInvalid",
            detail: format!("Invalid value: {asked}: {why}"),
        };
        let protocol = protocol(port);
        let asked = port["nodePort"].as_i64().unwrap_or(0);
        let is_free = |number: i64, own: &HashSet<(String, i64)>| {
            let key = (protocol.clone(), number);
            !taken.has_port(&key) && !own.contains(&key)
        };
        if asked == 0 {
            let Some(free) = free_port(|number| is_free(number, &own)) else {
                let why = "failed to allocate a nodePort: range is full".to_owned();
                errors.push(invalid(0, why));
                continue;
            };
            port["nodePort"] = Value::from(free);
            own.insert((protocol, free));
        } else if !NODE_PORTS.contains(&asked) {
            let (first, last) = NODE_PORTS.into_inner();
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is \
                 {first}-{last}"
            );
            errors.push(invalid(asked, why));
        } else if !is_free(asked, &own) {
            errors.push(invalid(asked, "provided port is already allocated".to_owned()));
        } else {
            own.insert((protocol, asked));
        }
    }
    errors
}

fn free_port(is_free: impl Fn(i64) -> bool) -> Option<i64> {
    let (first, last) = NODE_PORTS.into_inner();
    let count = last - first + 1;
    let start = rand::rng().random_range(0..count);
    (0..count).map(|step| first + (start + step) % count).find(|number| is_free(*number))
}
