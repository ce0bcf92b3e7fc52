//! `bowline net explain`: what will happen to a connection or a datagram from a pod to an address.
//!
//! Guarantees: the way is told from the node's maps and the kernel's tables. Only why other
//! endpoints of the service are not among the candidates is asked of the API, and said to be; an
//! API that is away costs that, nothing else. Nothing is sent without `--run`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bowline_agent::datapath::{Client, Explanation, NodePlace, Outcome, Question, Snapshot};
use bowline_agent::datapath::{Step, explain};
use bowline_agent::{CONDITION_FILE, NAMES_FILE};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use super::diff::is_an_agent_at_work;
use super::probe::{self, Tried};
use crate::output::{self, Format, Table};
use crate::verbs;

/// How long the API may take to say why endpoints are left out.
const API_PATIENCE: Duration = Duration::from_secs(3);

/// Names a service's slices (KEP-752).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

const DEFAULT_NAMESPACE: &str = "default";

/// Who, and where to.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net explain web nifty-svc --node node1
  bowline net explain default/web 10.9.8.7:80 --node node1 --run
  bowline net explain node kube-system/kube-dns:53 --udp -o json
  bowline net explain 10.240.0.2 192.0.2.1:443 --node node1

Exit status: 0 if it gets on its way, 1 if it is refused or something is wrong, 2 if that could not
be found out.")]
pub(super) struct Args {
    /// A pod of the node, as NAME, NAMESPACE/NAME or address; or `node` for a process of the node
    from: String,
    /// A service or a pod, as NAME or NAMESPACE/NAME, or an address; with :PORT
    to: String,
    /// A datagram instead of a TCP connection
    #[arg(long)]
    udp: bool,
    /// Also try it: connect from the client's network namespace, and say where that came to
    #[arg(long)]
    run: bool,
    /// With --bpffs: the node's network namespace [default: this one]
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
}

/// Where to look.
pub(super) struct Node<'a> {
    pub(super) bpffs: &'a Path,
    pub(super) run_dir: &'a Path,
    /// Of a local cluster.
    pub(super) netns: Option<PathBuf>,
    /// Where the API is, and the node's name there.
    pub(super) api: Option<(String, PathBuf)>,
}

/// What is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    #[serde(flatten)]
    told: Explanation,
    /// Endpoints of the service that are no candidates, and why, by the API.
    left_out: Vec<LeftOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tried: Option<Tried>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct LeftOut {
    endpoint: String,
    why: String,
}

/// Prints what will happen; says whether it gets on its way.
pub(super) fn run(args: &Args, node: Node<'_>, format: Format) -> anyhow::Result<bool> {
    let [names_file, condition_file] =
        [NAMES_FILE, CONDITION_FILE].map(|name| node.run_dir.join(name));
    let snapshot = Snapshot::read(node.bpffs)
        .with_context(|| is_an_agent_at_work(node.bpffs))?
        .with_names(&names_file);
    let (from, to) = ends(args, &snapshot)?;
    let place = NodePlace {
        bpffs: node.bpffs.to_path_buf(),
        netns: args.netns.clone().or(node.netns),
        names_file,
        condition_file,
    };
    let mut told = explain(&place, &Question { from, to, udp: args.udp })?;
    let left_out = match (&told.service, &node.api) {
        (Some(service), Some((name, kubeconfig))) => {
            crate::wait(left_out(kubeconfig, service, name, &told.candidates))
        }
        _ => Ok(Vec::new()),
    };
    let left_out = match left_out {
        Ok(left_out) => left_out,
        Err(error) => {
            let what = "why endpoints are left out is not known: the API says nothing";
            tracing::warn!("{what}: {error:#}");
            Vec::new()
        }
    };
    let forgotten = left_out.iter().filter(|out| out.why.starts_with(FORGOTTEN));
    for out in forgotten {
        told.faults.push(format!("API: {}: {}", out.endpoint, out.why));
        told.outcome = Outcome::Broken;
    }
    let tried = match args.run {
        true => Some(probe::run(&told, args.udp)?),
        false => None,
    };
    let sent = told.outcome == Outcome::Sent && tried.as_ref().is_none_or(Tried::went_well);
    let told = Told { told, left_out, tried };
    output::unless_unread(print(&told, format))?;
    Ok(sent)
}

fn print(told: &Told, format: Format) -> anyhow::Result<()> {
    if format != Format::Table {
        return output::document(told, format);
    }
    let mut table = Table::new(["step", "at", "looks up", "finds"]);
    let mut row = |number: String, at: &str, looks_up: &str, finds: &str| {
        table.row([number, at.to_owned(), looks_up.to_owned(), finds.to_owned()]);
    };
    for (number, Step { at, looks_up, finds, fault }) in (1..).zip(&told.told.steps) {
        let mark = if *fault { " !" } else { "" };
        row(format!("{number}{mark}"), at, looks_up, finds);
    }
    for LeftOut { endpoint, why } in &told.left_out {
        row("-".to_owned(), "API", endpoint, &format!("no candidate: {why}"));
    }
    if let Some(tried) = &told.tried {
        row("-".to_owned(), "tried", &told.told.to.to_string(), &tried.to_string());
    }
    table.print()?;
    Ok(output::text(&verdict(&told.told))?)
}

fn verdict(told: &Explanation) -> String {
    let (to, protocol) = (told.to, told.protocol);
    match told.outcome {
        Outcome::Sent => {
            let whom = match (&told.service, told.candidates.len()) {
                (None, _) => "itself".to_owned(),
                (Some(_), 1) => "its only backend".to_owned(),
                (Some(_), count) => format!("one of {count} backends"),
            };
            format!("\nsent: {to}/{protocol} gets to {whom}\n")
        }
        Outcome::Refused => {
            let why = told.steps.last().map_or("", |step| step.finds.as_str());
            format!("\nrefused: {to}/{protocol}: {why}\n")
        }
        Outcome::Broken => {
            let faults: String = told.faults.iter().map(|fault| format!("  {fault}\n")).collect();
            format!("\nbroken: {to}/{protocol}:\n{faults}")
        }
    }
}

/// Both ends, by what the node knows.
fn ends(args: &Args, snapshot: &Snapshot) -> anyhow::Result<(Client, SocketAddr)> {
    let (client, namespace) = clients(&args.from, snapshot)?;
    let to = destination(&args.to, namespace.as_deref(), args.udp, snapshot)?;
    let Some(addresses) = client else { return Ok((Client::Node, to)) };
    let same = addresses.iter().find(|address| address.is_ipv4() == to.is_ipv4());
    match same {
        Some(address) => Ok((Client::Pod(*address), to)),
        None => bail!("{} has no address of the family of {to}", args.from),
    }
}

/// The client's addresses, none for the node itself; and its namespace.
type Clients = (Option<Vec<IpAddr>>, Option<String>);

fn clients(text: &str, snapshot: &Snapshot) -> anyhow::Result<Clients> {
    if text == "node" {
        return Ok((None, None));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let row = snapshot.pods.iter().find(|row| row.address == address);
        let namespace = row.and_then(|row| row.namespace.clone());
        return Ok((Some(vec![address]), namespace));
    }
    let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
    let is = |row: &&bowline_agent::datapath::PodRow| {
        row.namespace.as_deref() == Some(namespace) && row.name.as_deref() == Some(name)
    };
    let addresses: Vec<IpAddr> = snapshot.pods.iter().filter(is).map(|row| row.address).collect();
    if addresses.is_empty() {
        let known: BTreeSet<String> = snapshot
            .pods
            .iter()
            .filter_map(|row| Some(format!("{}/{}", row.namespace.as_ref()?, row.name.as_ref()?)))
            .collect();
        bail!("this node has no pod {namespace}/{name}{}", nearest(text, namespace, &known));
    }
    Ok((Some(addresses), Some(namespace.to_owned())))
}

fn nearest(text: &str, namespace: &str, known: &BTreeSet<String>) -> String {
    let wanted = if text.contains('/') { text.to_owned() } else { format!("{namespace}/{text}") };
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    output::nearest(&wanted, &known)
}

fn destination(
    text: &str,
    namespace: Option<&str>,
    udp: bool,
    snapshot: &Snapshot,
) -> anyhow::Result<SocketAddr> {
    if let Ok(end) = text.parse::<SocketAddr>() {
        return Ok(end);
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
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
        let pods = snapshot.pods.iter().filter_map(|row| {
            Some((format!("{}/{}", row.namespace.as_ref()?, row.name.as_ref()?), row.address))
        });
        let backends =
            snapshot.backends.iter().filter_map(|row| Some((row.target.clone()?, row.address)));
        for (row_name, address) in pods.chain(backends) {
            if row_name == full {
                found.insert(address);
            }
            known.insert(row_name);
        }
    }
    match found.first() {
        Some(address) => Ok(*address),
        None => bail!(
            "this node knows no service and no pod {full}{}",
            nearest(&full, namespace, &known)
        ),
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

/// The API and the maps disagree.
const FORGOTTEN: &str = "it is ready, yet not in the maps";

/// Endpoints of a service that are no candidates here, and why, by the API.
async fn left_out(
    kubeconfig: &Path,
    service: &str,
    node: &str,
    candidates: &[SocketAddr],
) -> anyhow::Result<Vec<LeftOut>> {
    let asked = async {
        let client = verbs::client::connect_file(kubeconfig).await?.client;
        let (namespace, name) = service.split_once('/').unwrap_or((DEFAULT_NAMESPACE, service));
        let object = Api::<Service>::namespaced(client.clone(), namespace).get(name).await?;
        let labelled = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
        let slices = Api::<EndpointSlice>::namespaced(client, namespace).list(&labelled).await?;
        anyhow::Ok((object, slices.items))
    };
    let (object, slices) = tokio::time::timeout(API_PATIENCE, asked)
        .await
        .with_context(|| format!("no answer within {} s", API_PATIENCE.as_secs()))??;
    let candidates: BTreeSet<IpAddr> = candidates.iter().map(SocketAddr::ip).collect();
    let family = candidates.first().map(IpAddr::is_ipv4);
    let mut found = Vec::new();
    for slice in &slices {
        if family.is_some_and(|v4| (slice.address_type == "IPv4") != v4) {
            continue;
        }
        for endpoint in slice.endpoints.iter().flatten() {
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
            for address in addresses.filter(|address| !candidates.contains(address)) {
                let target = endpoint.target_ref.as_ref().and_then(|it| it.name.clone());
                let name = target.map_or_else(String::new, |name| format!(" {name}"));
                let why = why_not(&object, endpoint, node, !candidates.is_empty());
                found.push(LeftOut { endpoint: format!("{address}{name}"), why });
            }
        }
    }
    found.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    found.dedup();
    Ok(found)
}

/// Why an endpoint takes no new connection of this node.
fn why_not(service: &Service, endpoint: &Endpoint, node: &str, others: bool) -> String {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let spec = service.spec.clone().unwrap_or_default();
    if conditions.ready == Some(false) {
        let serving = conditions.serving.unwrap_or(false);
        return match (conditions.terminating.unwrap_or(false), serving) {
            (true, true) if others => "it terminates, and others are ready".to_owned(),
            (true, _) => "it terminates".to_owned(),
            (false, _) => "it is not ready".to_owned(),
        };
    }
    let elsewhere = endpoint.node_name.as_deref().filter(|name| *name != node);
    if spec.internal_traffic_policy.as_deref() == Some("Local")
        && let Some(elsewhere) = elsewhere
    {
        return format!("it is on {elsewhere}, and internalTrafficPolicy is Local");
    }
    let hints = endpoint.hints.clone().unwrap_or_default();
    let zones: Vec<String> =
        hints.for_zones.into_iter().flatten().map(|zone| format!("zone {}", zone.name)).collect();
    if others && !zones.is_empty() {
        return format!("its hints are for {}", zones.join(", "));
    }
    if others && let Some(distribution) = &spec.traffic_distribution {
        return format!("others are nearer (trafficDistribution {distribution})");
    }
    FORGOTTEN.to_owned()
}

#[cfg(test)]
mod tests {
    use bowline_agent::datapath::{BackendRow, PodRow, ServiceRow};
    use serde_json::json;

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
        };
        let pod = PodRow {
            namespace: Some("shop".to_owned()),
            name: Some("web".to_owned()),
            uid: None,
            address: "10.240.0.2".parse().unwrap(),
            ifindex: 7,
            mac: String::new(),
            netns: None,
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
    fn clients_are_pods_of_the_node_or_the_node() {
        let snapshot = snapshot();
        assert_eq!(clients("node", &snapshot).unwrap(), (None, None));
        let web = Some(vec!["10.240.0.2".parse().unwrap()]);
        for text in ["shop/web", "10.240.0.2"] {
            let namespace = Some("shop".to_owned());
            assert_eq!(clients(text, &snapshot).unwrap(), (web.clone(), namespace), "{text}");
        }
        let error = clients("shop/wep", &snapshot).unwrap_err().to_string();
        assert_eq!(error, "this node has no pod shop/wep: did you mean shop/web?");
    }

    #[test]
    fn an_endpoint_is_left_out_for_a_reason() {
        let service = |spec| serde_json::from_value(json!({ "spec": spec })).unwrap();
        let endpoint = |mut value: serde_json::Value| {
            value["addresses"] = json!(["10.240.1.3"]);
            serde_json::from_value(value).unwrap()
        };
        let plain = json!({});
        let gone = json!({ "ready": false, "serving": true, "terminating": true });
        let far = json!({ "nodeName": "node2" });
        let hinted = json!({ "hints": { "forZones": [{ "name": "b" }] } });
        let local = json!({ "internalTrafficPolicy": "Local" });
        for (spec, of, others, why) in [
            (&plain, json!({ "conditions": { "ready": false } }), true, "it is not ready"),
            (&plain, json!({ "conditions": gone }), true, "it terminates, and others are ready"),
            (&local, far, true, "it is on node2, and internalTrafficPolicy is Local"),
            (&plain, hinted, true, "its hints are for zone b"),
            (&plain, json!({ "conditions": { "ready": true } }), true, FORGOTTEN),
        ] {
            let found = why_not(&service(spec.clone()), &endpoint(of), "node1", others);
            assert_eq!(found, why);
        }
    }
}
