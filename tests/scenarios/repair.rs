//! What somebody breaks by hand on a node is mended within 5 s and named in the agent's log.

use std::collections::BTreeSet;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_ebpf_abi::{Backend, Pod, Route, Service, Slot, map};
use bowline_tests::api::{Found, address, name, node_of, uid, wait};
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::command::{finish, output};
use bowline_tests::load::{self, Load};
use bowline_tests::maps::{address_key, key, range_key};
use bowline_tests::node::Paused;
use bowline_tests::pod_network::{Family, addresses, run};
use bowline_tests::{EchoStage, Node, Wishes};
use k8s_openapi::api::core::v1;
use serde_json::Value;

use crate::upgrade::{SIX, make_six};

/// Within this time damage must be mended.
const LIMIT: Duration = Duration::from_secs(5);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 9);
/// Of the services `echo` and `six`.
const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP), IpAddr::V6(SIX)];
/// What nobody has, as it is shown, of each family.
const STRAYS: [(&str, [&str; 2]); 3] = [
    (map::SERVICES, ["10.9.8.99:80/TCP", "[fd00:10:9::99]:80/TCP"]),
    (map::PODS, ["10.240.77.7", "fd00:10:240::77"]),
    (map::ROUTES, ["10.77.0.0/16", "fd00:77::/64"]),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn damage_by_hand_is_mended_within_five_seconds() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    wishes.flags.extend(BOTH_FAMILIES.map(str::to_owned));
    let stage = EchoStage::up(&wishes).await?;
    let played = async {
        let beside = second_service(&stage).await.context("a service of IPv6")?;
        pins_and_a_service(&stage).await.context("pins and a service")?;
        maps(&stage).await.context("maps")?;
        kernel(&stage).await.context("kernel network")?;
        pod_link(&stage).await.context("a pod's link")?;
        differences_have_names(&stage, &beside).await.context("net diff of each kind")?;
        differences_show(&stage).await.context("net diff")
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

/// Makes the service of IPv6, with a pod on each node; the one beside the client.
async fn second_service(stage: &EchoStage) -> Result<v1::Pod> {
    let api = stage.cluster.api().await?;
    let pods = make_six(&api, &[("six1", "node1"), ("six2", "node2")]).await?;
    stage.cluster.agrees(LIMIT).await?;
    let beside = pods.into_iter().find(|pod| node_of(pod) == node_of(&stage.client));
    beside.context("no pod beside the client")
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

/// The client reaches both services, and each pod of the first by both families.
fn works(stage: &EchoStage, after: &str) -> Result<()> {
    for service in [EchoStage::service(), (SIX, 80).into()] {
        load::requests(&stage.place()?, service, 50)?.expect_no_failure(after)?;
    }
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

/// What the client's way to the services and to the other node's pods is made of, in each map.
async fn entries(stage: &EchoStage) -> Result<Vec<Entry>> {
    let node = stage.node()?;
    let entry = |map, key, shown: &str, byte| Entry::of(node, map, key, shown, byte);
    let mut all = Vec::new();
    for address in VIPS {
        let service = key(address, 80).to_vec();
        let at = offset_of!(Service, slot_count);
        all.push(entry(map::SERVICES, service, &service_name(address, 80), at)?);
    }
    let slots = VIPS.map(|address| first_slot(node, address, 80));
    let slots = slots.into_iter().collect::<Result<Vec<_>>>()?;
    let (slots, backends): (Vec<u32>, Vec<u32>) = slots.into_iter().unzip();
    all.extend(places(node, map::SLOTS, slots, offset_of!(Slot, backend))?);
    all.extend(places(node, map::BACKENDS, backends, offset_of!(Backend, port))?);
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
    ensure!(all.len() == 10, "not each map in both families");
    Ok(all)
}

/// How logs and `net diff` name a TCP service.
fn service_name(address: IpAddr, port: u16) -> String {
    format!("{}/TCP", SocketAddr::new(address, port))
}

/// The number of a TCP service's first slot, and of the backend that it leads to.
fn first_slot(node: &Node, address: IpAddr, port: u16) -> Result<(u32, u32)> {
    let slot = node.maps().services()?.first_slot(address, port);
    let slot = slot.with_context(|| format!("no service {}", service_name(address, port)))?;
    let written = node.maps().table(map::SLOTS)?.get(&slot.to_ne_bytes())?;
    let written = written.with_context(|| format!("no slot {slot}"))?;
    let at = offset_of!(Slot, backend);
    Ok((slot, u32::from_ne_bytes(written[at..at + 4].try_into()?)))
}

/// Entries of an array that are damaged together: the log names them in their order.
fn places(
    node: &Node,
    map: &'static str,
    numbers: impl IntoIterator<Item = u32>,
    byte: usize,
) -> Result<Vec<Entry>> {
    let numbers: BTreeSet<u32> = numbers.into_iter().collect();
    let shown: Vec<String> = numbers.iter().map(u32::to_string).collect();
    let shown = format!("({})", shown.join(", "));
    let all =
        numbers.iter().map(|it| Entry::of(node, map, it.to_ne_bytes().to_vec(), &shown, byte));
    all.collect()
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
    let stray = strays(&all)?;
    for entry in &stray {
        node.maps().table(entry.map)?.put(&entry.key, &entry.written)?;
    }
    for entry in &stray {
        let gone = || Ok(node.maps().table(entry.map)?.get(&entry.key)?.is_none());
        entry.mended(&before, "of nobody's", gone).await?;
    }
    works(stage, "after entries of nobody's")
}

/// Entries of nobody's, like these: one of each map that has keys, in both families.
fn strays(all: &[Entry]) -> Result<Vec<Entry>> {
    let stray = |entry: &Entry| {
        let by_v6 = entry.shown.contains("fd00:");
        let shown = STRAYS.iter().find(|(map, _)| *map == entry.map)?.1[usize::from(by_v6)];
        let key = match entry.map {
            map::SERVICES => shown
                .strip_suffix("/TCP")?
                .parse()
                .map(|it: SocketAddr| key(it.ip(), it.port()).to_vec())
                .ok()?,
            map::PODS => address_key(shown.parse::<IpAddr>().ok()?).to_vec(),
            _ => range_key(shown).ok()?,
        };
        Some(Entry { key, shown: shown.to_owned(), written: entry.written.clone(), ..*entry })
    };
    let stray: Vec<Entry> = all.iter().filter_map(stray).collect();
    ensure!(stray.len() == 6, "not each map that has keys in both families");
    Ok(stray)
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

/// An entry, how it is damaged, and what `net diff` calls that: the kind and the objects.
struct Named {
    entry: Entry,
    how: How,
    kind: &'static str,
    objects: Vec<String>,
}

#[derive(Clone, Copy)]
enum How {
    Changed,
    Missing,
    Extra,
}

impl How {
    /// In `net diff`, and in the agent's log.
    fn words(self) -> [&'static str; 2] {
        match self {
            Self::Changed => ["changed", "changed"],
            Self::Missing => ["missing", "missing"],
            Self::Extra => ["extra", "of nobody's"],
        }
    }
}

impl Named {
    fn damage(&self, node: &Node) -> Result<()> {
        let Entry { map, key, byte, written, .. } = &self.entry;
        let mut table = node.maps().table(map)?;
        let mut value = written.clone();
        match self.how {
            How::Changed => value[*byte] ^= 0x55,
            How::Missing => return table.remove(key),
            How::Extra => {}
        }
        table.put(key, &value)
    }

    fn is_mended(&self, node: &Node) -> Result<bool> {
        match self.how {
            How::Extra => Ok(node.maps().table(self.entry.map)?.get(&self.entry.key)?.is_none()),
            How::Changed | How::Missing => self.entry.is_whole(node),
        }
    }

    fn rows(&self) -> impl Iterator<Item = [String; 3]> {
        let [difference, _] = self.how.words();
        let row =
            move |object: &String| [self.kind, difference, object.as_str()].map(str::to_owned);
        self.objects.iter().map(row)
    }
}

/// Every kind of damage to what `net diff` compares, but for programs, in both families.
async fn kinds(stage: &EchoStage, beside: &v1::Pod) -> Result<Vec<Named>> {
    let (node, all) = (stage.node()?, entries(stage).await?);
    let mut named = Vec::new();
    for stray in strays(&all)? {
        let kinds = [(map::SERVICES, "service"), (map::PODS, "pod"), (map::ROUTES, "route")];
        let kind = kinds.iter().find(|(map, _)| *map == stray.map).context("no such map")?.1;
        let objects = vec![stray.shown.clone()];
        named.push(Named { entry: stray, how: How::Extra, kind, objects });
    }
    // A slot of one port, and a backend that two others share.
    let names = ["default/echo", "default/six"];
    let mut service = |entry: Entry, objects| {
        named.push(Named { entry, how: How::Changed, kind: "service", objects });
    };
    for (address, name) in VIPS.into_iter().zip(names) {
        let (slot, _) = first_slot(node, address, 80)?;
        let object = format!("{name} {}", service_name(address, 80));
        let (key, at) = (slot.to_ne_bytes().to_vec(), offset_of!(Slot, tag));
        service(Entry::of(node, map::SLOTS, key, &slot.to_string(), at)?, vec![object]);
        let (_, backend) = first_slot(node, address, 7)?;
        let tcp = format!("{name} {}", service_name(address, 7));
        let udp = tcp.replace("/TCP", "/UDP");
        let (key, at) = (backend.to_ne_bytes().to_vec(), offset_of!(Backend, port));
        service(Entry::of(node, map::BACKENDS, key, &backend.to_string(), at)?, vec![tcp, udp]);
    }
    for (pod, hows) in
        [(&stage.client, [How::Missing, How::Changed]), (beside, [How::Changed, How::Missing])]
    {
        let name = format!("default/{}", name(pod));
        for (family, how) in [Family::V4, Family::V6].into_iter().zip(hows) {
            let address = family.of(pod)?;
            let (key, at) = (address_key(address).to_vec(), offset_of!(Pod, mac));
            let entry = Entry::of(node, map::PODS, key, &address.to_string(), at)?;
            named.push(Named { entry, how, kind: "pod", objects: vec![name.clone()] });
        }
    }
    let routes = all.into_iter().filter(|entry| entry.map == map::ROUTES);
    for (entry, how) in routes.zip([How::Missing, How::Changed]) {
        let objects = vec![entry.shown.clone()];
        named.push(Named { entry, how, kind: "route", objects });
    }
    Ok(named)
}

/// While the agent stands still, `net diff` names all that is wrong and nothing else; once it goes
/// on it puts that right and logs it.
async fn differences_have_names(stage: &EchoStage, beside: &v1::Pod) -> Result<()> {
    let (node, kinds) = (stage.node()?, kinds(stage, beside).await?);
    let still = Paused::pause(node.agent_pid()?)?;
    for named in &kinds {
        named.damage(node)?;
    }
    let (status, rows) = stage.cluster.net_diff(&node.name)?;
    let row = |row: &Value| {
        let word = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        [word("kind"), word("difference"), word("object")]
    };
    // Of each service that differs, what follows from it differs, too.
    let follows = |[kind, ..]: &[String; 3]| ["line", "address", "span"].contains(&&**kind);
    let (followers, named): (BTreeSet<_>, BTreeSet<_>) = rows.iter().map(row).partition(follows);
    let wanted: BTreeSet<[String; 3]> = kinds.iter().flat_map(Named::rows).collect();
    let differs: Vec<_> = named.symmetric_difference(&wanted).collect();
    ensure!(status == 1 && differs.is_empty(), "status {status}, {differs:?} of {rows:?}");
    println!("{} differences have names, and {} that follow", named.len(), followers.len());
    let before = Before::damage(node)?;
    drop(still);
    for named in &kinds {
        let [_, kind] = named.how.words();
        named.entry.mended(&before, kind, || named.is_mended(node)).await?;
    }
    stage.cluster.agrees(LIMIT).await?;
    works(stage, "after everything that `net diff` names")
}

/// While no agent mends it, `net diff` says what is wrong; an agent that starts puts it right.
async fn differences_show(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let all = entries(stage).await?;
    let routes = all.into_iter().filter(|entry| entry.map == map::ROUTES);
    let routes: Vec<Named> = routes
        .zip([How::Changed, How::Missing])
        .map(|(entry, how)| Named { entry, how, kind: "route", objects: Vec::new() })
        .collect();
    node.kill_agent()?;
    node.maps().services()?.remove(VIP, 80)?;
    std::fs::remove_file(pin(node, "to_pod-")?)?;
    for route in &routes {
        route.damage(node)?;
    }
    let (status, rows) = stage.cluster.net_diff(&node.name)?;
    let kinds: Vec<&str> = rows.iter().filter_map(|row| row["kind"].as_str()).collect();
    // Its line is still there, and another port of the address is a service.
    let wanted = ["line", "program", "route", "route", "service"];
    ensure!(status == 1 && kinds == wanted, "status {status}, {rows:?}");
    let [line, _, v4, v6, service] = &rows[..] else { bail!("{rows:?}") };
    ensure!(line["difference"] == "extra" && line["object"] == "10.9.8.9:80/TCP", "{line}");
    ensure!(v4["difference"] == "changed" && v6["difference"] == "missing", "{v4} {v6}");
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
    works(stage, "after an agent was away")
}
