//! Tables of the node network plan.

use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus};
use kube::api::ObjectMeta;

use super::*;

const UID: &str = "3f2504e0-4f89-11d3-9a0c-0305e82c3301";
const POD: Ipv4Addr = Ipv4Addr::new(10, 240, 1, 2);
const OWN: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 11);
const OTHER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 12);

fn node(name: &str, range: Option<&str>, address: &str) -> Arc<Node> {
    Arc::new(Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        spec: Some(NodeSpec { pod_cidr: range.map(str::to_owned), ..Default::default() }),
        status: Some(NodeStatus {
            addresses: Some(vec![
                NodeAddress { type_: "Hostname".to_owned(), address: name.to_owned() },
                NodeAddress { type_: "InternalIP".to_owned(), address: address.to_owned() },
            ]),
            ..Default::default()
        }),
    })
}

fn uplink() -> Uplink {
    Uplink { index: 2, name: "eth0".to_owned(), mtu: 1500, address: OWN }
}

fn pod_link() -> LinkSeen {
    let name = "bl3f2504e04f8".to_owned();
    LinkSeen { index: 7, name, mac: None, mtu: 1500, up: true }
}

fn range(text: &str) -> Ipv4Range {
    text.parse().unwrap()
}

fn two_nodes_and_a_pod() -> Desired {
    let nodes = [
        node("node1", Some("10.240.1.0/24"), "172.30.0.11"),
        node("node2", Some("10.240.2.0/24"), "172.30.0.12"),
        node("node3", None, "172.30.0.13"),
    ];
    let link = SandboxLink { uid: UID.to_owned(), link: "bl3f2504e04f8".to_owned(), address: POD };
    desired(&nodes, "node1", &uplink(), vec![link])
}

fn to_node2() -> Route {
    let via = Via::Node { address: OTHER, link: 2 };
    Route { destination: range("10.240.2.0/24"), via, source: None }
}

fn unreachable() -> Route {
    Route { destination: range("10.240.1.0/24"), via: Via::Unreachable, source: None }
}

fn settings(forward: &str, check: &str) -> BTreeMap<&'static str, String> {
    SETTINGS.iter().map(|s| s.name).zip([forward.to_owned(), check.to_owned()]).collect()
}

fn as_it_should_be() -> Observed {
    Observed {
        links: vec![pod_link()],
        routes: [to_node2(), unreachable(), pod_route(7, POD, OWN)].into(),
        neighbours: [(7, POD, pod_mac(POD))].into(),
        dns_address: true,
        settings: settings("1", "0"),
        abandoned: BTreeSet::new(),
        data_plane: Some([(range("10.240.2.0/24"), OTHER)].into()),
    }
}

#[test]
fn nothing_is_done_to_a_node_that_is_as_it_should_be() {
    assert_eq!(plan(&two_nodes_and_a_pod(), &as_it_should_be()), []);
}

#[test]
fn an_empty_node_gets_everything_and_additions_only() {
    let mut wanted = two_nodes_and_a_pod();
    wanted.links.clear();
    let observed = Observed { settings: settings("0", "1"), ..Default::default() };
    let steps = plan(&wanted, &observed);
    assert_eq!(
        steps,
        [
            Step::Set { name: "net/ipv4/ip_forward", value: "1" },
            Step::Set { name: "net/ipv4/conf/all/rp_filter", value: "2" },
            Step::AddDnsAddress,
            Step::PutRoute(unreachable()),
            Step::PutRoute(to_node2()),
            Step::SetDataPlaneRoutes(wanted.remote.clone()),
        ]
    );
}

#[test]
fn one_deviation_one_repair() {
    let restore = Step::RestoreLink { uid: UID.to_owned() };
    let stray = LinkSeen { index: 9, name: "bl00000000000".to_owned(), ..pod_link() };
    let foreign = LinkSeen { index: 3, name: "blue0".to_owned(), ..pod_link() };
    let moved = Route { via: Via::Node { address: OWN, link: 2 }, ..to_node2() };
    let gone_node = Route { destination: range("10.240.9.0/24"), ..to_node2() };
    let old_pod = pod_route(8, Ipv4Addr::new(10, 240, 1, 9), OWN);
    type Deviation = Box<dyn Fn(&mut Observed)>;
    let cases: Vec<(&str, Deviation, Vec<Step>)> = vec![
        ("link removed by hand", Box::new(|o| o.links.clear()), vec![restore.clone()]),
        ("link set down", Box::new(|o| o.links[0].up = false), vec![restore.clone()]),
        ("neighbour removed", Box::new(|o| o.neighbours.clear()), vec![restore.clone()]),
        (
            "pod route removed",
            Box::new(|o| o.routes.retain(|route| *route != pod_route(7, POD, OWN))),
            vec![restore],
        ),
        (
            "node route removed",
            Box::new(|o| o.routes.retain(|route| *route != to_node2())),
            vec![Step::PutRoute(to_node2())],
        ),
        (
            "node route wrong",
            Box::new(move |o| {
                o.routes.remove(&to_node2());
                o.routes.insert(moved);
            }),
            vec![Step::PutRoute(to_node2())],
        ),
        (
            "route of a node that is gone",
            Box::new(move |o| o.routes.extend([gone_node])),
            vec![Step::RemoveRoute(gone_node)],
        ),
        (
            "route of a pod that is gone",
            Box::new(move |o| o.routes.extend([old_pod])),
            vec![Step::RemoveRoute(old_pod)],
        ),
        (
            "link of no sandbox",
            Box::new({
                let stray = stray.clone();
                move |o| o.links.push(stray.clone())
            }),
            vec![Step::RemoveLink(stray)],
        ),
        ("link of somebody else", Box::new(move |o| o.links.push(foreign.clone())), vec![]),
        (
            "half a sandbox",
            Box::new(|o| o.abandoned.extend(["u2".to_owned()])),
            vec![Step::RemoveSandbox { uid: "u2".to_owned() }],
        ),
        ("DNS address removed", Box::new(|o| o.dns_address = false), vec![Step::AddDnsAddress]),
        (
            "forwarding switched off",
            Box::new(|o| o.settings = settings("0", "2")),
            vec![Step::Set { name: "net/ipv4/ip_forward", value: "1" }],
        ),
        (
            "data plane not told yet",
            Box::new(|o| o.data_plane = None),
            vec![Step::SetDataPlaneRoutes([(range("10.240.2.0/24"), OTHER)].into())],
        ),
    ];
    for (name, deviate, wanted) in cases {
        let mut observed = as_it_should_be();
        deviate(&mut observed);
        assert_eq!(plan(&two_nodes_and_a_pod(), &observed), wanted, "{name}");
    }
}

#[test]
fn removals_come_first() {
    let mut observed = as_it_should_be();
    observed.abandoned.insert("u2".to_owned());
    observed.routes.insert(Route { destination: range("10.240.9.0/24"), ..to_node2() });
    observed.routes.remove(&to_node2());
    observed.dns_address = false;
    let steps = plan(&two_nodes_and_a_pod(), &observed);
    let is_removal = |step: &Step| {
        matches!(step, Step::RemoveSandbox { .. } | Step::RemoveLink(_) | Step::RemoveRoute(_))
    };
    let removals = steps.iter().filter(|step| is_removal(step)).count();
    assert_eq!(removals, 2);
    assert!(steps[..removals].iter().all(is_removal), "{steps:?}");
}

#[test]
fn a_range_or_an_address_that_is_this_nodes_own_is_not_taken_from_another() {
    let nodes = [
        node("node1", Some("10.240.1.0/24"), "172.30.0.11"),
        node("liar1", Some("10.240.1.0/24"), "172.30.0.12"),
        node("liar2", Some("10.240.3.0/24"), "172.30.0.11"),
        node("typo", Some("10.240.4.0"), "172.30.0.14"),
        node("nowhere", Some("10.240.5.0/24"), ""),
    ];
    let desired = desired(&nodes, "node1", &uplink(), Vec::new());
    assert_eq!(desired.own_range, Some(range("10.240.1.0/24")));
    assert_eq!(desired.remote, BTreeMap::new());
}
