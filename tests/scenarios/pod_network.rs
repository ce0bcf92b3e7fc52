//! Pods reach pods, nodes and hosts beside the cluster, as they are: with their own addresses,
//! in full-size packets and in fragments, and for as long as they like.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bowline_tests::api::{name, node_of};
use bowline_tests::command::{finish, output};
use bowline_tests::pod_network::{
    Family, Outsider, Stage, addresses, any, inside, run, seen_by_tcp, seen_by_udp,
};
use bowline_tests::{Cluster, Node, Place, Wishes};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::repair::{Before, is_pinned};

const PATIENCE: Duration = Duration::from_secs(60);
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// So often the neighbour tables are read at least while packets go.
const LEAST_LOOKS: usize = 10;
const LONGER_THAN_REMEMBERED: Duration = Duration::from_secs(5);
const BETWEEN_LOOKS: Duration = Duration::from_millis(30);
const DUAL: [&str; 4] = ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48", "--routing", "native"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn pods_of_ipv4_reach_everything_they_should() -> Result<()> {
    // On one link nothing is wrapped, although it could be: only the MTU leaves room for it.
    let stage = Stage::up(&["--routing", "auto"]).await?;
    let played = || {
        for pod in [&stage.here, &stage.beside, &stage.there] {
            ensure!(addresses(pod)?.len() == 1, "{:?}", addresses(pod)?);
        }
        every_way(&stage, Family::V4, 1450, 1500)?;
        neighbours_do_not_expire(&stage, Family::V4).context("neighbours of nodes")?;
        nodes_reach_pods(&stage, Family::V4).context("nodes to pods")?;
        outsiders_reach_pods(&stage, &[Family::V4]).context("a host beside the cluster")?;
        for node in &stage.cluster.nodes {
            let packets = through_tunnel(node)?;
            ensure!(packets == 0, "{packets} packets of {} went by the tunnel", node.name);
        }
        Ok(())
    };
    played().map_err(|error| stage.explain(error))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn pods_of_both_families_reach_each_other_by_both() -> Result<()> {
    let stage = Stage::up(&DUAL).await?;
    let played = || {
        for pod in [&stage.here, &stage.beside, &stage.there] {
            let all = addresses(pod)?;
            ensure!(all.len() == 2 && all[0].is_ipv4() && all[1].is_ipv6(), "{all:?}");
        }
        by_both(|family| {
            every_way(&stage, family, 1500, 1500)?;
            nodes_reach_pods(&stage, family).context("nodes to pods")
        })?;
        neighbours_do_not_expire(&stage, Family::V6).context("neighbours of nodes")?;
        outsiders_reach_pods(&stage, &FAMILIES).context("a host beside the cluster")
    };
    played().map_err(|error| stage.explain(error))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn nodes_without_a_common_link_reach_each_other_by_tunnel() -> Result<()> {
    let flags = [
        ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48"],
        ["--l2", "per-node"],
        ["--routing", "tunnel"],
    ];
    let stage = Stage::up(&[flags.as_flattened(), &["--masquerade"]].concat()).await?;
    let played = async {
        by_both(|family| {
            every_way(&stage, family, 1450, 1450)?;
            nodes_reach_pods(&stage, family).context("nodes to pods")?;
            neighbours_do_not_expire(&stage, family).context("neighbours of nodes")
        })?;
        tunnel_is_used(&stage)?;
        tunnel_is_mended(&stage).await.context("a tunnel device that was removed")?;
        let outsider = Outsider::beside(&stage.cluster)?;
        behind_the_router(&stage.cluster, &outsider)?;
        for family in FAMILIES {
            has_the_nodes_address(&stage, &outsider, family)
                .with_context(|| format!("masquerading, {family:?}"))?;
        }
        outsider_reaches_pods(&stage, &outsider, &stage.cluster.bridge_place()?, &FAMILIES)
            .context("a host beyond the router")
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.explain(error))
}

/// The router between the nodes is the outsider's as well.
fn behind_the_router(cluster: &Cluster, outsider: &Outsider) -> Result<()> {
    let router = cluster.bridge_place()?;
    run(&router, "ip addr add 172.30.0.1/24 dev br0")?;
    run(&router, "ip addr add fd00:172:30::1/64 dev br0 nodad")?;
    run(&outsider.place(), "ip route add default via 172.30.0.1")?;
    run(&outsider.place(), "ip route add default via fd00:172:30::1")?;
    Ok(())
}

/// `auto` decides node by node.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn only_the_node_apart_is_reached_by_tunnel() -> Result<()> {
    let mut wishes = Wishes { nodes: 3, ..Wishes::default() };
    let flags = [
        ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48"],
        ["--l2", "per-node"],
        ["--routing", "auto"],
    ];
    wishes.flags.extend(flags.concat().into_iter().map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    join_last_two(&cluster).map_err(|error| cluster.with_logs(error))?;
    // `beside` is apart, the others are on one link.
    let stage = Stage::over(cluster, ["node2", "node1", "node3"]).await?;
    let played = async {
        stage.cluster.agrees(PATIENCE).await?;
        let (apart, here, there) = (&stage.beside, &stage.here, &stage.there);
        for (from, to, wrapped) in
            [(here, there, false), (there, here, false), (here, apart, true), (apart, there, true)]
        {
            let way = format!("from {} to {}", node_of(from), node_of(to));
            let node = stage.cluster.node(&node_of(from))?;
            let before = through_tunnel(node)?;
            by_both(|family| {
                let (own, target) = (family.of(from)?, family.of(to)?);
                let sources = stage.sources(from, to, family)?;
                ensure!(sources == [own; 3], "{family:?}: seen as {sources:?}, not {own}");
                full_packets_pass(&stage.network(from)?, target, family, 1450)
            })
            .with_context(|| way.clone())?;
            let packets = through_tunnel(node)? - before;
            ensure!((packets > 0) == wrapped, "{way}: {packets} packets by the tunnel");
        }
        Ok(())
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.explain(error))
}

/// Puts the second and the third of the nodes that have a network each on one link: their networks
/// are halves of a larger one.
fn join_last_two(cluster: &Cluster) -> Result<()> {
    let bridge = cluster.bridge_place()?;
    for number in [2, 3] {
        let node = &cluster.nodes[number - 1];
        let link = &node.name;
        let addresses = [
            (format!("172.30.{number}.{}", 10 + number), format!("172.30.{number}.1"), 24),
            (
                format!("fd00:172:30:{number}::{:x}", 10 + number),
                format!("fd00:172:30:{number}::1"),
                64,
            ),
        ];
        node.kill_agent()?;
        run(&bridge, &format!("ip link set {link} master br0"))?;
        for (own, gateway, length) in addresses {
            run(&bridge, &format!("ip addr del {gateway}/{length} dev {link}"))?;
            run(&bridge, &format!("ip addr add {gateway}/{length} dev br0 {}", nodad(&gateway)))?;
            let (place, wider) = (node.place()?, length - 1);
            run(&place, &format!("ip addr del {own}/{length} dev eth0"))?;
            run(&place, &format!("ip addr add {own}/{wider} dev eth0 {}", nodad(&own)))?;
            run(&place, &format!("ip route replace default via {gateway}"))?;
        }
        node.start_agent()?;
    }
    Ok(())
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { "nodad" } else { "" }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn egress_has_the_nodes_address_only_where_that_was_asked_for() -> Result<()> {
    let stage = Stage::up(&[&DUAL[..], &["--masquerade"]].concat()).await?;
    let played = async {
        let outsider = Outsider::beside(&stage.cluster)?;
        for family in FAMILIES {
            has_the_nodes_address(&stage, &outsider, family)
                .with_context(|| format!("{family:?}"))?;
        }
        let node = &stage.cluster.nodes[0];
        let rules = run(&node.place()?, "nft list ruleset")?;
        ensure!(rules.matches(" masquerade").count() == 2, "{rules}");

        let before = Before::damage(node)?;
        run(&node.place()?, "nft delete table inet bowline")?;
        let words = ["the node network was damaged", "write the masquerading rule"];
        let whole = || Ok(run(&node.place()?, "nft list ruleset")? == rules);
        before.mended("the masquerading rules", &words, whole).await?;
        for family in FAMILIES {
            has_the_nodes_address(&stage, &outsider, family)
                .with_context(|| format!("{family:?} after the repair"))?;
        }
        Ok(())
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.explain(error))
}

/// The outsider knows no way to pods: the answers find theirs by the node's address. Inside of the
/// cluster everybody is seen by the own one.
fn has_the_nodes_address(stage: &Stage, outsider: &Outsider, family: Family) -> Result<()> {
    let (own, world) = (family.of(&stage.here)?, Outsider::address(family));
    let sender = stage.netns(&stage.here);
    let seen = seen_by_tcp(&sender, &outsider.netns(), world)?;
    let node = node_address(stage, family, 0)?;
    ensure!(seen == node, "the world saw {seen} by TCP, not {node}");
    let seen = seen_by_udp(&sender, &outsider.netns(), world)?;
    ensure!(seen == node, "the world saw {seen} by UDP, not {node}");
    stage.ping(&stage.here, world, "")?;
    let inner = stage.sources(&stage.here, &stage.there, family)?;
    ensure!(inner == [own; 3], "pods saw {inner:?}");
    let at_node = bowline_tests::node::netns_path(stage.cluster.nodes[1].namespace());
    let seen = seen_by_tcp(&sender, &at_node, node_address(stage, family, 1)?)?;
    ensure!(seen == own, "a node saw {seen}");
    Ok(())
}

/// The address of a node, counted from 0.
fn node_address(stage: &Stage, family: Family, node: usize) -> Result<IpAddr> {
    let shown = run(&stage.cluster.nodes[node].place()?, "ip -br addr show eth0 scope global")?;
    let all = shown.split_whitespace().filter_map(|word| word.split_once('/')?.0.parse().ok());
    let mut own = all.filter(|address: &IpAddr| address.is_ipv6() == (family == Family::V6));
    own.next().with_context(|| format!("no {family:?} address: {shown}"))
}

/// Both families at the same time.
fn by_both(check: impl Fn(Family) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let checks = FAMILIES.map(|family| {
            scope.spawn({
                let check = &check;
                move || check(family)
            })
        });
        checks.into_iter().try_for_each(|check| match check.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// What must hold between pods of one node and of two, whose links have this MTU, and from a node,
/// whose packets may be larger where they go as they are.
fn every_way(stage: &Stage, family: Family, mtu: u32, of_nodes: u32) -> Result<()> {
    for (way, from, to) in stage.ways() {
        let step = || format!("{family:?} {way}");
        let own = family.of(from)?;
        let sources = stage.sources(from, to, family).with_context(step)?;
        ensure!(sources == [own; 3], "{}: seen as {sources:?}, not {own}", step());
        full_packets_pass(&stage.network(from)?, family.of(to)?, family, mtu).with_context(step)?;
        let big = stage.ping(from, family.of(to)?, "-s 4000").with_context(step)?;
        ensure!(big.contains(" 0% packet loss"), "{}: fragments: {big}", step());
        traced(stage, from, to, family).with_context(step)?;
        foretold(stage, from, to, family).with_context(step)?;
    }
    // A node's own packets would fit its uplink, but not the way from there.
    let node = stage.cluster.nodes[0].place()?;
    full_packets_pass(&node, family.of(&stage.there)?, family, of_nodes)
        .with_context(|| format!("{family:?} from a node to a pod of another one"))
}

/// A packet of the MTU passes unfragmented; one byte more is refused, with the MTU as the reason.
fn full_packets_pass(from: &Place, to: IpAddr, family: Family, mtu: u32) -> Result<()> {
    let size = mtu - family.ping_headers();
    let passed = run(from, &format!("ping -n -c 3 -i 0.2 -W 2 -M do -s {size} {to}"))?;
    ensure!(passed.contains(" 0% packet loss"), "{passed}");
    let mut larger = from.command("ping");
    larger.args(["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &(size + 1).to_string()]);
    let refused = finish(larger.arg(to.to_string()))?;
    let said = String::from_utf8_lossy(&refused.stderr);
    let named = said.contains(&format!("mtu={mtu}")) || said.contains(&format!("mtu: {mtu}"));
    ensure!(!refused.status.success() && named, "{} {said}", refused.status);
    Ok(())
}

/// Every hop on the way shows itself, and nothing else: the nodes of the sender and of the pod, in
/// this order, whatever lies between them, and then the pod.
fn traced(stage: &Stage, from: &Pod, to: &Pod, family: Family) -> Result<()> {
    let target = family.of(to)?;
    let text = stage.run(from, &format!("traceroute -n -q 1 -w 2 -m 6 {target}"))?;
    let hops: Vec<&str> =
        text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    let mut nodes = vec![node_of(from), node_of(to)];
    nodes.dedup();
    ensure!(hops.len() == nodes.len() + 1, "not {nodes:?} and a pod: {text}");
    ensure!(hops.last() == Some(&target.to_string().as_str()), "{text}");
    for (node, hop) in nodes.iter().zip(hops) {
        let owns = run(&stage.cluster.node(node)?.place()?, "ip -br addr show")?;
        ensure!(owns.contains(&format!(" {hop}/")), "{hop} is not {node}: {text}{owns}");
    }
    Ok(())
}

/// `explain` and `status` find nothing wrong with what works.
fn foretold(stage: &Stage, from: &Pod, to: &Pod, family: Family) -> Result<()> {
    let node = format!("--node={}", node_of(from));
    let end = SocketAddr::new(family.of(to)?, 9).to_string();
    for words in [&["explain", &name(from), &end, "--udp", "--run"][..], &["status"]] {
        let mut net = stage.cluster.bowline(&["net"])?;
        output(net.args(words).args([&node, "--name", &stage.cluster.name]))?;
    }
    Ok(())
}

/// Nodes and pods forget hardware addresses after a second here; no packet is lost, and no entry on
/// the way ever goes: packets go until each that is learned was forgotten and learned again. Nobody
/// is asked for one on the tunnel.
fn neighbours_do_not_expire(stage: &Stage, family: Family) -> Result<()> {
    let nodes = stage.cluster.nodes.iter().map(Node::place);
    let pods = [&stage.here, &stage.there].map(|pod| stage.network(pod));
    for place in nodes.chain(pods) {
        forgets_fast(&place?)?;
    }
    let needed = Neighbour::needed(stage, family)?;
    for neighbour in needed.iter().filter(|it| !it.for_good) {
        neighbour.grow_old()?;
    }
    let (over, renewed) = (AtomicBool::new(false), AtomicBool::new(false));
    let looks = AtomicUsize::new(0);
    let seen = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = vec![Vec::new(); needed.len()];
            while !over.load(Ordering::SeqCst) {
                for (neighbour, seen) in needed.iter().zip(&mut seen) {
                    seen.push(neighbour.state()?);
                    seen.dedup();
                }
                let is_renewed =
                    |(it, seen): (&Neighbour, &Vec<_>)| it.for_good || times_known(seen) > 1;
                renewed.store(needed.iter().zip(&seen).all(is_renewed), Ordering::SeqCst);
                looks.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(BETWEEN_LOOKS);
            }
            anyhow::Ok(seen)
        });
        let sent = one_way_packets(stage, family, &renewed);
        over.store(true, Ordering::SeqCst);
        let seen = watch.join().map_err(|_| anyhow!("a thread panicked"))?;
        sent.and(seen)
    })?;
    let looks = looks.into_inner();
    ensure!(looks >= LEAST_LOOKS, "only {looks} looks at neighbours");
    for (neighbour, seen) in needed.iter().zip(seen) {
        println!("{family:?}: {}: {} in {looks} looks", neighbour.what, seen.join(", "));
        if neighbour.for_good {
            ensure!(seen == ["PERMANENT"], "{}: {seen:?}", neighbour.what);
        } else {
            // Asked for, forgotten and asked for again, or this shows nothing.
            ensure!(times_known(&seen) > 1, "{}: only {seen:?}", neighbour.what);
        }
    }
    for node in &stage.cluster.nodes {
        let known = run(&node.place()?, "ip neigh show")?;
        let asked = known.lines().find(|it| it.contains("bl-vxlan") && !it.contains("PERMANENT"));
        ensure!(asked.is_none(), "{} asked for a neighbour: {asked:?}", node.name);
    }
    Ok(())
}

/// How often somebody answered for a neighbour, by the states that it went through.
fn times_known(seen: &[String]) -> usize {
    seen.iter().filter(|state| *state == "REACHABLE").count()
}

/// Of both families: packets of one travel in those of the other.
fn forgets_fast(place: &Place) -> Result<()> {
    for version in ["ipv4", "ipv6"] {
        for link in run(place, &format!("ls /proc/sys/net/{version}/neigh"))?.lines() {
            for (name, value) in [
                ("base_reachable_time_ms", "500"),
                ("gc_stale_time", "1"),
                ("delay_first_probe_time", "1"),
            ] {
                run(place, &format!("sysctl -q -w net/{version}/neigh/{link}/{name}={value}"))?;
            }
        }
    }
    Ok(())
}

/// From `here` to `there`, for longer than any neighbour is remembered and until all were
/// `renewed`: nothing that comes back tells the node that its neighbour lives.
fn one_way_packets(stage: &Stage, family: Family, renewed: &AtomicBool) -> Result<()> {
    let target = family.of(&stage.there)?;
    let socket = inside(&stage.netns(&stage.there), move || UdpSocket::bind((any(target), 0)))??;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let target = SocketAddr::new(target, socket.local_addr()?.port());
    let own = inside(&stage.netns(&stage.here), move || UdpSocket::bind((any(target.ip()), 0)))??;
    let start = Instant::now();
    for number in 0_u32.. {
        let done = start.elapsed() > LONGER_THAN_REMEMBERED && renewed.load(Ordering::SeqCst);
        if done || start.elapsed() > PATIENCE {
            break;
        }
        own.send_to(&number.to_be_bytes(), target)?;
        let mut packet = [0; 4];
        let seen = socket.recv_from(&mut packet);
        if seen.is_err() || u32::from_be_bytes(packet) != number {
            bail!("packet {number} was lost after {:?}", start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

/// An entry of a neighbour table that packets from `here` to `there` need.
struct Neighbour {
    what: String,
    place: Place,
    address: IpAddr,
    link: String,
    /// It was entered by the agent, and nobody is ever asked.
    for_good: bool,
}

impl Neighbour {
    /// The gateways of both pods, each pod at its node, and what the first node sends to.
    fn needed(stage: &Stage, family: Family) -> Result<Vec<Self>> {
        let gateway = if family == Family::V4 { "169.254.1.1" } else { "fe80::1" }.parse()?;
        let mut all = Vec::new();
        for pod in [&stage.here, &stage.there] {
            let (name, own) = (name(pod), family.of(pod)?);
            all.push(Self {
                what: format!("the gateway of pod {name}"),
                place: stage.network(pod)?,
                address: gateway,
                link: "eth0".to_owned(),
                for_good: true,
            });
            let place = stage.cluster.node(&node_of(pod))?.place()?;
            let (link, _) = way_to(&place, own)?;
            let what = format!("pod {name} at its node");
            all.push(Self { what, place, address: own, link, for_good: true });
        }
        let place = stage.cluster.node(&node_of(&stage.here))?.place()?;
        let (mut link, mut address) = way_to(&place, family.of(&stage.there)?)?;
        if link == "bl-vxlan" {
            (link, address) = way_to(&place, node_address(stage, Family::V4, 1)?)?;
        }
        let what = "the next hop between the nodes".to_owned();
        all.push(Self { what, place, address, link, for_good: false });
        Ok(all)
    }

    /// What was learned before counts as it did then: from now on it is not reachable for longer
    /// than [`forgets_fast`] says.
    fn grow_old(&self) -> Result<()> {
        let Self { place, address, link, .. } = self;
        run(place, &format!("ip neigh change {address} dev {link} nud stale")).map(drop)
    }

    /// What the kernel says of it; an error if it is gone, or nobody answered for it.
    fn state(&self) -> Result<String> {
        let Self { what, place, address, link, .. } = self;
        let shown = run(place, &format!("ip -j neigh show to {address} dev {link}"))?;
        let rows: Value = serde_json::from_str(&shown).with_context(|| shown.clone())?;
        let state = rows[0]["state"][0].as_str().with_context(|| format!("{what} is gone"))?;
        ensure!(!["FAILED", "INCOMPLETE", "NONE"].contains(&state), "{what}: {state}");
        Ok(state.to_owned())
    }
}

/// The link by which a packet leaves this place, and the address that it is sent to there.
fn way_to(place: &Place, target: IpAddr) -> Result<(String, IpAddr)> {
    let shown = run(place, &format!("ip -j route get {target}"))?;
    let rows: Value = serde_json::from_str(&shown).with_context(|| shown.clone())?;
    let link = rows[0]["dev"].as_str().with_context(|| format!("no way to {target}: {shown}"))?;
    let hop = rows[0]["gateway"].as_str().map(str::parse).transpose()?;
    Ok((link.to_owned(), hop.unwrap_or(target)))
}

/// From either node, with the node's own address.
fn nodes_reach_pods(stage: &Stage, family: Family) -> Result<()> {
    for node in &stage.cluster.nodes {
        for pod in [&stage.here, &stage.there] {
            let target = family.of(pod)?;
            let way = format!("{} to {} on {}", node.name, target, node_of(pod));
            run(&node.place()?, &format!("ping -n -c 2 -i 0.2 -W 2 {target}"))
                .with_context(|| way.clone())?;
            let at_node = bowline_tests::node::netns_path(node.namespace());
            let seen = seen_by_tcp(&at_node, &stage.netns(pod), target).context(way)?;
            let owns = run(&node.place()?, "ip -br addr show eth0")?;
            ensure!(owns.contains(&format!("{seen}/")), "seen as {seen}, not one of {owns}");
        }
    }
    Ok(())
}

/// A host on the nodes' link reaches their pods, and the pods reach the host with their own
/// addresses: nobody asked for others.
fn outsiders_reach_pods(stage: &Stage, families: &[Family]) -> Result<()> {
    let outsider = Outsider::beside(&stage.cluster)?;
    outsider_reaches_pods(stage, &outsider, &outsider.place(), families)?;
    for &family in families {
        for pod in [&stage.here, &stage.there] {
            let (own, target) = (Outsider::address(family), family.of(pod)?);
            for seen_by in [seen_by_tcp, seen_by_udp] {
                let seen = seen_by(&stage.netns(pod), &outsider.netns(), own)?;
                ensure!(seen == target, "the world saw {seen}, not {target}");
            }
        }
    }
    Ok(())
}

/// Where somebody knows the way to a node, its pods are reached straight from outside, and see
/// their client by its own address.
fn outsider_reaches_pods(
    stage: &Stage,
    outsider: &Outsider,
    router: &Place,
    families: &[Family],
) -> Result<()> {
    for &family in families {
        let own = Outsider::address(family);
        for (pod, node) in [(&stage.here, 0), (&stage.there, 1)] {
            let (target, node) = (family.of(pod)?, node_address(stage, family, node)?);
            run(router, &format!("ip route add {target} via {node}"))?;
            for seen_by in [seen_by_tcp, seen_by_udp] {
                let seen = seen_by(&outsider.netns(), &stage.netns(pod), target)?;
                ensure!(seen == own, "seen as {seen}, not {own}");
            }
        }
    }
    Ok(())
}

/// How many packets a node has sent and received by its tunnel device.
fn through_tunnel(node: &Node) -> Result<u64> {
    let links: Value = serde_json::from_str(&run(&node.place()?, "ip -j -s link show bl-vxlan")?)?;
    let packets = |way: &str| links[0]["stats64"][way]["packets"].as_u64();
    packets("tx").zip(packets("rx")).map(|(sent, came)| sent + came).context("no statistics")
}

/// The other node's pods are behind the tunnel device, for programs and for the kernel.
fn tunnel_is_used(stage: &Stage) -> Result<()> {
    let before = through_tunnel(&stage.cluster.nodes[0])?;
    for family in FAMILIES {
        stage.ping(&stage.here, family.of(&stage.there)?, "")?;
    }
    let packets = through_tunnel(&stage.cluster.nodes[0])? - before;
    ensure!(packets >= 12, "{packets} packets went through the tunnel");
    Ok(())
}

/// Somebody removes the device: it is made anew, and the programs and the kernel lead through it.
async fn tunnel_is_mended(stage: &Stage) -> Result<()> {
    let node = &stage.cluster.nodes[0];
    let number = || -> Result<Option<u64>> {
        let links = run(&node.place()?, "ip -j link show type vxlan")?;
        let links: Vec<Value> = serde_json::from_str(&links)?;
        let tunnel = links.iter().find(|link| link["ifname"] == "bl-vxlan");
        Ok(tunnel.and_then(|link| link["ifindex"].as_u64()))
    };
    let old = number()?.context("there is no tunnel device")?;
    let before = Before::damage(node)?;
    run(&node.place()?, "ip link del bl-vxlan")?;
    let words = ["the node network was damaged", "make the tunnel device"];
    let made_anew = || {
        Ok(match number()? {
            Some(new) => {
                let at = |link| is_pinned(node, &format!("from_uplink-{link}"));
                at(new) && !at(old)
            }
            None => false,
        })
    };
    before.mended("the tunnel device", &words, made_anew).await?;
    for family in [Family::V4, Family::V6] {
        stage.ping(&stage.here, family.of(&stage.there)?, "")?;
        stage.ping(&stage.there, family.of(&stage.here)?, "")?;
    }
    tunnel_is_used(stage)
}
