//! Tables of the node network plan.

use std::{net::Ipv4Addr, sync::Arc};

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus};
use kube::api::ObjectMeta;

use super::*;
use crate::{
    config::{DEFAULT_VXLAN_PORT, Routing},
    network::{Addresses, VxlanSeen},
};

const UID: &str = "3f2504e0-4f89-11d3-9a0c-0305e82c3301";
const POD: Ipv4Addr = Ipv4Addr::new(10, 240, 1, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 12);
const TUNNEL: u32 = 9;

/// A node; ranges and addresses are separated by commas.
fn node(name: &str, ranges: &str, addresses: &str) -> Arc<Node> {
    let ranges: Vec<String> =
        ranges.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
    let internal = addresses
        .split(',')
        .map(|it| NodeAddress { type_: "InternalIP".to_owned(), address: it.to_owned() });
    let host = NodeAddress { type_: "Hostname".to_owned(), address: name.to_owned() };
    Arc::new(Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        spec: Some(NodeSpec {
            pod_cidr: ranges.first().cloned(),
            pod_cidrs: Some(ranges),
            ..Default::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(internal.chain([host]).collect()),
            ..Default::default()
        }),
    })
}

fn own() -> Addresses {
    Addresses { v4: Ipv4Addr::new(172, 30, 0, 11), v6: "fd00:172:30::b".parse().ok() }
}

fn uplink() -> Uplink {
    Uplink {
        index: 2,
        name: "eth0".to_owned(),
        mtu: 1500,
        addresses: own(),
        networks: vec![range("172.30.0.0/24"), range("fd00:172:30::/64")],
    }
}

fn link(index: u32, name: &str, mtu: u32) -> LinkSeen {
    LinkSeen { index, name: name.to_owned(), mac: None, mtu, up: true, vxlan: None }
}

fn pod_link() -> LinkSeen {
    link(7, "bl3f2504e04f8", 1500)
}

fn range(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn reach(routing: Routing) -> Reach {
    Reach::new(routing, DEFAULT_VXLAN_PORT, &uplink())
}

fn sandbox(addresses: Addresses) -> SandboxLink {
    SandboxLink { uid: UID.to_owned(), link: "bl3f2504e04f8".to_owned(), addresses }
}

fn two_nodes_and_a_pod() -> Desired {
    let nodes = [
        node("node1", "10.240.1.0/24", "172.30.0.11"),
        node("node2", "10.240.2.0/24", "172.30.0.12"),
        node("node3", "", "172.30.0.13"),
    ];
    let links = vec![sandbox(POD.into())];
    desired(&nodes, "node1", &uplink(), reach(Routing::Native), false, links)
}

fn to_node2() -> Route {
    let via = Via::Node { address: OTHER.into(), link: 2 };
    Route { destination: range("10.240.2.0/24"), via, source: None }
}

fn unreachable(text: &str) -> Route {
    Route { destination: range(text), via: Via::Unreachable, source: None }
}

fn values(forward: &str, check: &str) -> BTreeMap<String, String> {
    let names = settings("eth0", false).into_iter().map(|setting| setting.name);
    names.zip([forward.to_owned(), check.to_owned()]).collect()
}

fn told(routes: &BTreeMap<Cidr, Hop>) -> Told {
    Told { routes: routes.clone(), tunnel: None }
}

fn pod_route() -> Route {
    pod_routes(7, POD.into(), own()).next().unwrap()
}

fn as_it_should_be() -> Observed {
    Observed {
        links: vec![pod_link()],
        routes: [to_node2(), unreachable("10.240.1.0/24"), pod_route()].into(),
        neighbours: pod_neighbours(7, POD.into()).collect(),
        dns_addresses: [DNS_ADDRESS.into()].into(),
        settings: values("1", "0"),
        masquerade: None,
        abandoned: BTreeSet::new(),
        data_plane: Some(told(&two_nodes_and_a_pod().remote)),
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
    let observed = Observed { settings: values("0", "1"), ..Default::default() };
    let steps = plan(&wanted, &observed);
    assert_eq!(
        steps,
        [
            Step::Set { name: "net/ipv4/ip_forward".to_owned(), value: "1" },
            Step::Set { name: "net/ipv4/conf/all/rp_filter".to_owned(), value: "2" },
            Step::AddDnsAddress(DNS_ADDRESS.into()),
            Step::PutRoute(unreachable("10.240.1.0/24")),
            Step::PutRoute(to_node2()),
            Step::SetDataPlaneRoutes(wanted.remote.clone()),
        ]
    );
}

#[test]
fn one_deviation_one_repair() {
    let restore = Step::RestoreLink { uid: UID.to_owned() };
    let stray = link(9, "bl00000000000", 1500);
    let foreign = link(3, "blue0", 1500);
    let moved = Route { via: Via::Node { address: own().v4.into(), link: 2 }, ..to_node2() };
    let gone_node = Route { destination: range("10.240.9.0/24"), ..to_node2() };
    let old_pod = pod_routes(8, Ipv4Addr::new(10, 240, 1, 9).into(), own()).next().unwrap();
    type Deviation = Box<dyn Fn(&mut Observed)>;
    let cases: Vec<(&str, Deviation, Vec<Step>)> = vec![
        ("link removed by hand", Box::new(|o| o.links.clear()), vec![restore.clone()]),
        ("link set down", Box::new(|o| o.links[0].up = false), vec![restore.clone()]),
        ("link with another MTU", Box::new(|o| o.links[0].mtu = 1450), vec![restore.clone()]),
        ("neighbour removed", Box::new(|o| o.neighbours.clear()), vec![restore.clone()]),
        (
            "pod route removed",
            Box::new(|o| o.routes.retain(|route| *route != pod_route())),
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
        (
            "DNS address removed",
            Box::new(|o| o.dns_addresses.clear()),
            vec![Step::AddDnsAddress(DNS_ADDRESS.into())],
        ),
        (
            "forwarding switched off",
            Box::new(|o| o.settings = values("0", "2")),
            vec![Step::Set { name: "net/ipv4/ip_forward".to_owned(), value: "1" }],
        ),
        (
            "tunnel device of an earlier agent",
            Box::new({
                let left = link(4, TUNNEL_LINK, 1450);
                move |o| o.links.push(left.clone())
            }),
            vec![Step::RemoveLink(link(4, TUNNEL_LINK, 1450))],
        ),
        (
            "rule of an earlier agent",
            Box::new(|o| o.masquerade = Some(Masquerade::default())),
            vec![Step::RemoveMasquerade],
        ),
        (
            "data plane not told yet",
            Box::new(|o| o.data_plane = None),
            vec![Step::SetDataPlaneRoutes(two_nodes_and_a_pod().remote)],
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
    observed.dns_addresses.clear();
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
        node("node1", "10.240.1.0/24", "172.30.0.11"),
        node("liar1", "10.240.1.0/24", "172.30.0.12"),
        node("liar2", "10.240.3.0/24", "172.30.0.11"),
        node("typo", "10.240.4.0", "172.30.0.14"),
        node("nowhere", "10.240.5.0/24", ""),
    ];
    let reach = reach(Routing::Native);
    let desired = desired(&nodes, "node1", &uplink(), reach, false, Vec::new());
    assert_eq!(desired.own_ranges, Some(Ranges { v4: range("10.240.1.0/24"), v6: None }));
    assert_eq!(desired.remote, BTreeMap::new());
}

fn dual_stack_nodes() -> [Arc<Node>; 4] {
    [
        node("node1", "10.240.1.0/24,fd00:10:240:1::/64", "172.30.0.11,fd00:172:30::b"),
        node("near", "10.240.2.0/24,fd00:10:240:2::/64", "172.30.0.12,fd00:172:30::c"),
        node("far", "10.240.3.0/24,fd00:10:240:3::/64", "172.31.0.13,fd00:172:31::d"),
        node("half", "10.240.4.0/24,fd00:10:240:4::/64", "172.30.0.14"),
    ]
}

#[test]
fn the_way_to_a_node_depends_on_the_routing_and_on_where_it_is() {
    let near = |v: &str| Hop::Uplink(v.parse().unwrap());
    let wrapped = |v: &str| Hop::Tunnel(v.parse().unwrap());
    let ways = |routing| {
        let nodes = dual_stack_nodes();
        desired(&nodes, "node1", &uplink(), reach(routing), false, Vec::new())
    };
    let tunnel = ways(Routing::Tunnel);
    let expected = [
        ("10.240.2.0/24", wrapped("172.30.0.12")),
        ("fd00:10:240:2::/64", wrapped("172.30.0.12")),
        ("10.240.3.0/24", wrapped("172.31.0.13")),
        ("fd00:10:240:3::/64", wrapped("172.31.0.13")),
        ("10.240.4.0/24", wrapped("172.30.0.14")),
        ("fd00:10:240:4::/64", wrapped("172.30.0.14")),
    ];
    assert_eq!(tunnel.remote, expected.map(|(text, hop)| (range(text), hop)).into());
    assert!(tunnel.stranded.is_empty() && tunnel.has_ipv6());
    assert_eq!(tunnel.reach.pod_mtu, 1450);

    let auto = ways(Routing::Auto);
    for (text, hop) in [
        ("10.240.2.0/24", near("172.30.0.12")),
        ("fd00:10:240:2::/64", near("fd00:172:30::c")),
        ("10.240.3.0/24", wrapped("172.31.0.13")),
        ("fd00:10:240:4::/64", wrapped("172.30.0.14")),
    ] {
        assert_eq!(auto.remote.get(&range(text)), Some(&hop), "{text}");
    }

    let native = ways(Routing::Native);
    assert_eq!(native.remote.len(), 3);
    assert_eq!(native.stranded, ["far", "half"].map(str::to_owned).into());
    assert_eq!(native.reach.pod_mtu, 1500);
}

#[test]
fn a_tunnel_comes_with_its_neighbours_and_routes() {
    let reach = reach(Routing::Tunnel);
    let nodes = &dual_stack_nodes()[..2];
    let wanted = desired(nodes, "node1", &uplink(), reach, false, Vec::new());
    let dns_addresses = [DNS_ADDRESS.into(), DNS_ADDRESS_V6.into()].into();
    let mut observed = Observed { dns_addresses, ..Default::default() };
    let device = reach.tunnel.unwrap();
    let first = plan(&wanted, &observed);
    assert!(first.contains(&Step::MakeTunnel(device)), "{first:?}");
    assert!(!first.iter().any(|step| matches!(step, Step::PutNeighbour(_))), "{first:?}");

    let vxlan = Some(VxlanSeen { port: device.port, collects_metadata: true });
    let seen = LinkSeen { mac: Some(device.mac), vxlan, ..link(TUNNEL, TUNNEL_LINK, 1450) };
    observed.links.push(seen);
    let (v4, v6) = (range("10.240.2.0/24"), range("fd00:10:240:2::/64"));
    let via = Via::Tunnel { node: OTHER, link: TUNNEL };
    let routes = [v4, v6].map(|destination| {
        let source = own().like(destination.network());
        Route { destination, via, source }
    });
    let gateways: [IpAddr; 2] = ["172.30.0.12", "fe80::ac1e:c"].map(|it| it.parse().unwrap());
    let neighbours = gateways.map(|gateway| (TUNNEL, gateway, [0x06, b'b', 172, 30, 0, 12]));
    let own = ["10.240.1.0/24", "fd00:10:240:1::/64"].map(unreachable);
    assert_eq!(
        plan(&wanted, &observed),
        [
            Step::PutNeighbour(neighbours[0]),
            Step::PutNeighbour(neighbours[1]),
            Step::PutRoute(own[0]),
            Step::PutRoute(routes[0]),
            Step::PutRoute(own[1]),
            Step::PutRoute(routes[1]),
            Step::SetDataPlaneRoutes(wanted.remote.clone()),
        ]
    );
    observed.routes.extend(routes.into_iter().chain(own));
    observed.neighbours.extend(neighbours);
    observed.data_plane = Some(Told { tunnel: Some(TUNNEL), ..told(&wanted.remote) });
    assert_eq!(plan(&wanted, &observed), []);

    let stray = (TUNNEL, IpAddr::from([172, 30, 0, 99]), [0; 6]);
    observed.neighbours.insert(stray);
    assert_eq!(plan(&wanted, &observed), [Step::RemoveNeighbour(stray)]);
    observed.neighbours.remove(&stray);
    observed.links[0].mtu = 1500;
    assert_eq!(plan(&wanted, &observed), [Step::MakeTunnel(device)]);
}

#[test]
fn masquerading_spares_what_is_in_the_cluster() {
    let nodes = dual_stack_nodes();
    let wanted = desired(&nodes, "node1", &uplink(), reach(Routing::Auto), true, Vec::new());
    let rule = wanted.masquerade.clone().unwrap();
    assert_eq!(rule.pods, ["10.240.1.0/24", "fd00:10:240:1::/64"].map(range).into());
    for text in ["10.240.3.0/24", "172.30.0.12/32", "fd00:172:30::b/128", "10.240.1.0/24"] {
        assert!(rule.cluster.contains(&range(text)), "{text}");
    }
    let steps = plan(&wanted, &Observed::default());
    assert!(steps.contains(&Step::PutMasquerade(rule.clone())), "{steps:?}");
    let observed = Observed { masquerade: Some(rule), ..Default::default() };
    let steps = plan(&wanted, &observed);
    assert!(!steps.iter().any(|step| matches!(step, Step::PutMasquerade(_))), "{steps:?}");
}

#[test]
fn an_uplink_that_listens_to_routers_goes_on_doing_so() {
    let by_name = |name: &str, value: &str| {
        let all = settings("eth0", true);
        let setting = all.iter().find(|setting| setting.name == name).unwrap();
        (!(setting.sound)(value)).then_some(setting.value)
    };
    let listen = "net/ipv6/conf/eth0/accept_ra";
    assert_eq!(by_name(listen, "1"), Some("2"));
    assert_eq!((by_name(listen, "0"), by_name(listen, "2")), (None, None));
    assert_eq!(by_name("net/ipv6/conf/all/forwarding", "0"), Some("1"));
    let names: Vec<_> = settings("eth0", true).into_iter().map(|setting| setting.name).collect();
    assert_eq!(names[2..], [listen, "net/ipv6/conf/all/forwarding"], "before it stops listening");
}
