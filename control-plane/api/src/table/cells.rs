//! The cells of every kind but pods.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, containers, labels, list, name, number, since, text_or, timestamp};
use crate::selector::LabelSelector;

const NODE_ROLE: &str = "node-role.kubernetes.io/";
/// How many endpoints or ports a cell lists before it only counts.
const LISTED: usize = 3;

fn replicas(object: &Value, now: Timestamp, selector: String) -> Vec<Value> {
    vec![
        name(object),
        Value::from(number(object, "/spec/replicas")),
        Value::from(number(object, "/status/replicas")),
        Value::from(number(object, "/status/readyReplicas")),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        Value::from(selector),
    ]
}

/// A `metav1.LabelSelector` as `a=b,c in (d,e)`.
pub(super) fn selector(selector: &Value) -> String {
    match LabelSelector::from_label_selector(selector) {
        Ok(selector) if selector.to_string().is_empty() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

pub(crate) fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, now, labels(&object["spec"]["selector"]))
}

pub(crate) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, now, selector(&object["spec"]["selector"]))
}

pub(crate) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = number(object, "/status/readyReplicas");
    vec![
        name(object),
        Value::from(format!("{ready}/{}", number(object, "/spec/replicas"))),
        Value::from(number(object, "/status/updatedReplicas")),
        Value::from(number(object, "/status/availableReplicas")),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        Value::from(selector(&object["spec"]["selector"])),
    ]
}

pub(crate) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, "/spec/ports").iter().map(service_port).collect();
    let address =
        text_or(object, "/spec/clusterIPs/0", text_or(object, "/spec/clusterIP", "<none>"));
    vec![
        name(object),
        Value::from(text_or(object, "/spec/type", "")),
        Value::from(address),
        Value::from(external_addresses(object)),
        Value::from(if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") }),
        age(object, now),
        Value::from(labels(&object["spec"]["selector"])),
    ]
}

fn service_port(port: &Value) -> String {
    let protocol = text_or(port, "/protocol", "TCP");
    let number = number(port, "/port");
    match port["nodePort"].as_i64() {
        Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

fn external_addresses(object: &Value) -> String {
    let mut addresses: Vec<&str> = Vec::new();
    let kind = text_or(object, "/spec/type", "");
    if kind == "ExternalName" {
        return text_or(object, "/spec/externalName", "").to_owned();
    }
    if kind == "LoadBalancer" {
        let ingress = list(object, "/status/loadBalancer/ingress").iter();
        addresses.extend(ingress.map(|one| text_or(one, "/ip", text_or(one, "/hostname", ""))));
        addresses.sort_unstable();
        addresses.dedup();
    }
    addresses.extend(list(object, "/spec/externalIPs").iter().filter_map(Value::as_str));
    match (addresses.is_empty(), kind) {
        (false, _) => addresses.join(","),
        (true, "LoadBalancer") => "<pending>".to_owned(),
        (true, _) => "<none>".to_owned(),
    }
}

/// At most a few, then how many more.
fn abridged(all: &[String]) -> String {
    match all.len() {
        0 => "<none>".to_owned(),
        count if count > LISTED => {
            format!("{} + {} more...", all[..LISTED].join(","), count - LISTED)
        }
        _ => all.join(","),
    }
}

pub(crate) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let addresses = list(subset, "/addresses").iter().filter_map(|one| one["ip"].as_str());
        let ports = list(subset, "/ports");
        for address in addresses {
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{address}:{}", number(port, "/port"))));
        }
    }
    vec![name(object), Value::from(abridged(&all)), age(object, now)]
}

pub(crate) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports = list(object, "/ports").iter();
    let ports: Vec<String> = ports
        .map(|port| port["port"].as_i64().map_or("*".to_owned(), |number| number.to_string()))
        .collect();
    let endpoints = list(object, "/endpoints").iter();
    let addresses: Vec<String> = endpoints
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let unset = |text: String| if text == "<none>" { "<unset>".to_owned() } else { text };
    vec![
        name(object),
        Value::from(text_or(object, "/addressType", "")),
        Value::from(unset(abridged(&ports))),
        Value::from(unset(abridged(&addresses))),
        age(object, now),
    ]
}

pub(crate) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field: &str, missing| {
        Value::from(text_or(object, &format!("/status/nodeInfo/{field}"), missing))
    };
    let address = |kind: &str| {
        let mut all = list(object, "/status/addresses").iter();
        let found = all.find(|one| one["type"] == kind).and_then(|one| one["address"].as_str());
        Value::from(found.unwrap_or("<none>"))
    };
    vec![
        name(object),
        Value::from(node_status(object)),
        Value::from(node_roles(object)),
        age(object, now),
        info("kubeletVersion", ""),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage", "<unknown>"),
        info("kernelVersion", "<unknown>"),
        info("containerRuntimeVersion", "<unknown>"),
    ]
}

fn node_status(object: &Value) -> String {
    let mut conditions = list(object, "/status/conditions").iter();
    let ready = conditions.find(|one| one["type"] == "Ready");
    let status = match ready.map(|one| &one["status"]) {
        None => "Unknown",
        Some(status) if status == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let closed = object["spec"]["unschedulable"] == true;
    format!("{status}{}", if closed { ",SchedulingDisabled" } else { "" })
}

fn node_roles(object: &Value) -> String {
    let labels = crate::object::labels(object).into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(NODE_ROLE) {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

pub(crate) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(text_or(object, "/status/phase", "")), age(object, now)]
}

fn entries(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

pub(crate) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(text_or(object, "/type", "")),
        Value::from(entries(object, "data")),
        age(object, now),
    ]
}

pub(crate) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = entries(object, "data") + entries(object, "binaryData");
    vec![name(object), Value::from(count), age(object, now)]
}

pub(crate) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(list(object, "/secrets").len()), age(object, now)]
}

pub(crate) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(text_or(object, "/spec/holderIdentity", "")), age(object, now)]
}

pub(crate) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |fields: &[&str]| {
        let known = fields.iter().map(|field| &object[*field]);
        known.into_iter().find(|value| timestamp(value).is_some()).unwrap_or(&Value::Null)
    };
    let first_seen = since(first_of(&["firstTimestamp", "eventTime"]), now);
    let series = &object["series"];
    let (last_seen, count) = if series.is_object() {
        (since(&series["lastObservedTime"], now), number(series, "/count"))
    } else {
        let last = first_of(&["lastTimestamp", "eventTime", "firstTimestamp"]);
        (since(last, now), number(object, "/count").max(1))
    };
    let kind = text_or(object, "/involvedObject/kind", "").to_lowercase();
    let involved = text_or(object, "/involvedObject/name", "");
    let target = if involved.is_empty() { kind } else { format!("{kind}/{involved}") };
    vec![
        Value::from(last_seen),
        Value::from(text_or(object, "/type", "")),
        Value::from(text_or(object, "/reason", "")),
        Value::from(target),
        Value::from(text_or(object, "/involvedObject/fieldPath", "")),
        Value::from(event_source(object)),
        Value::from(text_or(object, "/message", "").trim()),
        Value::from(first_seen),
        Value::from(count.to_string()),
        name(object),
    ]
}

fn event_source(object: &Value) -> String {
    let component = text_or(object, "/source/component", "");
    let component = text_or(object, "/reportingComponent", component);
    let host = text_or(object, "/source/host", text_or(object, "/reportingInstance", ""));
    [component, host].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}
