//! Cluster addresses and node ports of services.
//!
//! There is no table of what is taken: the stored services are the table. An allocation holds a
//! lock until the service is stored and visible, so two can never get the same, and a deleted
//! service's address is free at once; nothing can leak.

use super::Reserved;
use crate::objects::Place;
use crate::watch::{Caches, Filter};
use bowline_api::cidr::Cidr;
use bowline_api::object;
use bowline_api::status::Status;
use bowline_api::validation::FieldError;
use rand::Rng;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use tokio::sync::Mutex;

const NONE: &str = "None";
const NODE_PORTS: RangeInclusive<i64> = 30_000..=32_767;
/// Addresses at the start of the range that are only given on request: the API server, DNS.
const RESERVED_ADDRESSES: u64 = 16;

/// See the module's documentation.
pub(super) struct Allocator {
    cidr: Cidr,
    lock: Arc<Mutex<()>>,
}

/// What the other services hold.
#[derive(Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<(String, i64)>,
}

impl Allocator {
    pub(super) fn new(cidr: Cidr) -> Self {
        Self { cidr, lock: Arc::default() }
    }

    pub(super) async fn allocate(
        &self,
        caches: &Caches,
        place: &Place,
        value: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Reserved>, Status> {
        let kind = service_type(value);
        if kind == "ExternalName" {
            release(value);
            return Ok(None);
        }
        let held = old.map(address_of).unwrap_or_default();
        let guard = self.lock.clone().lock_owned().await;
        let taken = taken(caches, place);
        let mut errors = Vec::new();
        match self.address(value, held, &taken) {
            Ok(address) => set_address(value, &address),
            Err(error) => errors.push(error),
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            errors.extend(assign_ports(value, &taken));
        } else {
            clear_ports(value);
        }
        if errors.is_empty() {
            return Ok(Some(guard));
        }
        Err(Status::invalid(place.resource, object::name(value), &errors))
    }

    /// The address that the service gets: the asked one, or a free one.
    fn address(&self, value: &Value, held: String, taken: &Taken) -> Result<String, FieldError> {
        let asked = address_of(value);
        if asked == NONE || (!asked.is_empty() && asked == held) {
            return Ok(asked);
        }
        let invalid = |address: &str, why: String| FieldError {
            field: "spec.clusterIPs".to_owned(),
            reason: "FieldValueInvalid",
            detail: format!(
                "Invalid value: [\"{address}\"]: failed to allocate IP {address}: {why}"
            ),
        };
        if asked.is_empty() {
            return self.free_address(taken).ok_or_else(|| FieldError {
                field: "spec.clusterIPs".to_owned(),
                reason: "FieldValueInvalid",
                detail: format!(
                    "Invalid value: []: failed to allocate a serviceIP: range {} is full",
                    self.cidr
                ),
            });
        }
        let Ok(address) = asked.parse::<Ipv4Addr>() else {
            return Err(invalid(&asked, "it is not an IPv4 address".to_owned()));
        };
        let last = self.cidr.size() - 1;
        let usable = self.cidr.index_of(address).is_some_and(|i| i != 0 && i != last);
        if !usable {
            let range = self.cidr;
            let why = format!(
                "the provided IP ({address}) is not in the valid range. The range \
                               of valid IPs is {range}"
            );
            return Err(invalid(&asked, why));
        }
        if taken.addresses.contains(&address.into()) {
            return Err(invalid(&asked, "provided IP is already allocated".to_owned()));
        }
        Ok(asked)
    }

    /// Starts somewhere at random, so that an address just freed is not given again at once.
    fn free_address(&self, taken: &Taken) -> Option<String> {
        let first = RESERVED_ADDRESSES.min(self.cidr.size() / 2).max(1);
        let count = self.cidr.size().checked_sub(first + 1).filter(|count| *count > 0)?;
        let start = rand::rng().random_range(0..count);
        (0..count)
            .filter_map(|step| self.cidr.address(first + (start + step) % count))
            .find(|address| !taken.addresses.contains(address))
            .map(|address| address.to_string())
    }
}

fn service_type(value: &Value) -> String {
    value["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned()
}

fn address_of(value: &Value) -> String {
    let spec = &value["spec"];
    let first = spec["clusterIPs"][0].as_str();
    spec["clusterIP"].as_str().filter(|ip| !ip.is_empty()).or(first).unwrap_or_default().to_owned()
}

fn set_address(value: &mut Value, address: &str) {
    let spec = &mut value["spec"];
    spec["clusterIP"] = Value::from(address);
    spec["clusterIPs"] = json!([address]);
    if spec["ipFamilies"].is_null() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
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

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

fn assign_ports(value: &mut Value, taken: &Taken) -> Vec<FieldError> {
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
            !taken.ports.contains(&key) && !own.contains(&key)
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

/// What all services but the one at `place` hold.
fn taken(caches: &Caches, place: &Place) -> Taken {
    let mut taken = Taken::default();
    for service in caches.of(place.resource).list(&Filter::default(), None, None).objects {
        let value = &service.value;
        let itself =
            object::namespace(value) == place.namespace && object::name(value) == place.name;
        if itself {
            continue;
        }
        taken.addresses.extend(address_of(value).parse::<IpAddr>().ok());
        for port in value["spec"]["ports"].as_array().into_iter().flatten() {
            if let Some(number) = port["nodePort"].as_i64() {
                taken.ports.insert((protocol(port), number));
            }
        }
    }
    taken
}
