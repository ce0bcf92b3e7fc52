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

use super::ends;
use super::probe::{self, Tried};
use super::{DiffArgs, LOCAL};
use crate::output::{self, Format, Table};
use crate::verbs;

/// How long an endpoint may be on its way from the API to the maps.
const SETTLE: Duration = Duration::from_millis(500);

/// How long the API may take to say why endpoints are left out.
const API_PATIENCE: Duration = Duration::from_secs(3);

/// Names a service's slices (KEP-752).
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Who, and where to.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline net explain web nifty-svc --node node1
  bowline net explain default/web 10.9.8.7:80 --node node1 --run
  bowline net explain node kube-system/kube-dns:53 --udp -o json
  bowline net explain 10.240.0.2 192.0.2.1:443 --node node1
  bowline net explain web nifty-svc --bpffs /sys/fs/bpf --node-name worker1 --kubeconfig FILE

Exit status: 0 if it gets on its way, 1 if it is refused, something is wrong or the connection of
--run failed, 2 if that could not be found out.")]
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
    /// With --bpffs: the node's network namespace [default: that of the agent]
    #[arg(long, value_name = "PATH", requires = "bpffs", conflicts_with_all = LOCAL)]
    netns: Option<PathBuf>,
    /// Why endpoints are no candidates is asked there
    #[command(flatten)]
    api: DiffArgs,
}

impl Args {
    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// The node's network namespace, if it is said.
    pub(super) fn netns(&self) -> Option<&Path> {
        self.netns.as_deref()
    }

    /// For the node that answers.
    pub(super) fn through_agent(self) -> Self {
        Self { netns: None, api: DiffArgs::default(), ..self }
    }

    /// The node's name and where the API is that knows it, if they are named.
    pub(super) fn api(&self, kubeconfig: Option<&Path>) -> anyhow::Result<Option<Named>> {
        match (&self.api.node_name, kubeconfig) {
            (Some(node), Some(kubeconfig)) => Ok(Some((node.clone(), kubeconfig.to_path_buf()))),
            (None, None) => Ok(None),
            (None, Some(_)) => bail!("--kubeconfig needs --node-name as well"),
            (Some(_), None) => bail!("--node-name needs --kubeconfig as well"),
        }
    }
}

/// A node's name, and the kubeconfig of the API that knows it.
type Named = (String, PathBuf);

/// Where to look.
pub(super) struct Node<'a> {
    pub(super) bpffs: &'a Path,
    pub(super) run_dir: &'a Path,
    /// Its network namespace, if it is not this process's.
    pub(super) netns: Option<PathBuf>,
    /// Where the API is, and the node's name there.
    pub(super) api: Option<Named>,
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
    /// How it leaves for somewhere that the maps do not know.
    #[serde(skip)]
    leaves: Option<String>,
    /// What is to be said of what was tried, where it is not as foretold or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    came_of_it: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct LeftOut {
    endpoint: String,
    why: String,
}

/// Prints what will happen; says whether it gets on its way.
pub(super) fn run(
    args: &Args,
    node: &Node<'_>,
    numeric: bool,
    format: Format,
) -> anyhow::Result<bool> {
    let [names_file, condition_file] =
        [NAMES_FILE, CONDITION_FILE].map(|name| node.run_dir.join(name));
    let snapshot = Snapshot::read(node.bpffs)?.with_names(&names_file);
    let (from, to) = ends(args, &snapshot)?;
    let place = NodePlace {
        bpffs: node.bpffs.to_path_buf(),
        netns: node.netns.clone(),
        names_file,
        condition_file,
    };
    let question = Question { from, to, udp: args.udp, numeric };
    let mut told = explain(&place, &question)?;
    let mut left_out = of_api(&told, node, numeric);
    if left_out.as_ref().is_ok_and(|all| all.iter().any(LeftOut::is_forgotten)) {
        // It may have become ready a moment ago.
        std::thread::sleep(SETTLE);
        told = explain(&place, &question)?;
        left_out = of_api(&told, node, numeric);
    }
    let left_out = match left_out {
        Ok(left_out) => left_out,
        Err(error) => {
            let what = "why endpoints are left out is not known: the API says nothing";
            tracing::warn!("{what}: {error:#}");
            Vec::new()
        }
    };
    for out in left_out.iter().filter(|out| out.is_forgotten()) {
        told.faults.push(format!("API: {}: {}", out.endpoint, out.why));
        told.outcome = Outcome::Broken;
    }
    let tried = match args.run {
        true => Some(probe::run(&told, &question)?),
        false => None,
    };
    let foretold = told.outcome;
    if let Some(end) = tried.as_ref().and_then(Tried::backend) {
        let fault = match told.kept {
            _ if !told.candidates.contains(&end) => "which is no candidate",
            Some(kept) if kept != end => "and the client stays with another",
            _ => "",
        };
        if !fault.is_empty() {
            told.faults.push(format!("tried: it came to {end}, {fault}"));
            told.outcome = Outcome::Broken;
        }
    }
    let leaves = leaves(&told, &snapshot);
    let came_of_it = tried.as_ref().and_then(|it| judge(&mut told, it, foretold, leaves.is_some()));
    if numeric {
        told.service = None;
    }
    let sent = told.outcome == Outcome::Sent;
    let told = Told { told, left_out, tried, leaves, came_of_it };
    output::unless_unread(print(&told, format))?;
    Ok(sent)
}

impl LeftOut {
    /// Without the name of an object.
    fn numeric(mut self) -> Self {
        self.endpoint = self.endpoint.split(' ').next().unwrap_or_default().to_owned();
        if self.why.starts_with("it is on ") {
            "it is on another node, and internalTrafficPolicy is Local".clone_into(&mut self.why);
        }
        self
    }

    fn is_forgotten(&self) -> bool {
        self.why == FORGOTTEN
    }
}

/// Endpoints that are no candidates, as far as there is an API to ask.
fn of_api(told: &Explanation, node: &Node<'_>, numeric: bool) -> anyhow::Result<Vec<LeftOut>> {
    match (&told.service, &node.api) {
        (Some(service), Some((name, kubeconfig))) => {
            let found = crate::wait(left_out(kubeconfig, service, name, told))?;
            Ok(if numeric { found.into_iter().map(LeftOut::numeric).collect() } else { found })
        }
        _ => Ok(Vec::new()),
    }
}

fn print(told: &Told, format: Format) -> anyhow::Result<()> {
    if !format.is_table() {
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
    output::text(&verdict(told))?;
    if let Some(text) = &told.came_of_it {
        output::text(&format!("\n{text}\n"))?;
    }
    let candidates: Vec<String> = told.told.candidates.iter().map(ToString::to_string).collect();
    if format == Format::Wide && !candidates.is_empty() {
        output::line(&format!("candidates: {}", candidates.join(", ")))?;
    }
    Ok(())
}

/// The link, and the gateway if there is one, to what is no pod, service or node.
fn leaves(told: &Explanation, snapshot: &Snapshot) -> Option<String> {
    let to = told.to.ip();
    let is_known = told.service.is_some()
        || snapshot.pods.iter().any(|pod| pod.address == to)
        || snapshot.routes.iter().any(|route| route.node == to)
        || snapshot.node_of(to).is_some();
    let step = told.steps.iter().rfind(|step| step.at == "kernel routes")?;
    // It has a link's size in brackets; the node itself has none.
    let (link, more) = step.finds.split_once(" (")?;
    let gateway = more.split_once(')').map_or("", |(_, gateway)| gateway);
    (!is_known).then(|| format!("{link}{gateway}"))
}

/// What a real connection says of what was foretold, in words; nothing if it only confirms it.
/// `leaves`: it is for somewhere that the maps do not know.
fn judge(told: &mut Explanation, tried: &Tried, foretold: Outcome, leaves: bool) -> Option<String> {
    let (to, protocol) = (told.to, &told.protocol);
    let Some(error) = tried.error() else {
        return match foretold {
            Outcome::Sent => None,
            // Nothing was sent by a datagram socket, so that only its call was not refused.
            _ if protocol == "UDP" => None,
            Outcome::Refused => {
                told.faults.push("tried: it was connected, and should be refused".to_owned());
                told.outcome = Outcome::Broken;
                Some(format!(
                    "connected: {to}/{protocol}: this contradicts the above, by which it is refused"
                ))
            }
            Outcome::Broken => {
                Some(format!("connected: {to}/{protocol}: in spite of what is broken"))
            }
        };
    };
    let why = match (foretold, leaves) {
        (Outcome::Sent, true) => "it gets lost or refused beyond what is known here",
        (Outcome::Sent, false) => "this contradicts the above, where nothing stands in its way",
        _ => "as foretold",
    };
    let text = format!("failed: {to}/{protocol}: {error}: {why}");
    if foretold == Outcome::Sent {
        told.faults.push(format!("tried: {error}: {why}"));
        told.outcome = Outcome::Broken;
    }
    Some(text)
}

fn verdict(told: &Told) -> String {
    let (leaves, is_tried, told) = (&told.leaves, told.tried.is_some(), &told.told);
    let (to, protocol) = (told.to, &told.protocol);
    match (&told.outcome, leaves) {
        (Outcome::Sent, Some(way)) => {
            let rest = "; what comes of it there is not known here: `bowline net trace`";
            let rest = if is_tried { "" } else { rest };
            format!("\nsent to {to}/{protocol} by {way}{rest}\n")
        }
        (Outcome::Sent, None) => {
            let whom = match &told.candidates[..] {
                [end] if *end == to => "itself".to_owned(),
                _ if told.kept.is_some() => "the backend that its client stays with".to_owned(),
                [_] => "its only backend".to_owned(),
                ends => format!("one of {} backends", ends.len()),
            };
            format!("\nsent: {to}/{protocol} gets to {whom}\n")
        }
        (Outcome::Refused, _) => {
            let why = told.steps.last().map_or("", |step| step.finds.as_str());
            format!("\nrefused: {to}/{protocol}: {why}\n")
        }
        (Outcome::Broken, _) => {
            let faults: String = told.faults.iter().map(|fault| format!("  {fault}\n")).collect();
            format!("\nbroken: {to}/{protocol}:\n{faults}")
        }
    }
}

/// Both ends, by what the node knows.
fn ends(args: &Args, snapshot: &Snapshot) -> anyhow::Result<(Client, SocketAddr)> {
    let (client, namespace) = ends::clients(&args.from, snapshot)?;
    let to = ends::destination(&args.to, namespace.as_deref(), args.udp, snapshot)?;
    Ok((ends::client(&args.from, client, to)?, to))
}

/// The API and the maps disagree.
const FORGOTTEN: &str = "it is ready, yet not in the maps";

/// Endpoints of a service that are no candidates here, and why, by the API.
async fn left_out(
    kubeconfig: &Path,
    service: &str,
    node: &str,
    told: &Explanation,
) -> anyhow::Result<Vec<LeftOut>> {
    let asked = async {
        let client = verbs::client::connect_file(kubeconfig).await?.client;
        let (namespace, name) =
            service.split_once('/').unwrap_or((ends::DEFAULT_NAMESPACE, service));
        let object = Api::<Service>::namespaced(client.clone(), namespace).get(name).await?;
        let labelled = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
        let slices = Api::<EndpointSlice>::namespaced(client, namespace).list(&labelled).await?;
        anyhow::Ok((object, slices.items))
    };
    let (object, slices) = tokio::time::timeout(API_PATIENCE, asked)
        .await
        .with_context(|| format!("no answer within {} s", API_PATIENCE.as_secs()))??;
    let candidates: BTreeSet<IpAddr> = told.candidates.iter().map(SocketAddr::ip).collect();
    let port_name = port_name(&object, told);
    let has_port = |slice: &EndpointSlice| {
        let mut ports = slice.ports.iter().flatten();
        ports.any(|port| port.name.as_deref().unwrap_or_default() == port_name)
    };
    let mut found = Vec::new();
    for slice in &slices {
        if (slice.address_type == "IPv4") != told.to.is_ipv4() || !has_port(slice) {
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

/// The name of the service's port that is asked for, which endpoint slices know it by.
fn port_name(service: &Service, told: &Explanation) -> String {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut asked = ports.filter(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        port.port == i32::from(told.to.port()) && protocol == told.protocol
    });
    asked.next().and_then(|port| port.name.clone()).unwrap_or_default()
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
    use bowline_agent::datapath::RouteRow;
    use serde_json::json;

    use super::*;

    /// Told of a way to elsewhere, or to the node itself.
    fn told(finds: &str) -> Explanation {
        Explanation {
            client: "the node".to_owned(),
            to: "192.0.2.1:443".parse().unwrap(),
            protocol: "TCP".to_owned(),
            service: None,
            candidates: vec!["192.0.2.1:443".parse().unwrap()],
            kept: None,
            steps: vec![Step {
                at: "kernel routes".to_owned(),
                looks_up: "192.0.2.1".to_owned(),
                finds: finds.to_owned(),
                fault: false,
            }],
            outcome: Outcome::Sent,
            faults: Vec::new(),
            netns: None,
            socket_cgroup: None,
        }
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        let told = Explanation { outcome: Outcome::Broken, ..told("the node itself") };
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), told);
    }

    #[test]
    fn what_came_of_a_connection_is_held_against_what_was_foretold() {
        let tried = |error: Option<&str>| -> Tried {
            serde_json::from_value(json!({ "error": error, "microseconds": 1 })).unwrap()
        };
        for (foretold, error, leaves, outcome, words) in [
            (Outcome::Sent, None, false, Outcome::Sent, None),
            (Outcome::Sent, Some("timed out"), false, Outcome::Broken, Some("contradicts")),
            (Outcome::Sent, Some("timed out"), true, Outcome::Broken, Some("beyond what")),
            (Outcome::Refused, Some("no"), false, Outcome::Refused, Some("no: as foretold")),
            (Outcome::Refused, None, false, Outcome::Broken, Some("this contradicts the above")),
            (Outcome::Broken, None, false, Outcome::Broken, Some("in spite of what is broken")),
        ] {
            let mut told = Explanation { outcome: foretold, ..told("the node itself") };
            let text = judge(&mut told, &tried(error), foretold, leaves);
            assert_eq!(told.outcome, outcome, "{foretold:?} {error:?}");
            let is_said = match (&text, words) {
                (Some(text), Some(words)) => {
                    text.contains(words) && error.is_none_or(|it| text.contains(it))
                }
                (None, None) => true,
                _ => false,
            };
            assert!(is_said, "{foretold:?} {error:?}: {text:?}");
        }
        let mut datagram = Explanation { protocol: "UDP".to_owned(), ..told("") };
        assert_eq!(judge(&mut datagram, &tried(None), Outcome::Refused, false), None);
    }

    #[test]
    fn what_leaves_for_elsewhere_is_not_said_to_arrive() {
        let words = |told: Explanation, snapshot: &Snapshot| {
            let leaves = leaves(&told, snapshot);
            let came_of_it = None;
            verdict(&Told { told, left_out: Vec::new(), tried: None, leaves, came_of_it })
        };
        let nobodys = Snapshot::default();
        let text = words(told("eth0 (mtu 1500) via 172.30.0.1"), &nobodys);
        let sent = "\nsent to 192.0.2.1:443/TCP by eth0 via 172.30.0.1; what comes of it";
        assert!(text.starts_with(sent), "{text}");
        let to_itself = "\nsent: 192.0.2.1:443/TCP gets to itself\n";
        assert_eq!(words(told("the node itself"), &nobodys), to_itself);
        let route = RouteRow {
            cidr: "192.0.2.0/24".parse().unwrap(),
            node: "172.30.0.12".parse().unwrap(),
            ifindex: 2,
            tunnel: false,
        };
        let nodes = Snapshot { routes: vec![route], ..Snapshot::default() };
        assert_eq!(words(told("eth0 (mtu 1500)"), &nodes), to_itself);
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
