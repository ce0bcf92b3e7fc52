//! Which pods stand behind a service, and on which ports: what the endpoint slices and the older
//! endpoints objects are both made of. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A port of a service, as one pod offers it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BackendPort {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

/// The selector, if the service has one; without it somebody else writes the endpoints.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = selector(service) else { return false };
    let Some(labels) = &pod.metadata.labels else { return false };
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// Whether the pod has a place among the endpoints at all, ready or not.
pub(crate) fn has_place(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty()
}

pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut found: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    if found.is_empty() {
        found.extend(status.pod_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    found
}

/// The host name under which a headless service publishes the pod.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

/// The service's ports on this pod; a named port that the pod lacks is left out.
pub(crate) fn ports(service: &Service, pod: &Pod) -> Vec<BackendPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut found: Vec<BackendPort> = ports
        .iter()
        .filter_map(|port| {
            Some(BackendPort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()).to_owned(),
                port: target(port, pod)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    found.sort();
    found
}

fn protocol(protocol: Option<&str>) -> &str {
    protocol.unwrap_or("TCP")
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten().filter(is_sidecar))
        .flat_map(|container| container.ports.iter().flatten())
        .find(|candidate| {
            candidate.name.as_ref() == Some(name)
                && protocol(candidate.protocol.as_deref()) == protocol(port.protocol.as_deref())
        })
        .map(|candidate| candidate.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::pod;
    use k8s_openapi::api::core::v1::{ContainerPort, ServiceSpec};

    fn service(target: Option<IntOrString>) -> Service {
        Service {
            spec: Some(ServiceSpec {
                ports: Some(vec![ServicePort {
                    port: 80,
                    target_port: target,
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    fn with_port(name: &str, protocol: Option<&str>, port: i32) -> Pod {
        let mut pod = pod("a");
        pod.spec.as_mut().unwrap().containers = vec![Container {
            ports: Some(vec![ContainerPort {
                name: Some(name.into()),
                protocol: protocol.map(str::to_owned),
                container_port: port,
                ..ContainerPort::default()
            }]),
            ..Container::default()
        }];
        pod
    }

    #[test]
    fn target_ports() {
        let named = || Some(IntOrString::String("web".into()));
        let table = [
            ("the service's own number", None, pod("a"), Some(80)),
            ("a number", Some(IntOrString::Int(9376)), pod("a"), Some(9376)),
            ("a name", named(), with_port("web", None, 8080), Some(8080)),
            ("a name, other protocol", named(), with_port("web", Some("UDP"), 8080), None),
            ("a missing name", named(), with_port("db", None, 8080), None),
        ];
        for (name, target, pod, expected) in table {
            let found = ports(&service(target), &pod);
            assert_eq!(found.first().map(|port| port.port), expected, "{name}");
        }
    }
}
