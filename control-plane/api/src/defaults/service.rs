//! Defaults of services, and what an update of one may leave out.

use serde_json::{Map, Value, json};

use super::{child_mut_value, default, default_text, items};
use crate::object::child_mut;

const CLIENT_IP_TIMEOUT_SECONDS: i64 = 10_800;

pub(crate) fn service(service: &mut Value) {
    child_mut(child_mut_value(service, "status"), "loadBalancer");
    modes_of_addresses(service);
    let spec = child_mut(service, "spec");
    default_text(spec, "sessionAffinity", "None");
    default_text(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({}));
        let client = child_mut(&mut spec["sessionAffinityConfig"], "clientIP");
        default(client, "timeoutSeconds", CLIENT_IP_TIMEOUT_SECONDS);
    }
    for port in items(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(target) => target == 0 || target == "",
        };
        if let (true, Some(number)) = (unset, port.get("port").cloned()) {
            port.insert("targetPort".to_owned(), number);
        }
    }
    if spec["type"] == "ExternalName" {
        return;
    }
    if reaches_outside(spec) {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    default_text(spec, "internalTrafficPolicy", "Cluster");
    let address = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = spec.get("clusterIPs").and_then(|list| list[0].as_str()).unwrap_or_default();
    if address.is_empty() && !first.is_empty() {
        spec.insert("clusterIP".to_owned(), Value::from(first));
    } else if first.is_empty() && !address.is_empty() {
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
}

/// Whether clients outside of the cluster may use it.
fn reaches_outside(spec: &Map<String, Value>) -> bool {
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP");
    let addresses = spec.get("externalIPs").and_then(Value::as_array);
    matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && addresses.is_some_and(|addresses| !addresses.is_empty()))
}

/// How a balancer in front of the cluster reaches its addresses.
fn modes_of_addresses(service: &mut Value) {
    if service["spec"]["type"] != "LoadBalancer" {
        return;
    }
    let status = service.get_mut("status").and_then(|status| status.get_mut("loadBalancer"));
    let Some(balancer) = status.and_then(Value::as_object_mut) else { return };
    for address in items(balancer, "ingress") {
        if address.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
            default(address, "ipMode", "VIP");
        }
    }
}

/// An update may leave out what was allocated; it stays while the service needs it.
pub(crate) fn carry_over_service(new: &mut Value, old: &Value) {
    let external = |service: &Value| service["spec"]["type"] == "ExternalName";
    if external(old) {
        return;
    }
    let becomes_external = external(new);
    let spec = child_mut(new, "spec");
    if becomes_external {
        drop_of_other_type(spec, &old["spec"]);
        // Kept addresses would be given out twice, and are of no use to a DNS alias.
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.remove(field);
            }
        }
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let unset = match spec.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if let (true, Some(value)) = (unset, old["spec"].get(field)) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    release_second_family(spec, &old["spec"]);
    // A client that writes the one address means the list's first, too.
    let before = &old["spec"];
    if spec.get("clusterIP") != before.get("clusterIP")
        && spec.get("clusterIPs") == before.get("clusterIPs")
        && let Some(address) = spec.get("clusterIP").cloned()
    {
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
    carry_over_node_ports(spec, before);
    carry_over_health_check(spec, before);
    drop_of_other_type(spec, before);
}

fn needs_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn carry_over_health_check(spec: &mut Map<String, Value>, old: &Value) {
    let now = Value::Object(spec.clone());
    if let (true, Some(port)) =
        (needs_health_check(&now) && needs_health_check(old), old.get("healthCheckNodePort"))
    {
        default(spec, "healthCheckNodePort", port.clone());
    }
}

/// A client that changes the type alone leaves behind what only the old type has.
fn drop_of_other_type(spec: &mut Map<String, Value>, old: &Value) {
    let now = Value::Object(spec.clone());
    let balanced = |spec: &Value| spec["type"] == "LoadBalancer";
    let outside = |spec: &Value| spec.as_object().is_some_and(reaches_outside);
    let lost = |has: &dyn Fn(&Value) -> bool| has(old) && !has(&now);
    for (field, is_lost) in [
        ("healthCheckNodePort", lost(&needs_health_check)),
        ("externalTrafficPolicy", lost(&outside)),
        ("allocateLoadBalancerNodePorts", lost(&balanced)),
        ("loadBalancerClass", lost(&balanced)),
    ] {
        if is_lost && now.get(field) == old.get(field) {
            spec.remove(field);
        }
    }
}

/// `SingleStack` alone is enough to give up the second family; whoever leaves out its address and
/// says nothing else keeps it.
fn release_second_family(spec: &mut Map<String, Value>, old: &Value) {
    let single = spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "SingleStack");
    for field in ["clusterIPs", "ipFamilies"] {
        let before = old[field].as_array().filter(|before| before.len() == 2);
        let (Some(before), Some(now)) = (before, spec.get_mut(field)) else { continue };
        if single && old["ipFamilyPolicy"] != "SingleStack" && now.as_array() == Some(before) {
            *now = json!([before[0]]);
        }
        if !single && field == "clusterIPs" && *now == json!([before[0]]) {
            *now = old[field].clone();
        }
    }
}

fn carry_over_node_ports(spec: &mut Map<String, Value>, old: &Value) {
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP");
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        for port in items(spec, "ports") {
            let kept = old["ports"].as_array().into_iter().flatten();
            if kept.clone().any(|old| old.get("nodePort") == port.get("nodePort")) {
                port.remove("nodePort");
            }
        }
        return;
    }
    for port in items(spec, "ports").filter(|port| !port.contains_key("nodePort")) {
        let mut candidates = old["ports"].as_array().into_iter().flatten();
        let same = |old: &&Value| {
            old.get("port") == port.get("port")
                && old["protocol"].as_str().unwrap_or("TCP")
                    == port.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
        };
        let node_port = candidates.find(same).and_then(|old| old.get("nodePort")).cloned();
        if let Some(node_port) = node_port {
            port.insert("nodePort".to_owned(), node_port);
        }
    }
}
