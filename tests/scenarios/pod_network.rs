//! Pods reach pods, nodes and hosts beside the cluster, as they are: with their own addresses,
//! in full-size packets and in fragments, and for as long as they like.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::Place;
use bowline_tests::api::node_of;
use bowline_tests::command::finish;
use bowline_tests::pod_network::{
    Family, Outsider, Stage, addresses, any, inside, run, seen_by_tcp, seen_by_udp,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::repair::{Before, is_pinned};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const DUAL: [&str; 4] = ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48", "--routing", "native"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn pods_of_ipv4_reach_everything_they_should() -> Result<()> {
    let stage = Stage::up(&[]).await?;
    let played = || {
        for pod in [&stage.here, &stage.beside, &stage.there] {
            ensure!(addresses(pod)?.len() == 1, "{:?}", addresses(pod)?);
        }
        every_way(&stage, Family::V4, 1500)?;
        neighbours_do_not_expire(&stage, Family::V4).context("neighbours of nodes")?;
        nodes_reach_pods(&stage, Family::V4).context("nodes to pods")?;
        outsiders_reach_pods(&stage, &[Family::V4]).context("a host beside the cluster")
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
            every_way(&stage, family, 1500)?;
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
    for routing in ["tunnel", "auto"] {
        let flags =
            ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48", "--l2", "per-node", "--routing"];
        let stage = Stage::up(&[&flags[..], &[routing]].concat()).await?;
        let played = async {
            by_both(|family| {
                every_way(&stage, family, 1450)?;
                nodes_reach_pods(&stage, family).context("nodes to pods")?;
                neighbours_do_not_expire(&stage, family).context("neighbours of nodes")
            })?;
            tunnel_is_used(&stage)?;
            tunnel_is_mended(&stage).await.context("a tunnel device that was removed")
        };
        let played: Result<()> = played.await;
        played.map_err(|error| stage.explain(error).context(format!("--routing {routing}")))?;
    }
    Ok(())
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
    ensure!(seen == node_address(family, 0), "the world saw {seen} by TCP");
    let seen = seen_by_udp(&sender, &outsider.netns(), world)?;
    ensure!(seen == node_address(family, 0), "the world saw {seen} by UDP");
    stage.ping(&stage.here, world, "")?;
    let inner = stage.sources(&stage.here, &stage.there, family)?;
    ensure!(inner == [own; 3], "pods saw {inner:?}");
    let at_node = bowline_tests::node::netns_path(stage.cluster.nodes[1].namespace());
    let seen = seen_by_tcp(&sender, &at_node, node_address(family, 1))?;
    ensure!(seen == own, "a node saw {seen}");
    Ok(())
}

/// Where the nodes are that share one link, counted from 0.
fn node_address(family: Family, node: u8) -> IpAddr {
    match family {
        Family::V4 => [172, 30, 0, 11 + node].into(),
        Family::V6 => [0xfd00, 0x172, 0x30, 0, 0, 0, 0, 11 + u16::from(node)].into(),
    }
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

/// What must hold between pods of one node and of two.
fn every_way(stage: &Stage, family: Family, mtu: u32) -> Result<()> {
    for (way, from, to) in stage.ways() {
        let step = || format!("{family:?} {way}");
        let own = family.of(from)?;
        let sources = stage.sources(from, to, family).with_context(step)?;
        ensure!(sources == [own; 3], "{}: seen as {sources:?}, not {own}", step());
        full_packets_pass(&stage.network(from)?, family.of(to)?, family, mtu).with_context(step)?;
        let big = stage.ping(from, family.of(to)?, "-s 4000").with_context(step)?;
        ensure!(big.contains(" 0% packet loss"), "{}: fragments: {big}", step());
        traced(stage, from, to, family).with_context(step)?;
    }
    // A node's own packets would fit its uplink, but not the way from there.
    let node = stage.cluster.nodes[0].place()?;
    full_packets_pass(&node, family.of(&stage.there)?, family, mtu)
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

/// Nodes forget each other's hardware addresses after a second here, and no packet is lost. Nobody
/// is asked for one on the tunnel.
fn neighbours_do_not_expire(stage: &Stage, family: Family) -> Result<()> {
    for node in &stage.cluster.nodes {
        let place = node.place()?;
        // Of both families: packets of one travel in those of the other.
        for version in ["ipv4", "ipv6"] {
            for link in run(&place, &format!("ls /proc/sys/net/{version}/neigh"))?.lines() {
                for (name, value) in [
                    ("base_reachable_time_ms", "500"),
                    ("gc_stale_time", "1"),
                    ("delay_first_probe_time", "1"),
                ] {
                    let setting = format!("sysctl -q -w net/{version}/neigh/{link}/{name}={value}");
                    run(&place, &setting)?;
                }
            }
        }
    }
    let target = family.of(&stage.there)?;
    let socket = inside(&stage.netns(&stage.there), move || UdpSocket::bind((any(target), 0)))??;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let target = SocketAddr::new(target, socket.local_addr()?.port());
    let own = inside(&stage.netns(&stage.here), move || UdpSocket::bind((any(target.ip()), 0)))??;
    // One way only: nothing that comes back tells the node that its neighbour lives.
    let start = Instant::now();
    for number in 0_u32..2_000 {
        own.send_to(&number.to_be_bytes(), target)?;
        let mut packet = [0; 4];
        let seen = socket.recv_from(&mut packet);
        if seen.is_err() || u32::from_be_bytes(packet) != number {
            bail!("packet {number} was lost after {:?}", start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    ensure!(start.elapsed() > Duration::from_secs(5), "too short to see an entry expire");
    for node in &stage.cluster.nodes {
        let known = run(&node.place()?, "ip neigh show")?;
        let asked = known.lines().find(|it| it.contains("bl-vxlan") && !it.contains("PERMANENT"));
        ensure!(asked.is_none(), "{} asked for a neighbour: {asked:?}", node.name);
    }
    Ok(())
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

/// A host with a route to a node reaches its pods straight, and is seen by its own address.
fn outsiders_reach_pods(stage: &Stage, families: &[Family]) -> Result<()> {
    let outsider = Outsider::beside(&stage.cluster)?;
    for &family in families {
        let own = Outsider::address(family);
        for (pod, node) in [(&stage.here, 0), (&stage.there, 1)] {
            let (target, node) = (family.of(pod)?, node_address(family, node));
            run(&outsider.place(), &format!("ip route add {target} via {node}"))?;
            for seen_by in [seen_by_tcp, seen_by_udp] {
                let seen = seen_by(&outsider.netns(), &stage.netns(pod), target)?;
                ensure!(seen == own, "seen as {seen}, not {own}");
                // The pod reaches the world with its own address: nobody asked for another.
                let seen = seen_by(&stage.netns(pod), &outsider.netns(), own)?;
                ensure!(seen == target, "the world saw {seen}, not {target}");
            }
        }
    }
    Ok(())
}

/// The other node's pods are behind the tunnel device, for programs and for the kernel.
fn tunnel_is_used(stage: &Stage) -> Result<()> {
    let node = stage.cluster.nodes[0].place()?;
    let sent = || -> Result<u64> {
        let links: Value = serde_json::from_str(&run(&node, "ip -j -s link show bl-vxlan")?)?;
        links[0]["stats64"]["tx"]["packets"].as_u64().context("no statistics")
    };
    let before = sent()?;
    for family in FAMILIES {
        stage.ping(&stage.here, family.of(&stage.there)?, "")?;
    }
    let packets = sent()? - before;
    ensure!(packets >= 6, "{packets} packets went through the tunnel");
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
