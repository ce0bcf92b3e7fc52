//! What the cluster's DNS says about a name: pure, from the watched services.
//!
//! After the Kubernetes DNS specification 1.1.0 (kubernetes/dns, docs/specification.md):
//!
//! - `<service>.<namespace>.svc.<domain>`: the cluster IPs; without one, every ready endpoint; for
//!   an ExternalName service, the name that it stands for.
//! - `<hostname>.<service>.<namespace>.svc.<domain>`: one endpoint of a headless service, by its
//!   hostname or by its address with dashes.
//! - `_<port>._<protocol>.<service>.<namespace>.svc.<domain>`: SRV records.
//! - `<reversed address>.in-addr.arpa` and `.ip6.arpa`: the service that has the address, or the
//!   endpoints of headless services that have it.
//! - `dns-version.<domain>`: the version of the specification.
//! - `<address with dashes>.<namespace>.pod.<domain>`: that address. The specification has dropped
//!   these names; clients still use them.
//!
//! Guarantees: a name inside the domain is always answered from here and never leaves the node; a
//! name with names below it exists (RFC 8020). Not here: whether a pod with such an address exists.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT},
};

use crate::watch::{self, Announced, Endpoint, ServiceFacts, ServiceTable};

/// How long answers may be kept: short, because endpoints come and go.
const TTL: u32 = 5;

/// The version of the specification.
const SPECIFICATION: &str = "1.1.0";

/// What is known about a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// The name exists and has these records; perhaps none of the type that was asked for.
    Found { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name stands for another one, which may be anybody's.
    Alias(Name),
    /// The name lies in the domain, or may, and does not exist as far as is known.
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
    address: IpAddr,
    ports: Vec<Port>,
}

/// A port as names spell it, in lower case.
#[derive(Clone)]
struct Port {
    /// Empty for the only port of a service: it has no SRV record.
    name: String,
    protocol: String,
    number: u16,
}

impl Port {
    fn of(port: &watch::Port) -> Self {
        Self {
            name: port.name.to_ascii_lowercase(),
            protocol: port.protocol.to_ascii_lowercase(),
            number: port.number,
        }
    }
}

/// A port with the host that has it.
struct HostPort {
    host: Name,
    address: IpAddr,
    port: Port,
}

impl Zone<'_> {
    /// Answers one question.
    pub(super) fn lookup(&self, name: &Name, record_type: RecordType) -> Answer {
        if let Some(address) = reversed_address(name) {
            return self.names_of(name, address, record_type);
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
            ["dns-version"] if record_type == RecordType::TXT => {
                found(vec![record(name, RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()])))])
            }
            [] | ["svc" | "pod" | "dns-version"] | [_, "pod"] => nothing(),
            [namespace, "svc"] if self.services.has_namespace(namespace) => nothing(),
            [service, namespace, "svc"] => self.service(name, service, namespace, record_type),
            [label, service, namespace, "svc"] => match label.strip_prefix('_') {
                Some(protocol) => self.protocol(protocol, service, namespace),
                None => self.endpoint(name, label, service, namespace, record_type),
            },
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

    /// The record that says how long a negative answer may be kept (RFC 2308 section 3).
    pub(super) fn soa(&self) -> Record {
        let below = |label: &str| self.domain.prepend_label(label).unwrap_or_else(|_| Name::root());
        let data = SOA::new(below("ns"), below("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(data))
    }

    fn service(&self, name: &Name, service: &str, namespace: &str, wanted: RecordType) -> Answer {
        let Some((object, known)) = self.find(service, namespace) else {
            return Answer::NoSuchName;
        };
        if let Some(target) = object.external_name.as_deref() {
            let Ok(target) = Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) else {
                return Answer::NoSuchName;
            };
            return Answer::Alias(target);
        }
        if !object.addresses.is_empty() {
            return addresses(name, wanted, object.addresses.iter().copied());
        }
        let endpoints = headless_endpoints(&object, &known);
        if endpoints.is_empty() {
            return Answer::NoSuchName;
        }
        let all: BTreeSet<IpAddr> = endpoints.into_iter().map(|e| e.address).collect();
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
        let Some((object, known)) = self.find(service, namespace) else {
            return Answer::NoSuchName;
        };
        if !object.addresses.is_empty() || object.external_name.is_some() {
            return Answer::NoSuchName;
        }
        let endpoints = headless_endpoints(&object, &known).into_iter();
        let named: BTreeSet<IpAddr> =
            endpoints.filter(|e| e.label == label).map(|e| e.address).collect();
        if named.is_empty() { Answer::NoSuchName } else { addresses(name, wanted, named) }
    }

    /// `_tcp.<service>...` has no records, but names below it if a port has that protocol.
    fn protocol(&self, protocol: &str, service: &str, namespace: &str) -> Answer {
        let mut ports = self.all_ports(service, namespace).into_iter();
        let known = ports.any(|at| !at.port.name.is_empty() && at.port.protocol == protocol);
        if known { nothing() } else { Answer::NoSuchName }
    }

    fn ports(
        &self,
        name: &Name,
        (port, protocol): (&str, &str),
        service: &str,
        namespace: &str,
        wanted: RecordType,
    ) -> Answer {
        let mut all = self.all_ports(service, namespace);
        all.retain(|at| at.port.name == port && at.port.protocol == protocol);
        if all.is_empty() || port.is_empty() {
            return Answer::NoSuchName;
        }
        if wanted != RecordType::SRV {
            return nothing();
        }
        // An endpoint with an address of each family is one target.
        let targets: BTreeSet<(&Name, u16)> =
            all.iter().map(|at| (&at.host, at.port.number)).collect();
        let srv = |(target, port): (&Name, u16)| SRV::new(0, 100, port, target.clone());
        let answers =
            targets.into_iter().map(|target| record(name, RData::SRV(srv(target)))).collect();
        let hints: BTreeSet<(&Name, IpAddr)> =
            all.iter().map(|at| (&at.host, at.address)).collect();
        let additionals =
            hints.into_iter().map(|(host, address)| address_record(host, address)).collect();
        Answer::Found { answers, additionals }
    }

    /// Every port of a service, at every address.
    fn all_ports(&self, service: &str, namespace: &str) -> Vec<HostPort> {
        let Some((object, known)) = self.find(service, namespace) else { return Vec::new() };
        let Some(own_name) = self.name_of(service, namespace) else { return Vec::new() };
        let mut all = Vec::new();
        if !object.addresses.is_empty() {
            for port in object.ports.iter().map(Port::of) {
                all.extend(object.addresses.iter().map(|&address| HostPort {
                    host: own_name.clone(),
                    address,
                    port: port.clone(),
                }));
            }
        } else if object.external_name.is_none() {
            for HeadlessEndpoint { label, address, ports } in headless_endpoints(&object, &known) {
                let Ok(host) = own_name.prepend_label(label.as_str()) else { continue };
                let at = |port| HostPort { host: host.clone(), address, port };
                all.extend(ports.into_iter().map(at));
            }
        }
        all
    }

    /// The names of an address: a cluster IP has one, an endpoint one in each headless service.
    fn names_of(&self, name: &Name, address: IpAddr, wanted: RecordType) -> Answer {
        let mut names: BTreeSet<Name> = BTreeSet::new();
        if let Some(key) = self.services.at_address(address) {
            names.extend(self.name_of(&key.name, &key.namespace));
        } else {
            for (key, known) in self.services.headless_at(address) {
                let Some(object) = known.service.as_deref() else { continue };
                let Some(parent) = self.name_of(&key.name, &key.namespace) else { continue };
                let shown = headless_endpoints(object, &known).into_iter();
                let labels = shown.filter(|e| e.address == address).map(|e| e.label);
                names.extend(labels.filter_map(|label| parent.prepend_label(label.as_str()).ok()));
            }
        }
        if names.is_empty() {
            // Nobody outside is asked about an address of ours that was not heard of yet.
            if self.services.is_synced() { Answer::NotOurs } else { Answer::NoSuchName }
        } else if wanted == RecordType::PTR {
            found(names.into_iter().map(|own| record(name, RData::PTR(PTR(own)))).collect())
        } else {
            nothing()
        }
    }

    fn find(&self, service: &str, namespace: &str) -> Option<(Arc<ServiceFacts>, Announced)> {
        let known = self.services.get(namespace, service)?;
        Some((known.service.clone()?, known))
    }

    fn name_of(&self, service: &str, namespace: &str) -> Option<Name> {
        let name = Name::from_labels([service, namespace, "svc"]).ok()?;
        name.append_domain(self.domain).ok()
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

/// The record that says that a name stands for another one.
pub(super) fn alias(name: &Name, target: &Name) -> Record {
    record(name, RData::CNAME(CNAME(target.clone())))
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    record(name, data)
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
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Answer {
    let records = addresses.into_iter().map(|address| address_record(name, address));
    found(records.filter(|record| record.record_type() == wanted).collect())
}

/// The endpoints that a headless service shows: the ready ones, or all if it asks for that.
fn headless_endpoints(service: &ServiceFacts, known: &Announced) -> Vec<HeadlessEndpoint> {
    let shown = |endpoint: &&Endpoint| service.unready_too || endpoint.ready;
    let mut all = Vec::new();
    for slice in &known.slices {
        let ports: Vec<Port> = slice.ports.iter().map(Port::of).collect();
        for endpoint in slice.endpoints.iter().filter(shown) {
            let address = endpoint.address;
            let dashes = || address.to_string().replace(['.', ':'], "-");
            let label = endpoint.hostname.as_deref().map_or_else(dashes, str::to_ascii_lowercase);
            all.push(HeadlessEndpoint { label, address, ports: ports.clone() });
        }
    }
    all
}

/// The address of a label such as `10-9-0-10` or `fd00--10`.
fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse().ok();
    let v6 = || label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    v4().or_else(v6)
}

/// The address of a name such as `10.0.9.10.in-addr.arpa`; none if it names a range.
fn reversed_address(name: &Name) -> Option<IpAddr> {
    let range = name.parse_arpa_name().ok()?;
    (range.prefix_len() == range.max_prefix_len()).then(|| range.addr())
}

#[cfg(test)]
mod tests;
