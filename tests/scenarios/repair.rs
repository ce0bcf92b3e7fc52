//! What somebody breaks by hand on a node is mended within 5 s and named in the agent's log.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_ebpf_abi::{Backend, Pod, Route, Service, Slot, map};
use bowline_tests::api::{Found, address, node_of, uid, wait};
use bowline_tests::command::{finish, output};
use bowline_tests::load::{self, Load};
use bowline_tests::maps::{address_key, key, range_key};
use bowline_tests::pod_network::{Family, addresses, run};
use bowline_tests::{EchoStage, Node, Wishes};
use k8s_openapi::api::core::v1;
use serde_json::Value;

/// Within this time damage must be mended.
const LIMIT: Duration = Duration::from_secs(5);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 9);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn damage_by_hand_is_mended_within_five_seconds() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    let flags = ["--pod-cidr", "10.240.0.0/16,fd00:10:240::/48"];
    wishes.flags.extend(flags.map(str::to_owned));
    let stage = EchoStage::up(&wishes).await?;
    let played = async {
        pins_and_a_service(&stage).await.context("pins and a service")?;
        maps(&stage).await.context("maps")?;
        kernel(&stage).await.context("kernel network")?;
        pod_link(&stage).await.context("a pod's link")?;
        differences_show(&stage).await.context("net diff")
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

fn link_pins(node: &Node) -> PathBuf {
    node.bpffs().join(format!("bowline/v{}/links", bowline_ebpf_abi::ABI_VERSION))
}

/// Whether a link of this name is pinned.
pub(crate) fn is_pinned(node: &Node, name: &str) -> bool {
    link_pins(node).join(name).exists()
}

/// The first pin whose name starts so.
fn pin(node: &Node, starts: &str) -> Result<PathBuf> {
    let links = link_pins(node);
    let mut names = std::fs::read_dir(&links)?.collect::<Result<Vec<_>, _>>()?;
    names.sort_by_key(std::fs::DirEntry::file_name);
    let found = names.iter().find(|name| name.file_name().to_string_lossy().starts_with(starts));
    Ok(found.with_context(|| format!("no pin {starts}* in {}", links.display()))?.path())
}

/// The moment before something is damaged on a node.
pub(crate) struct Before<'a> {
    node: &'a Node,
    at: Instant,
    /// What the agent had said by then.
    said: usize,
}

impl<'a> Before<'a> {
    /// Damage follows.
    pub(crate) fn damage(node: &'a Node) -> Result<Self> {
        let said = std::fs::read(node.log())?.len();
        Ok(Self { node, at: Instant::now(), said })
    }

    /// Waits until damage is mended and one line of what the agent said since then names it: both
    /// in time.
    pub(crate) async fn mended(
        &self,
        what: &str,
        words: &[&str],
        mut whole: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let left = LIMIT.saturating_sub(self.at.elapsed());
        wait(&format!("{what} mended and logged"), left, async || {
            let (whole, logged) = (whole()?, self.is_logged(words)?);
            Ok(match whole && logged {
                true => Found::Yes(()),
                false => Found::NotYet(format!("mended {whole}, logged {logged}")),
            })
        })
        .await?;
        println!("{what}: mended after {:.1} s", self.at.elapsed().as_secs_f64());
        Ok(())
    }

    fn is_logged(&self, words: &[&str]) -> Result<bool> {
        let log = std::fs::read(self.node.log())?;
        let since = String::from_utf8_lossy(log.get(self.said..).unwrap_or_default());
        Ok(since.lines().any(|line| words.iter().all(|word| line.contains(word))))
    }
}

/// The client reaches the service, and each of its pods by both families.
fn works(stage: &EchoStage, after: &str) -> Result<()> {
    load::requests(&stage.place()?, EchoStage::service(), 50)?.expect_no_failure(after)?;
    let network = stage.node()?.pod_network(&uid(&stage.client))?;
    for pod in &stage.servers {
        for target in addresses(pod)? {
            run(&network, &format!("ping -n -c 1 -W 2 {target}")).context(after.to_owned())?;
        }
    }
    Ok(())
}

async fn pins_and_a_service(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let open = Load::hold(&stage.place()?, EchoStage::service(), 10)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = Before::damage(node)?;
    let pins = [("connect4", pin(node, "connect4")?), ("from_pod", pin(node, "from_pod-")?)];
    for (_, path) in &pins {
        std::fs::remove_file(path)?;
    }
    node.maps().services()?.remove(VIP, 80)?;
    for (program, path) in &pins {
        let words = ["the data plane was damaged", program, "attached again"];
        before.mended(program, &words, || Ok(path.exists())).await?;
    }
    let words = ["the data plane was damaged", "map SERVICES", "1 missing (10.9.8.9:80/TCP)"];
    let found = || Ok(node.maps().services()?.slot_count(VIP, 80) == Some(2));
    before.mended("a service", &words, found).await?;
    open.stop()?.expect_no_failure("on open connections")?;
    load::requests(&stage.place()?, EchoStage::service(), 100)?.expect_no_failure("afterwards")
}

/// An entry of a map.
struct Entry {
    map: &'static str,
    key: Vec<u8>,
    /// As the agent's log shows the key.
    shown: String,
    /// The byte to break, and how many bytes from the start are only the agent's.
    byte: usize,
    length: usize,
    written: Vec<u8>,
}

impl Entry {
    fn of(node: &Node, map: &'static str, key: Vec<u8>, shown: &str, byte: usize) -> Result<Self> {
        let written = node.maps().table(map)?.get(&key)?;
        let written = written.with_context(|| format!("{map} has no {shown}"))?;
        // The programs note there which pods have flows.
        let length = if map == map::PODS { offset_of!(Pod, flags) } else { written.len() };
        Ok(Self { map, key, shown: shown.to_owned(), byte, length, written })
    }

    fn is_whole(&self, node: &Node) -> Result<bool> {
        let found = node.maps().table(self.map)?.get(&self.key)?;
        Ok(found.is_some_and(|found| found[..self.length] == self.written[..self.length]))
    }

    /// Waits until a damage of this kind was mended, and the log names it.
    async fn mended(
        &self,
        before: &Before<'_>,
        kind: &str,
        whole: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let (map, what) = (format!("map {}", self.map), format!("{} {}", self.map, self.shown));
        let words = ["the data plane was damaged", &map, kind, &self.shown];
        before.mended(&format!("{what}, {kind}"), &words, whole).await
    }
}

/// What the client's way to the service and to the other node's pods is made of, in each map.
async fn entries(stage: &EchoStage) -> Result<Vec<Entry>> {
    let (node, service) = (stage.node()?, key(VIP, 80).to_vec());
    let entry = |map, key, shown: &str, byte| Entry::of(node, map, key, shown, byte);
    let slot = node.maps().services()?.first_slot(VIP, 80).context("no such service")?;
    let at = offset_of!(Slot, backend);
    let first = entry(map::SLOTS, slot.to_ne_bytes().to_vec(), &format!("({slot})"), at)?;
    let backend = u32::from_ne_bytes(first.written[at..at + 4].try_into()?);
    let number = backend.to_ne_bytes().to_vec();
    let mut all = vec![
        entry(map::SERVICES, service, "10.9.8.9:80/TCP", offset_of!(Service, slot_count))?,
        first,
        entry(map::BACKENDS, number, &format!("({backend})"), offset_of!(Backend, port))?,
    ];
    for own in addresses(&stage.client)? {
        let key = address_key(own).to_vec();
        all.push(entry(map::PODS, key, &own.to_string(), offset_of!(Pod, ifindex))?);
    }
    let nodes = stage.cluster.api().await?.of_cluster::<v1::Node>();
    let other = stage.cluster.nodes.iter().find(|it| it.name != node.name).context("no other")?;
    for range in
        nodes.get(&other.name).await?.spec.and_then(|it| it.pod_cidrs).into_iter().flatten()
    {
        all.push(entry(map::ROUTES, range_key(&range)?, &range, offset_of!(Route, ifindex))?);
    }
    ensure!(all.len() == 7, "not each map in both families");
    Ok(all)
}

/// Somebody writes wrong values into maps, removes entries, and adds some: each kind of damage to
/// all maps at once.
async fn maps(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let all = entries(stage).await?;

    let before = Before::damage(node)?;
    for entry in &all {
        let mut value = entry.written.clone();
        value[entry.byte] ^= 0x55;
        node.maps().table(entry.map)?.put(&entry.key, &value)?;
    }
    for entry in &all {
        entry.mended(&before, "changed", || entry.is_whole(node)).await?;
    }
    works(stage, "after wrong values")?;

    let before = Before::damage(node)?;
    for entry in &all {
        node.maps().table(entry.map)?.remove(&entry.key)?;
    }
    for entry in &all {
        let is_array = matches!(entry.map, map::SLOTS | map::BACKENDS);
        let kind = if is_array { "changed" } else { "missing" };
        entry.mended(&before, kind, || entry.is_whole(node)).await?;
    }
    works(stage, "after entries were removed")?;

    let before = Before::damage(node)?;
    let stray: Vec<Entry> = all
        .into_iter()
        .filter_map(|entry| {
            let pod = |text: &str| Some(address_key(text.parse::<IpAddr>().ok()?).to_vec());
            let (key, shown) = match (entry.map, entry.shown.contains("fd00:")) {
                (map::SERVICES, _) => {
                    (key(Ipv4Addr::new(10, 9, 8, 99), 80).to_vec(), "10.9.8.99:80/TCP")
                }
                (map::PODS, false) => (pod("10.240.77.7")?, "10.240.77.7"),
                (map::PODS, true) => (pod("fd00:10:240::77")?, "fd00:10:240::77"),
                (map::ROUTES, false) => (range_key("10.77.0.0/16").ok()?, "10.77.0.0/16"),
                (map::ROUTES, true) => (range_key("fd00:77::/64").ok()?, "fd00:77::/64"),
                _ => return None,
            };
            Some(Entry { key, shown: shown.to_owned(), ..entry })
        })
        .collect();
    ensure!(stray.len() == 5, "not each map that has keys in both families");
    for entry in &stray {
        node.maps().table(entry.map)?.put(&entry.key, &entry.written)?;
    }
    for entry in &stray {
        let gone = || Ok(node.maps().table(entry.map)?.get(&entry.key)?.is_none());
        entry.mended(&before, "of nobody's", gone).await?;
    }
    works(stage, "after entries of nobody's")
}

/// Something that one can break with one command, and look whether it is whole.
struct Damage {
    what: &'static str,
    /// Arguments of `ip`: one that breaks it, and one that shows it.
    break_it: String,
    show: String,
    /// In what the second prints while it is whole.
    whole: String,
    /// In the agent's log afterwards.
    logged: String,
}

/// Runs `ip` on a node with these arguments and gives what it prints, whatever its status.
fn ip(node: &Node, arguments: &str) -> Result<String> {
    let ended = finish(node.place()?.command("ip").args(arguments.split(' ')))?;
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// The link that leads to an address of this node's pods.
fn link_to(node: &Node, pod: IpAddr) -> Result<String> {
    let route = ip(node, &format!("-o route get {pod}"))?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    Ok(words.nth(1).with_context(|| format!("no link to {pod}: {route}"))?.to_owned())
}

/// The route to the other node's pods.
fn other_range(node: &Node, family: Family) -> Result<String> {
    let routes = ip(node, &format!("{} route show", flag(family)))?;
    let starts = if family == Family::V4 { "10.240." } else { "fd00:10:240:" };
    let other = routes.lines().find(|line| line.starts_with(starts) && line.contains(" via "));
    let other = other.and_then(|line| line.split_whitespace().next());
    Ok(other.with_context(|| format!("no route to the other node: {routes}"))?.to_owned())
}

fn flag(family: Family) -> &'static str {
    if family == Family::V4 { "-4" } else { "-6" }
}

fn other_route(node: &Node, family: Family, what: &'static str) -> Result<Damage> {
    let range = other_range(node, family)?;
    Ok(Damage {
        what,
        break_it: format!("{} route del {range}", flag(family)),
        show: format!("{} route show", flag(family)),
        whole: format!("{range} via "),
        logged: format!("add route {range}"),
    })
}

fn dns_address(address: &str, what: &'static str) -> Damage {
    Damage {
        what,
        break_it: format!("addr del {address} dev lo"),
        show: "addr show dev lo".to_owned(),
        whole: address.to_owned(),
        logged: format!("add the DNS address {}", address.split('/').next().unwrap_or_default()),
    }
}

fn neighbour(node: &Node, pod: &v1::Pod, family: Family, what: &'static str) -> Result<Damage> {
    let address = family.of(pod)?;
    let link = link_to(node, address)?;
    Ok(Damage {
        what,
        break_it: format!("{} neigh del {address} dev {link}", flag(family)),
        show: format!("{} neigh show dev {link}", flag(family)),
        whole: format!("{address} "),
        logged: format!("restore the link of sandbox {}", uid(pod)),
    })
}

fn pod_route(node: &Node, pod: &v1::Pod, family: Family, what: &'static str) -> Result<Damage> {
    let address = family.of(pod)?;
    let link = link_to(node, address)?;
    Ok(Damage {
        what,
        break_it: format!("{} route del {address}", flag(family)),
        show: format!("{} route show", flag(family)),
        whole: format!("{address} dev {link}"),
        logged: format!("restore the link of sandbox {}", uid(pod)),
    })
}

fn set_down(node: &Node, pod: &v1::Pod) -> Result<Damage> {
    let link = link_to(node, Family::V4.of(pod)?)?;
    Ok(Damage {
        what: "a pod's link that was set down",
        break_it: format!("link set {link} down"),
        show: format!("link show dev {link}"),
        whole: "state UP".to_owned(),
        logged: format!("restore the link of sandbox {}", uid(pod)),
    })
}

/// In each round nothing is mended along with something else.
async fn kernel(stage: &EchoStage) -> Result<()> {
    let (node, one) = (stage.node()?, &stage.client);
    let other = stage.servers.iter().find(|pod| node_of(pod) == node.name);
    let other = other.context("no server runs beside the client")?;
    let rounds = [
        vec![
            other_route(node, Family::V4, "the route to another node")?,
            other_route(node, Family::V6, "the IPv6 route to another node")?,
            dns_address("169.254.20.10/32", "the address of the DNS server"),
            dns_address("fd62:6f77:6c69:6e65::10/128", "the IPv6 address of the DNS server"),
            neighbour(node, one, Family::V4, "a pod's neighbour entry")?,
            neighbour(node, other, Family::V6, "a pod's IPv6 neighbour entry")?,
        ],
        vec![
            pod_route(node, one, Family::V6, "a pod's IPv6 route")?,
            pod_route(node, other, Family::V4, "a pod's route")?,
        ],
        vec![set_down(node, one)?],
    ];
    for damages in rounds {
        let before = Before::damage(node)?;
        for damage in &damages {
            let (show, what) = (ip(node, &damage.show)?, damage.what);
            ensure!(show.contains(&damage.whole), "{what} is not there: {show}");
            output(node.place()?.command("ip").args(damage.break_it.split(' ')))?;
            ensure!(!ip(node, &damage.show)?.contains(&damage.whole), "{what} is not broken");
        }
        for damage in &damages {
            let words = ["the node network was damaged", &damage.logged];
            let whole = || Ok(ip(node, &damage.show)?.contains(&damage.whole));
            before.mended(damage.what, &words, whole).await?;
        }
        works(stage, damages.first().map_or("", |damage| damage.what))?;
    }
    Ok(())
}

/// A pod's link that is removed comes back under another number, with its programs and its entry.
async fn pod_link(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let pod = address(&stage.client)?;
    let listed = || -> Result<Vec<Value>> {
        let flags = ["net", "pods", "--name", &stage.cluster.name, "--node", &node.name];
        let mut net = stage.cluster.bowline(&flags)?;
        Ok(serde_json::from_str(&output(net.args(["-o", "json"]))?)?)
    };
    let entry = || -> Result<u64> {
        let rows = listed()?;
        let row = rows.iter().find(|row| row["address"] == pod.to_string());
        row.and_then(|row| row["ifindex"].as_u64()).with_context(|| format!("no {pod}: {rows:?}"))
    };
    let links = || -> Result<Vec<Value>> {
        let mut ip = node.place()?.command("ip");
        Ok(serde_json::from_str(&output(ip.args(["-j", "link", "show", "type", "veth"]))?)?)
    };
    let old = entry()?;
    let name = links()?.iter().find(|link| link["ifindex"] == old).map(|l| l["ifname"].clone());
    let name = name.and_then(|name| name.as_str().map(str::to_owned)).context("no such link")?;
    let pinned = |ifindex: u64| -> [bool; 2] {
        ["from_pod", "to_pod"].map(|program| is_pinned(node, &format!("{program}-{ifindex}")))
    };
    ensure!(pinned(old) == [true; 2], "the link's programs are not pinned");
    let before = Before::damage(node)?;
    output(node.place()?.command("ip").args(["link", "del", &name]))?;
    let words = ["the node network was damaged", "restore the link of sandbox"];
    let what = "a pod's link that was removed";
    let made_anew = || {
        let new = links()?.iter().find(|link| link["ifname"] == name.as_str()).cloned();
        let Some(new) = new.and_then(|link| link["ifindex"].as_u64()) else { return Ok(false) };
        Ok(new != old && entry()? == new && pinned(new) == [true; 2] && pinned(old) == [false; 2])
    };
    before.mended(what, &words, made_anew).await?;
    works(stage, what)
}

/// While no agent mends it, `net diff` says what is wrong; an agent that starts puts it right.
async fn differences_show(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    node.kill_agent()?;
    node.maps().services()?.remove(VIP, 80)?;
    std::fs::remove_file(pin(node, "to_pod-")?)?;
    let (status, rows) = stage.cluster.net_diff(&node.name)?;
    let kinds: Vec<&str> = rows.iter().filter_map(|row| row["kind"].as_str()).collect();
    // Its line is still there, and another port of the address is a service.
    ensure!(status == 1 && kinds == ["line", "program", "service"], "status {status}, {rows:?}");
    let [line, _, service] = &rows[..] else { bail!("{rows:?}") };
    ensure!(line["difference"] == "extra" && line["object"] == "10.9.8.9:80/TCP", "{line}");
    ensure!(
        service["difference"] == "missing"
            && service["object"] == "default/echo 10.9.8.9:80/TCP"
            && service["api"] == "2 backends",
        "{service}"
    );
    node.start_agent()?;
    let start = Instant::now();
    stage.cluster.agrees(LIMIT).await?;
    println!("a new agent put it right after {:.1} s", start.elapsed().as_secs_f64());
    load::requests(&stage.place()?, EchoStage::service(), 100)?.expect_no_failure("at the end")
}
