//! Pods and services as people name them, found among what a node knows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use bowline_agent::datapath::{Client, LostPod, PodRow, Snapshot};
use thiserror::Error;

use crate::output;

pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// The client's addresses, none for the node itself; and its namespace.
pub(super) type Clients = (Option<Vec<IpAddr>>, Option<String>);

/// A name, with its namespace, that stands for nothing that the node knows; and what it may have
/// been meant for, as the end of a line.
#[derive(Debug, Error)]
pub(super) enum NoSuch {
    #[error("this node has no pod {name}{nearest}")]
    Pod { name: String, nearest: String },
    #[error("this node knows no service and no pod {name}{nearest}")]
    End { name: String, nearest: String },
    #[error("this node knows no service {name}{nearest}")]
    Service { name: String, nearest: String },
}

pub(super) fn clients(text: &str, snapshot: &Snapshot) -> anyhow::Result<Clients> {
    if text == "node" {
        return Ok((None, None));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let row = snapshot.pods.iter().find(|row| row.address == address);
        let lost = snapshot.lost_pods.iter().find(|pod| pod.address == address);
        let namespace = row.and_then(|row| row.namespace.clone());
        let namespace = namespace.or_else(|| lost.map(|pod| pod.namespace.clone()));
        return Ok((Some(vec![address]), namespace));
    }
    let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
    let name = format!("{namespace}/{name}");
    let own = pods(snapshot).filter(|(own, _)| *own == name);
    let addresses: Vec<IpAddr> = own.map(|(_, address)| address).collect();
    if addresses.is_empty() {
        let known: BTreeSet<String> = pods(snapshot).map(|(name, _)| name).collect();
        let nearest = nearest(text, namespace, &known);
        return Err(NoSuch::Pod { name, nearest }.into());
    }
    Ok((Some(addresses), Some(namespace.to_owned())))
}

/// `namespace/name` and address of the node's pods, of those too that PODS has lost.
fn pods(snapshot: &Snapshot) -> impl Iterator<Item = (String, IpAddr)> + '_ {
    let named = |row: &PodRow| {
        let name = format!("{}/{}", row.namespace.as_ref()?, row.name.as_ref()?);
        Some((name, row.address))
    };
    let lost = |pod: &LostPod| (format!("{}/{}", pod.namespace, pod.name), pod.address);
    snapshot.pods.iter().filter_map(named).chain(snapshot.lost_pods.iter().map(lost))
}

fn nearest(text: &str, namespace: &str, known: &BTreeSet<String>) -> String {
    let wanted = if text.contains('/') { text.to_owned() } else { format!("{namespace}/{text}") };
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    output::nearest(&wanted, &known)
}

/// The client by its address of the destination's family.
pub(super) fn client(
    text: &str,
    addresses: Option<Vec<IpAddr>>,
    to: SocketAddr,
) -> anyhow::Result<Client> {
    let Some(addresses) = addresses else { return Ok(Client::Node) };
    match addresses.iter().find(|address| address.is_ipv4() == to.is_ipv4()) {
        Some(address) => Ok(Client::Pod(*address)),
        None => bail!("{text} has no address of the family of {}", to.ip()),
    }
}

/// The destination of what has no ports.
pub(super) fn address(
    text: &str,
    namespace: Option<&str>,
    snapshot: &Snapshot,
) -> anyhow::Result<IpAddr> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    if text.contains(':') {
        bail!("an echo request has no port: leave it out of {text}");
    }
    let (namespace, name) =
        text.split_once('/').unwrap_or((namespace.unwrap_or(DEFAULT_NAMESPACE), text));
    address_of(namespace, name, snapshot)
}

pub(super) fn destination(
    text: &str,
    namespace: Option<&str>,
    udp: bool,
    snapshot: &Snapshot,
) -> anyhow::Result<SocketAddr> {
    if let Ok(end) = text.parse::<SocketAddr>() {
        return Ok(SocketAddr::new(end.ip().to_canonical(), end.port()));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok(SocketAddr::new(address, only_port(text, address, udp, snapshot)?));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => {
            let port = port.parse().with_context(|| {
                format!("port {port} of {text} is no number: maps hold numbers, no names of ports")
            })?;
            (name, Some(port))
        }
        None => (text, None),
    };
    let (namespace, name) =
        name.split_once('/').unwrap_or((namespace.unwrap_or(DEFAULT_NAMESPACE), name));
    let address = address_of(namespace, name, snapshot)?;
    let port = match port {
        Some(port) => port,
        None => only_port(text, address, udp, snapshot)?,
    };
    Ok(SocketAddr::new(address, port))
}

/// The address and port of what can be a service only.
pub(super) fn service(text: &str, udp: bool, snapshot: &Snapshot) -> anyhow::Result<SocketAddr> {
    let known = Snapshot { services: snapshot.services.clone(), ..Snapshot::default() };
    let found = destination(text, None, udp, &known);
    found.map_err(|error| match error.downcast::<NoSuch>() {
        Ok(NoSuch::End { name, nearest }) => NoSuch::Service { name, nearest }.into(),
        Ok(other) => other.into(),
        Err(other) => other,
    })
}

/// The address of a service or else of a pod, IPv4 first.
fn address_of(namespace: &str, name: &str, snapshot: &Snapshot) -> anyhow::Result<IpAddr> {
    let full = format!("{namespace}/{name}");
    let mut known = BTreeSet::new();
    let mut found = BTreeSet::new();
    for row in &snapshot.services {
        let (Some(namespace), Some(name)) = (&row.namespace, &row.name) else { continue };
        let row_name = format!("{namespace}/{name}");
        if row_name == full {
            found.insert(row.address);
        }
        known.insert(row_name);
    }
    if found.is_empty() {
        let backends =
            snapshot.backends.iter().filter_map(|row| Some((row.target.clone()?, row.address)));
        for (row_name, address) in pods(snapshot).chain(backends) {
            if row_name == full {
                found.insert(address);
            }
            known.insert(row_name);
        }
    }
    match found.first() {
        Some(address) => Ok(*address),
        None => {
            let nearest = nearest(&full, namespace, &known);
            Err(NoSuch::End { name: full, nearest }.into())
        }
    }
}

/// The port of a service that has one only.
fn only_port(text: &str, address: IpAddr, udp: bool, snapshot: &Snapshot) -> anyhow::Result<u16> {
    let protocol = if udp { "UDP" } else { "TCP" };
    let of_it = snapshot.services.iter().filter(|row| row.address == address);
    let ports: Vec<u16> =
        of_it.filter(|row| row.protocol == protocol).map(|row| row.port).collect();
    match ports[..] {
        [port] => Ok(port),
        [] => bail!("{text} needs a port: {text}:PORT"),
        _ => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            bail!(
                "{text} has several {protocol} ports, {}: choose one with :PORT",
                ports.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_agent::datapath::{BackendRow, ServiceRow};

    use super::*;

    fn snapshot() -> Snapshot {
        let service = |name: &str, address: &str, port| ServiceRow {
            id: 1,
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            address: address.parse().unwrap(),
            port,
            protocol: "TCP",
            backends: 1,
            connections: 0,
            refused: 0,
            packets: 0,
            bytes: 0,
            first_slot: 0,
            slots: 1,
            affinity_seconds: None,
            line: None,
        };
        let pod = PodRow {
            namespace: Some("shop".to_owned()),
            name: Some("web".to_owned()),
            uid: None,
            address: "10.240.0.2".parse().unwrap(),
            ifindex: 7,
            mac: String::new(),
            netns: None,
            has_flows: false,
        };
        let backend = BackendRow {
            service: None,
            service_address: "10.9.8.7".parse().unwrap(),
            service_port: 80,
            protocol: "TCP",
            id: 1,
            address: "10.240.1.3".parse().unwrap(),
            port: 9376,
            target: Some("default/nifty-1".to_owned()),
            slot: 0,
            state: "active",
        };
        Snapshot {
            services: vec![
                service("nifty-svc", "10.9.8.7", 80),
                service("two", "10.9.8.8", 80),
                service("two", "10.9.8.8", 81),
            ],
            pods: vec![pod],
            backends: vec![backend],
            ..Snapshot::default()
        }
    }

    #[test]
    fn destinations_are_found_by_name_and_by_address() {
        let snapshot = snapshot();
        let found = |text: &str| destination(text, Some("default"), false, &snapshot);
        for (text, end) in [
            ("10.9.8.7:8080", "10.9.8.7:8080"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("10.9.8.7", "10.9.8.7:80"),
            ("nifty-svc", "10.9.8.7:80"),
            ("default/nifty-svc:90", "10.9.8.7:90"),
            ("nifty-1:9376", "10.240.1.3:9376"),
            ("shop/web:80", "10.240.0.2:80"),
        ] {
            assert_eq!(found(text).unwrap(), end.parse().unwrap(), "{text}");
        }
        for (text, error) in [
            ("nifty", "this node knows no service and no pod default/nifty: did you mean"),
            ("two", "two has several TCP ports, 80, 81: choose one with :PORT"),
            ("10.9.8.9", "10.9.8.9 needs a port: 10.9.8.9:PORT"),
            ("nifty-svc:http", "port http of nifty-svc:http is no number"),
        ] {
            let found = found(text).unwrap_err().to_string();
            assert!(found.starts_with(error), "{text}: {found}");
        }
    }

    #[test]
    fn what_has_no_ports_goes_to_an_address() {
        let snapshot = snapshot();
        let found = |text: &str| address(text, Some("shop"), &snapshot);
        for (text, address) in [
            ("10.9.8.1", "10.9.8.1"),
            ("[fd00::1]", "fd00::1"),
            ("web", "10.240.0.2"),
            ("default/nifty-svc", "10.9.8.7"),
        ] {
            assert_eq!(found(text).unwrap(), address.parse::<IpAddr>().unwrap(), "{text}");
        }
        for text in ["10.9.8.1:80", "web:80"] {
            let error = found(text).unwrap_err().to_string();
            assert!(error.starts_with("an echo request has no port"), "{error}");
        }
        assert!(found("wep").unwrap_err().to_string().contains("did you mean shop/web"));
    }

    #[test]
    fn clients_are_pods_of_the_node_or_the_node() {
        let snapshot = snapshot();
        assert_eq!(clients("node", &snapshot).unwrap(), (None, None));
        let web = Some(vec!["10.240.0.2".parse().unwrap()]);
        for text in ["shop/web", "10.240.0.2"] {
            let namespace = Some("shop".to_owned());
            assert_eq!(clients(text, &snapshot).unwrap(), (web.clone(), namespace), "{text}");
        }
        let address = "10.240.0.9".parse().unwrap();
        let (namespace, name) = ("shop".to_owned(), "lost".to_owned());
        let lost_pods = vec![LostPod { namespace: namespace.clone(), name, address }];
        let with_lost = Snapshot { lost_pods, ..snapshot.clone() };
        for text in ["shop/lost", "10.240.0.9"] {
            let expected = (Some(vec![address]), Some(namespace.clone()));
            assert_eq!(clients(text, &with_lost).unwrap(), expected, "{text}");
        }
        let end = destination("lost:80", Some("shop"), false, &with_lost).unwrap();
        assert_eq!(end, SocketAddr::new(address, 80));
        let error = clients("shop/wep", &snapshot).unwrap_err().to_string();
        assert_eq!(error, "this node has no pod shop/wep: did you mean shop/web?");
    }

    #[test]
    fn what_can_be_a_service_only_is_no_pod() {
        let snapshot = snapshot();
        for name in ["nope", "shop/web"] {
            let error = service(name, false, &snapshot).unwrap_err().to_string();
            let full = if name == "nope" { "default/nope" } else { name };
            assert!(error.starts_with(&format!("this node knows no service {full}")), "{error}");
            assert!(!error.contains("pod"), "{error}");
        }
    }
}
