//! What somebody breaks by hand on a node is mended within 5 s and named in the agent's log.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::{Found, address, wait};
use bowline_tests::command::{finish, output};
use bowline_tests::load::{self, Load};
use bowline_tests::{EchoStage, Node, Wishes};
use serde_json::Value;

/// Within this time damage must be mended.
const LIMIT: Duration = Duration::from_secs(5);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 9);

/// Something that one can break with one command, and look whether it is whole.
struct Damage {
    what: &'static str,
    /// Arguments of `ip`: one that breaks it, and one that shows it.
    break_it: String,
    show: String,
    /// In what the second prints while it is whole.
    whole: String,
    /// In the agent's log afterwards.
    logged: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn damage_by_hand_is_mended_within_five_seconds() -> Result<()> {
    let stage = EchoStage::up(&Wishes { nodes: 2, ..Wishes::default() }).await?;
    let played = async {
        pins_and_maps(&stage).await.context("pins and maps")?;
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

fn logged(node: &Node, words: &[&str]) -> Result<bool> {
    let log = std::fs::read_to_string(node.log())?;
    Ok(log.lines().any(|line| words.iter().all(|word| line.contains(word))))
}

/// Waits until damage is mended and an agent's log names it: both in time.
pub(crate) async fn mended(
    node: &Node,
    what: &str,
    words: &[&str],
    mut whole: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    wait(&format!("{what} mended and logged"), LIMIT, async || {
        let (whole, logged) = (whole()?, logged(node, words)?);
        Ok(match whole && logged {
            true => Found::Yes(()),
            false => Found::NotYet(format!("mended {whole}, logged {logged}")),
        })
    })
    .await?;
    println!("{what}: mended after {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

async fn pins_and_maps(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    for (starts, program) in [("connect4", "connect4"), ("from_pod-", "from_pod")] {
        let path = pin(node, starts)?;
        std::fs::remove_file(&path)?;
        let words = ["the data plane was damaged", program, "attached again"];
        mended(node, program, &words, || Ok(path.exists())).await?;
    }
    let open = Load::hold(&stage.place()?, EchoStage::service(), 10)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.maps().services()?.remove(VIP, 80)?;
    let words = ["the data plane was damaged", "map SERVICES", "10.9.8.9:80/TCP"];
    let found = || Ok(node.maps().services()?.slot_count(VIP, 80) == Some(2));
    mended(node, "a service", &words, found).await?;
    open.stop()?.expect_no_failure("on open connections")?;
    load::requests(&stage.place()?, EchoStage::service(), 100)?.expect_no_failure("afterwards")
}

async fn kernel(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let ip = |arguments: &str| -> Result<String> {
        let mut ip = node.place()?.command("ip");
        let ended = finish(ip.args(arguments.split(' ')))?;
        Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
    };
    let pod = address(&stage.client)?.to_string();
    let route = ip(&format!("-o route get {pod}"))?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    let link = words.nth(1).with_context(|| format!("no link to {pod}: {route}"))?.to_owned();
    let routes = ip("route show")?;
    let other = routes
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|range| {
            range.starts_with("10.240.") && range.ends_with("/24") && {
                routes.lines().any(|line| line.starts_with(range) && line.contains(" via "))
            }
        })
        .with_context(|| format!("no route to the other node: {routes}"))?
        .to_owned();
    let damages = [
        Damage {
            what: "the route to another node",
            break_it: format!("route del {other}"),
            show: "route show".to_owned(),
            whole: other.clone(),
            logged: "add route",
        },
        Damage {
            what: "the address of the DNS server",
            break_it: "addr del 169.254.20.10/32 dev lo".to_owned(),
            show: "addr show dev lo".to_owned(),
            whole: "169.254.20.10".to_owned(),
            logged: "add the DNS address",
        },
        Damage {
            what: "a pod's neighbour entry",
            break_it: format!("neigh del {pod} dev {link}"),
            show: format!("neigh show dev {link}"),
            whole: format!("{pod} "),
            logged: "restore the link of sandbox",
        },
        Damage {
            what: "a pod's route",
            break_it: format!("route del {pod}"),
            show: "route show".to_owned(),
            whole: format!("{pod} dev {link}"),
            logged: "restore the link of sandbox",
        },
        Damage {
            what: "a pod's link that was set down",
            break_it: format!("link set {link} down"),
            show: format!("link show dev {link}"),
            whole: "state UP".to_owned(),
            logged: "restore the link of sandbox",
        },
    ];
    for damage in damages {
        ensure!(ip(&damage.show)?.contains(&damage.whole), "{} is not there", damage.what);
        output(node.place()?.command("ip").args(damage.break_it.split(' ')))?;
        ensure!(!ip(&damage.show)?.contains(&damage.whole), "{} is not broken", damage.what);
        let words = ["the node network was damaged", damage.logged];
        mended(node, damage.what, &words, || Ok(ip(&damage.show)?.contains(&damage.whole))).await?;
        load::requests(&stage.place()?, EchoStage::service(), 50)?
            .expect_no_failure(damage.what)?;
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
    output(node.place()?.command("ip").args(["link", "del", &name]))?;
    let words = ["the node network was damaged", "restore the link of sandbox"];
    mended(node, "a pod's link that was removed", &words, || {
        let new = links()?.iter().find(|link| link["ifname"] == name.as_str()).cloned();
        let Some(new) = new.and_then(|link| link["ifindex"].as_u64()) else { return Ok(false) };
        Ok(new != old && entry()? == new && pinned(new) == [true; 2] && pinned(old) == [false; 2])
    })
    .await?;
    load::requests(&stage.place()?, EchoStage::service(), 50)?.expect_no_failure("a new link")
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
