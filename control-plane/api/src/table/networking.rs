//! Columns and cells of the networking kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::cells::selector;
use super::columns::{AGE, NAME, text};
use super::format::{age, list, name, name_of_default, text_or};

/// How many hosts a cell lists before it only counts.
const LISTED: usize = 3;

pub(crate) const INGRESS: &[Column] = &[
    NAME,
    text("Class", "The class that says which controller serves the ingress."),
    text("Hosts", "The hosts that the rules are for."),
    text("Address", "The addresses at which the ingress is served."),
    text("Ports", "The ports at which the ingress is served."),
    AGE,
];

pub(crate) const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", "The controller that serves ingresses of the class."),
    text("Parameters", "The object that configures the controller."),
    AGE,
];

pub(crate) const NETWORK_POLICY: &[Column] =
    &[NAME, text("Pod-Selector", "The labels of the pods that the policy is for."), AGE];

pub(crate) const IP_ADDRESS: &[Column] =
    &[NAME, text("ParentRef", "The object that the address is given to.")];

pub(crate) const SERVICE_CIDR: &[Column] =
    &[NAME, text("CIDRs", "The ranges that services get their addresses from."), AGE];

pub(crate) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let points = list(object, "/status/loadBalancer/ingress").iter();
    let points = points.map(|one| text_or(one, "/ip", text_or(one, "/hostname", "")));
    let mut addresses: Vec<&str> = points.filter(|address| !address.is_empty()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let encrypted = !list(object, "/spec/tls").is_empty();
    let class = object["spec"]["ingressClassName"].as_str().unwrap_or("<none>");
    vec![
        name(object),
        Value::from(class),
        Value::from(hosts(object)),
        Value::from(addresses.join(",")),
        Value::from(if encrypted { "80, 443" } else { "80" }),
        age(object, now),
    ]
}

/// Rules without a host count as more, but are not shown.
fn hosts(object: &Value) -> String {
    let rules = list(object, "/spec/rules");
    let mut hosts: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == LISTED;
        let host = text_or(rule, "/host", "");
        if !more && !host.is_empty() {
            hosts.push(host);
        }
    }
    match (hosts.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - LISTED),
        (false, false) => hosts.join(","),
    }
}

pub(crate) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = &object["spec"]["parameters"];
    let shown = if parameters.is_object() {
        let kind = text_or(parameters, "/kind", "");
        let group = parameters["apiGroup"].as_str().map(|group| format!(".{group}"));
        let target = text_or(parameters, "/name", "");
        format!("{kind}{}/{target}", group.unwrap_or_default())
    } else {
        "<none>".to_owned()
    };
    vec![
        name_of_default(object, &["ingressclass.kubernetes.io/is-default-class"]),
        Value::from(text_or(object, "/spec/controller", "")),
        Value::from(shown),
        age(object, now),
    ]
}

pub(crate) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(selector(&object["spec"]["podSelector"])), age(object, now)]
}

pub(crate) fn ip_address(object: &Value, _: Timestamp) -> Vec<Value> {
    let parent = &object["spec"]["parentRef"];
    if !parent.is_object() {
        return vec![name(object), Value::from("<none>")];
    }
    let group = text_or(parent, "/group", "");
    let mut shown = text_or(parent, "/resource", "").to_owned();
    if !group.is_empty() {
        shown = format!("{shown}.{group}");
    }
    let parts = [text_or(parent, "/namespace", ""), text_or(parent, "/name", "")];
    let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    vec![name(object), Value::from(format!("{}/{}", shown.to_lowercase(), path.join("/")))]
}

pub(crate) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    let ranges = list(object, "/spec/cidrs").iter().filter_map(Value::as_str);
    let ranges = ranges.collect::<Vec<_>>().join(",");
    vec![name(object), Value::from(ranges), age(object, now)]
}
