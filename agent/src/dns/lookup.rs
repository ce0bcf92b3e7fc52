//! What the cluster's DNS says about a name: pure, from the watched services.
//!
//! - `<service>.<namespace>.svc.<domain>`: the cluster IP; without one, every ready endpoint; for
//!   an ExternalName service, the name that it stands for.
//! - `<hostname>.<service>.<namespace>.svc.<domain>`: one endpoint of a headless service, by its
//!   hostname or by its address with dashes.
//! - `_<port>._<protocol>.<service>.<namespace>.svc.<domain>`: SRV records.
//! - `<address with dashes>.<namespace>.pod.<domain>`: that address.
//! - `<reversed address>.in-addr.arpa`: the service that has the address.
//!
//! Guarantees: a name inside the domain is always answered from here and never leaves the node.
//! Not here: IPv6 addresses; whether a pod with such an address exists.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, CNAME, PTR, SOA, SRV},
};
use k8s_openapi::api::core::v1::Service;

use crate::watch::{Announced, Endpoint, ServiceTable};

/// How long answers may be kept: short, because endpoints come and go.
const TTL: u32 = 5;

/// What is known about a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// The name exists and has these records; perhaps none of the type that was asked for.
    Found { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name lies in the domain and does not exist.
    NoSuchName,
    /// The name lies outside of the domain.
    NotOurs,
}

/// The cluster's domain and what is in it.
pub(super) struct Zone<'a> {
    pub(super) domain: &'a Name,
    pub(super) services: &'a ServiceTable,
}

/// An endpoint of a headless service.
struct HeadlessEndpoint {
    /// Its hostname, else its address with dashes.
    label: String,
    address: Ipv4Addr,
    /// Name, protocol and number of its ports.
    ports: Vec<(String, String, u16)>,
}

impl Zone<'_> {
    /// Answers one question.
    pub(super) fn lookup(&self, name: &Name, record_type: RecordType) -> Answer {
        if let Some(address) = reversed_address(name) {
            return self.service_name_of(name, address, record_type);
        }
        if !self.domain.zone_of(name) {
            return Answer::NotOurs;
        }
        let depth = usize::from(name.num_labels() - self.domain.num_labels());
        let labels: Vec<String> = name
            .iter()
            .take(depth)
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] if record_type == RecordType::SOA => found(vec![self.soa()]),
            [] | ["svc" | "pod"] => nothing(),
            [namespace, "svc"] if self.services.has_namespace(namespace) => nothing(),
            [service, namespace, "svc"] => self.service(name, service, namespace, record_type),
            [endpoint, service, namespace, "svc"] if !endpoint.starts_with('_') => {
                self.endpoint(name, endpoint, service, namespace, record_type)
            }
            [port, protocol, service, namespace, "svc"] => {
                match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                    (Some(port), Some(protocol)) => {
                        let wanted = (port, protocol);
                        self.ports(name, wanted, service, namespace, record_type)
                    }
                    _ => Answer::NoSuchName,
                }
            }
            [address, _, "pod"] => match dashed_address(address) {
                Some(address) => addresses(name, record_type, [address]),
                None => Answer::NoSuchName,
            },
            _ => Answer::NoSuchName,
        }
    }

    /// The record that says how long a negative answer may be kept.
    pub(super) fn soa(&self) -> Record {
        let below = |label: &str| self.domain.prepend_label(label).unwrap_or_else(|_| Name::root());
        let data = SOA::new(below("ns"), below("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(data))
    }

    fn service(&self, name: &Name, service: &str, namespace: &str, wanted: RecordType) -> Answer {
        let Some(known) = self.services.get(namespace, service) else {
            return Answer::NoSuchName;
        };
        let Some(object) = known.service.as_deref() else { return Answer::NoSuchName };
        if let Some(target) = external_name(object) {
            let Ok(target) = Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) else {
                return Answer::NoSuchName;
            };
            return found(vec![record(name, RData::CNAME(CNAME(target)))]);
        }
        if let Some(address) = cluster_address(object) {
            return addresses(name, wanted, [address]);
        }
        let endpoints = headless_endpoints(object, &known);
        if endpoints.is_empty() {
            return Answer::NoSuchName;
        }
        let mut all: Vec<Ipv4Addr> = endpoints.into_iter().map(|e| e.address).collect();
        all.sort_unstable();
        all.dedup();
        addresses(name, wanted, all)
    }

    fn endpoint(
        &self,
        name: &Name,
        label: &str,
        service: &str,
        namespace: &str,
        wanted: RecordType,
    ) -> Answer {
        let Some(known) = self.services.get(namespace, service) else {
            return Answer::NoSuchName;
        };
        let Some(object) = known.service.as_deref() else { return Answer::NoSuchName };
        if cluster_address(object).is_some() || external_name(object).is_some() {
            return Answer::NoSuchName;
        }
        let endpoints = headless_endpoints(object, &known).into_iter();
        let mut named: Vec<Ipv4Addr> =
            endpoints.filter(|e| e.label == label).map(|e| e.address).collect();
        named.sort_unstable();
        named.dedup();
        if named.is_empty() { Answer::NoSuchName } else { addresses(name, wanted, named) }
    }

    fn ports(
        &self,
        name: &Name,
        (port, protocol): (&str, &str),
        service: &str,
        namespace: &str,
        wanted: RecordType,
    ) -> Answer {
        let Some(known) = self.services.get(namespace, service) else {
            return Answer::NoSuchName;
        };
        let Some(object) = known.service.as_deref() else { return Answer::NoSuchName };
        let Some(own_name) = self.name_of(service, namespace) else { return Answer::NoSuchName };
        let mut records = Vec::new();
        if let Some(address) = cluster_address(object) {
            for (found, of, number) in service_ports(object) {
                if found == port && of == protocol {
                    records.push((own_name.clone(), number, address));
                }
            }
        } else {
            for endpoint in headless_endpoints(object, &known) {
                let Ok(target) = own_name.prepend_label(endpoint.label.as_str()) else { continue };
                for (found, of, number) in &endpoint.ports {
                    if found == port && of == protocol {
                        records.push((target.clone(), *number, endpoint.address));
                    }
                }
            }
        }
        if records.is_empty() {
            return Answer::NoSuchName;
        }
        if wanted != RecordType::SRV && wanted != RecordType::ANY {
            return nothing();
        }
        let answers = records
            .iter()
            .map(|(target, port, _)| {
                record(name, RData::SRV(SRV::new(0, 100, *port, target.clone())))
            })
            .collect();
        let additionals = records
            .into_iter()
            .map(|(target, _, address)| record(&target, RData::A(A(address))))
            .collect();
        Answer::Found { answers, additionals }
    }

    fn service_name_of(&self, name: &Name, address: Ipv4Addr, wanted: RecordType) -> Answer {
        let key = self.services.at_address(IpAddr::V4(address));
        let target = key.and_then(|key| self.name_of(&key.name, &key.namespace));
        match target {
            Some(target) if wanted == RecordType::PTR || wanted == RecordType::ANY => {
                found(vec![record(name, RData::PTR(PTR(target)))])
            }
            Some(_) => nothing(),
            None => Answer::NotOurs,
        }
    }

    fn name_of(&self, service: &str, namespace: &str) -> Option<Name> {
        let name = Name::from_labels([service, namespace, "svc"]).ok()?;
        name.append_domain(self.domain).ok()
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn found(answers: Vec<Record>) -> Answer {
    Answer::Found { answers, additionals: Vec::new() }
}

fn nothing() -> Answer {
    found(Vec::new())
}

fn addresses(
    name: &Name,
    wanted: RecordType,
    addresses: impl IntoIterator<Item = Ipv4Addr>,
) -> Answer {
    if wanted != RecordType::A && wanted != RecordType::ANY {
        return nothing();
    }
    found(addresses.into_iter().map(|address| record(name, RData::A(A(address)))).collect())
}

fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    is_external.then_some(spec.external_name.as_deref()).flatten()
}

/// The cluster IP; `None` for a headless service.
fn cluster_address(service: &Service) -> Option<Ipv4Addr> {
    let spec = service.spec.as_ref()?;
    let many = spec.cluster_ips.iter().flatten();
    spec.cluster_ip.iter().chain(many).find_map(|address| address.parse().ok())
}

fn service_ports(service: &Service) -> Vec<(String, String, u16)> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports
        .iter()
        .filter_map(|port| {
            Some((
                port.name.clone().unwrap_or_default().to_ascii_lowercase(),
                port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
                u16::try_from(port.port).ok()?,
            ))
        })
        .collect()
}

/// The endpoints that a headless service shows: the ready ones, or all if it asks for that.
fn headless_endpoints(service: &Service, known: &Announced) -> Vec<HeadlessEndpoint> {
    let spec = service.spec.as_ref();
    let unready_too = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let shown = |endpoint: &&Endpoint| unready_too || endpoint.ready;
    let mut all = Vec::new();
    for slice in known.slices.values() {
        let ports = slice.ports.iter().map(|port| {
            (port.name.to_ascii_lowercase(), port.protocol.to_ascii_lowercase(), port.number)
        });
        let ports: Vec<(String, String, u16)> = ports.collect();
        for endpoint in slice.endpoints.iter().filter(shown) {
            let IpAddr::V4(address) = endpoint.address else { continue };
            let dashes = || address.to_string().replace('.', "-");
            let label = endpoint.hostname.as_deref().map_or_else(dashes, str::to_ascii_lowercase);
            all.push(HeadlessEndpoint { label, address, ports: ports.clone() });
        }
    }
    all
}

fn dashed_address(label: &str) -> Option<Ipv4Addr> {
    (label.split('-').count() == 4).then(|| label.replace('-', ".").parse().ok()).flatten()
}

/// The address of a name such as `10.0.9.10.in-addr.arpa`.
fn reversed_address(name: &Name) -> Option<Ipv4Addr> {
    let labels: Vec<String> =
        name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels[..] {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
