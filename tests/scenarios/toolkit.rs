//! What `bowline net` shows a person at a terminal, on a real cluster: wide tables, and `top`'s
//! live screen in pseudo-terminals of several kinds and its tables in a pipe.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bowline_tests::api::name;
use bowline_tests::command::{finish, output};
use bowline_tests::load::{Load, requests};
use bowline_tests::{EchoStage, Place, Wishes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bad_input::error_line;
use crate::terminal::{ENTERS, LEAVES, Terminal};

/// How a colour begins, of 256.
const COLOUR: &str = "\x1b[38;5;";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn what_a_person_at_a_terminal_sees() -> Result<()> {
    let stage = EchoStage::up(&Wishes { nodes: 2, ..Wishes::default() }).await?;
    let played = play(&stage);
    played.map_err(|error| stage.cluster.with_logs(error))
}

fn play(stage: &EchoStage) -> Result<()> {
    top_in_a_pipe(stage).context("top in a pipe")?;
    top_at_a_terminal(stage).context("top at a terminal")?;
    top_ends_in_order(stage).context("the end of top")?;
    last_minute(stage).context("net status")?;
    wide_tables(stage).context("-o wide")?;
    super::readers::play(stage).context("readers")?;
    what_is_wrong(stage).context("errors")
}

/// `bowline net` of the client's node.
pub(crate) fn net(stage: &EchoStage, words: &[&str]) -> Result<Command> {
    let mut command = stage.cluster.bowline(&["net"])?;
    command.args(words).args(["--name", &stage.cluster.name, "--node", &stage.node()?.name]);
    Ok(command)
}

fn row<'a>(rows: &'a Value, name: &str) -> Result<&'a Value> {
    let found = rows.as_array().context("no list")?.iter().find(|row| row["name"] == name);
    found.with_context(|| format!("no {name} in {rows:#}"))
}

fn per_second(row: &Value, what: &str) -> Result<f64> {
    row["perSecond"][what].as_f64().with_context(|| format!("no rate of {what}: {row}"))
}

fn top_in_a_pipe(stage: &EchoStage) -> Result<()> {
    let load = Load::start(&stage.place()?, EchoStage::service(), 1, 0)?;
    let said = output(&mut net(stage, &["top", "--count", "2", "--interval", "1", "-o", "json"])?)?;
    refuse(stage)?;
    let table = output(&mut net(stage, &["top", "--count", "2", "--interval", "0.5"])?)?;
    load.stop()?.expect_no_failure("while somebody looks")?;
    let documents: Vec<Value> =
        said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?;
    ensure!(documents.len() == 2, "{} documents instead of two: {said}", documents.len());
    let service = row(&documents[1]["services"], "default/echo:80/TCP")?;
    let made = per_second(service, "connections")?;
    ensure!(made > 1.0, "no connections: {service}");
    ensure!(service["address"] == "10.9.8.9:80/TCP", "{service}");
    let client = row(&documents[1]["pods"], &format!("default/{}", name(&stage.client)))?;
    for what in ["connections", "packets", "bytes"] {
        let rate = per_second(client, what)?;
        ensure!(rate >= made / 2.0, "{rate} {what} a second of the client: {client}");
    }
    // The busiest comes first, names are names, and there is a table a moment.
    let tables = table.matches("SERVICE ").count();
    ensure!(tables == 2 && table.matches("POD ").count() == 2, "{table}");
    ensure!(!table.contains('\x1b'), "a pipe gets no control sequences: {table:?}");
    let first = table.lines().nth(1).unwrap_or_default();
    ensure!(first.starts_with("default/echo:80/TCP "), "{table}");
    ensure!(table.contains("unknown-port socket"), "a refused call has no line: {table}");

    let numeric = ["top", "--count", "1", "--interval", "0.1", "--numeric", "--services"];
    let table = output(&mut net(stage, &numeric)?)?;
    ensure!(table.contains("10.9.8.9:80/TCP") && !table.contains("default/"), "{table}");
    ensure!(!table.contains("POD "), "{table}");
    let mut all = stage.cluster.bowline(&["net", "top", "--all-nodes", "--name"])?;
    all.args([&stage.cluster.name, "--count", "1", "--interval", "0.2", "-o", "yaml"]);
    let said: Value = serde_yaml_ng::from_str(&output(&mut all)?)?;
    let nodes: Vec<&str> = said["pods"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["node"].as_str())
        .collect();
    ensure!(nodes.contains(&"node1") && nodes.contains(&"node2"), "{said}");
    for (words, expected) in [
        (&["top", "--interval", "0"][..], "not in 0.1..=3600"),
        (&["top", "--watch"], "leave --watch out"),
        (&["top", "--sort", "color"], "possible values: connections, packets, bytes, drops"),
    ] {
        let ended = finish(&mut net(stage, words)?)?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(!ended.status.success() && said.contains(expected), "{words:?}: {said}");
    }
    Ok(())
}

/// A port that the service has not.
fn refuse(stage: &EchoStage) -> Result<()> {
    let place: Place = stage.place()?;
    let refused: SocketAddr = "10.9.8.9:83".parse()?;
    let ended = requests(&place, refused, 1)?;
    ensure!(ended.ok == 0, "port 83 is nobody's");
    Ok(())
}

fn top_at_a_terminal(stage: &EchoStage) -> Result<()> {
    let words = ["top", "--interval", "0.5"];
    let load = Load::start(&stage.place()?, EchoStage::service(), 1, 0)?;
    let mut terminal = Terminal::start(net(stage, &words)?, 24, 100)?;
    terminal.shows("default/echo:80/TCP")?;
    terminal.shows("CONN/S")?;
    terminal.shows(&format!("default/{}", name(&stage.client)))?;
    terminal.shows("by connections, every 0.5 s")?;
    ensure!(terminal.raw().contains(COLOUR), "no colours: {:?}", terminal.raw());
    terminal.press("b")?;
    terminal.shows("by bytes")?;
    terminal.press("\t")?;
    terminal.hides("POD ")?;
    terminal.resize(24, 30)?;
    terminal.shows("terminal too small")?;
    terminal.resize(10, 40)?;
    terminal.shows("BYTES/S")?;
    terminal.hides("CONN/S")?;
    terminal.press("q")?;
    terminal.ended_well("q")?;

    let mut plain = net(stage, &words)?;
    plain.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(plain, 24, 100)?;
    terminal.shows("default/echo:80/TCP")?;
    terminal.press("\x03")?;
    let raw = terminal.raw();
    terminal.ended_well("Ctrl-C")?;
    ensure!(!raw.contains(COLOUR), "colours in spite of NO_COLOR: {raw:?}");

    // A terminal that cannot move its cursor gets tables.
    let mut dumb = net(stage, &["top", "--count", "1", "--interval", "0.2"])?;
    dumb.env("TERM", "dumb");
    let mut terminal = Terminal::start(dumb, 24, 200)?;
    let status = terminal.end()?;
    let raw = terminal.raw();
    ensure!(status.success() && raw.contains("SERVICE") && !raw.contains('\x1b'), "{raw:?}");
    load.stop()?.expect_no_failure("while somebody looks")
}

/// By a signal, after so many times, and by what cannot be read: the terminal is as it was.
fn top_ends_in_order(stage: &EchoStage) -> Result<()> {
    let mut terminal = Terminal::start(net(stage, &["top"])?, 24, 100)?;
    terminal.shows("default/echo:80/TCP")?;
    kill(Pid::from_raw(i32::try_from(terminal.child.id())?), Signal::SIGTERM)?;
    terminal.ended_well("SIGTERM")?;
    let count = net(stage, &["top", "--count", "2", "--interval", "0.2"])?;
    Terminal::start(count, 24, 100)?.ended_well("--count")?;

    // No data plane from the beginning: one line, and no other screen.
    let nothing = tempfile::tempdir()?;
    let bpffs = nothing.path().display().to_string();
    let missing = || stage.cluster.bowline(&["net", "top", "--bpffs", &bpffs]);
    let said = error_line(&finish(&mut missing()?)?)?;
    ensure!(said.contains("is an agent at work"), "{said}");
    let mut terminal = Terminal::start(missing()?, 24, 100)?;
    ensure!(!terminal.end()?.success());
    ensure!(!terminal.raw().contains(ENTERS), "{:?}", terminal.raw());
    // One that goes away is waited for, then it is an error, which the terminal still shows.
    let own = tempfile::tempdir()?;
    let link = own.path().join("bpf");
    let pins = stage.cluster.dir.join("nodes").join(&stage.node()?.name).join("bpf");
    std::os::unix::fs::symlink(&pins, &link)?;
    let path = link.display().to_string();
    let words = ["net", "top", "--interval", "0.5", "--bpffs", &path];
    let mut terminal = Terminal::start(stage.cluster.bowline(&words)?, 24, 100)?;
    terminal.shows("10.9.8.9:80/TCP")?;
    std::fs::remove_file(&link)?;
    terminal.shows("is an agent at work")?;
    terminal.shows("10.9.8.9:80/TCP")?;
    let status = terminal.end()?;
    let raw = terminal.raw();
    let (_, after) = raw.rsplit_once(LEAVES).context("it never left its screen")?;
    ensure!(!status.success() && after.contains("error: "), "{status}: {after:?}");
    terminal.is_restored()
}

/// What `status` says of the agent's loops, of the last minute's drops, and of an agent that hangs.
fn last_minute(stage: &EchoStage) -> Result<()> {
    let status = || -> Result<Value> {
        let ended = finish(&mut net(stage, &["status", "-o", "json"])?)?;
        Ok(serde_json::from_slice(&ended.stdout)?)
    };
    let dropped = |status: &Value| {
        let rows = status["recentDrops"]["rows"].as_array().into_iter().flatten();
        let rows =
            rows.filter(|row| row["reason"] == "unknown-port" && row["direction"] == "socket");
        rows.filter_map(|row| row["packets"].as_u64()).sum::<u64>()
    };
    let before = dropped(&status()?);
    refuse(stage)?;
    let now = status()?;
    ensure!(dropped(&now) > before, "a refused call is not among {}", now["recentDrops"]);
    let seconds = now["recentDrops"]["seconds"].as_u64().context("no time")?;
    ensure!(seconds <= 66, "the last minute took {seconds} s");
    ensure!(now["problems"] == serde_json::json!([]), "{}", now["problems"]);
    for name in ["network", "services", "verify"] {
        let round = row(&now["loops"], name)?;
        ensure!(round["failure"].is_null() && round["microseconds"].as_u64() > Some(0), "{round}");
        // The maps of services are written when something changed, the others are looked after.
        let recent = round["secondsAgo"].as_u64() < Some(15);
        ensure!(recent || name == "services", "{round}");
    }
    let table = output(&mut net(stage, &["status"])?)?;
    for word in ["LAST ROUND", "verify", "in the last ", "unknown-port", "\nhealthy"] {
        ensure!(table.contains(word), "no `{word}` in:\n{table}");
    }
    Ok(())
}

/// A service without an address.
const HEADLESS: &str = r#"{ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "bare" },
    "spec": { "clusterIP": "None", "selector": { "app": "bare" }, "ports": [{ "port": 80 }] } }"#;

/// What commands say of what cannot be, and how they end: with 2 where 1 is a judgement.
fn what_is_wrong(stage: &EchoStage) -> Result<()> {
    let (cluster, own) = (&stage.cluster, stage.node()?.name.as_str());
    let client = name(&stage.client);
    let client = client.as_str();
    let mut nodes = cluster.nodes.iter().map(|node| node.name.as_str());
    let other = nodes.find(|node| *node != own).context("one node only")?;
    let directory = tempfile::tempdir()?;
    let manifest = directory.path().join("bare.json");
    std::fs::write(&manifest, HEADLESS)?;
    let mut apply = cluster.bowline(&["apply", "--name", &cluster.name, "-f"])?;
    output(apply.arg(&manifest))?;
    let elsewhere = format!("has no pod default/{client}: it is on {own} (--node {own})");
    for (words, code, says) in [
        (vec!["status", "--node", "node9"], 2, "has no node node9: it has node1, node2"),
        (vec!["services", "--node", "node9"], 1, "has no node node9: it has node1, node2"),
        (vec!["diff", "--node", own, "--watch"], 2, "takes no --watch"),
        (vec!["explain", client, "echo:80", "--all-nodes"], 2, "choose it with --node"),
        (vec!["explain", client, "echo:80", "--node", other], 2, &*elsewhere),
        (vec!["explain", client, "bare:80", "--node", own], 2, "bare is headless: it has no"),
        (vec!["monitor", "--service", "nope", "--node", own], 1, "knows no service default/nope"),
        (vec!["maps", "dump", "EVENTS", "--node", own], 1, "`bowline net monitor` reads it"),
        (vec!["maps", "get", "SERVICES", "foo", "--node", own], 1, "a key of it looks like 10.9."),
        (vec!["capture", "-w", "-", "-o", "json", "--node", own], 1, "leave --output out"),
        (vec!["bugreport", "-o", "json"], 1, "leave --output out"),
        (vec!["bugreport", "--file", "/absent/x"], 1, "--file: cannot make /absent/x: No such"),
    ] {
        let mut asked = cluster.bowline(&["net"])?;
        let ended = finish(asked.args(&words).args(["--name", &cluster.name]))?;
        let said = error_line(&ended).with_context(|| format!("{words:?}"))?;
        ensure!(ended.status.code() == Some(code) && said.contains(says), "{words:?}: {said}");
    }
    let services = ["scale", "svc/echo", "--replicas", "2", "--name", &cluster.name];
    let said = error_line(&finish(&mut cluster.bowline(&services)?)?)?;
    ensure!(said.contains("services have no scale"), "{said}");
    let told = output(&mut net(stage, &["explain", client, "192.0.2.1:443"])?)?;
    let sent = "sent to 192.0.2.1:443/TCP by eth0 via 172.30.0.1; what comes of it there is not";
    ensure!(told.contains(sent), "{told}");
    Ok(())
}

/// A wide table is the plain one with more columns, which say what is so.
fn wide_tables(stage: &EchoStage) -> Result<()> {
    let cell = |text: &str| text.split("   ").map(|it| it.trim().to_owned()).collect::<Vec<_>>();
    for (words, more) in [
        (&["services"][..], &["SLOTS", "AFFINITY", "LINE"][..]),
        (&["backends"], &["SLOT", "STATE", "NODE"]),
        (&["pods"], &["DEVICE", "FLOWS", "UID"]),
        (&["routes"], &["DEVICE", "WAY"]),
        (&["counters"], &["MEANING"]),
        (&["drops"], &["MEANING"]),
        (&["affinity"], &["LET GO AFTER", "LEFT"]),
        (&["maps"], &["ID", "TYPE", "KEY", "VALUE", "FLAGS"]),
        (&["maps", "dump", "PODS"], &["RAW KEY", "RAW VALUE"]),
        (&["programs"], &["TAG", "MACHINE CODE", "LOADED", "MAPS"]),
        (&["neighbours"], &["NUMBER", "CONFIRMED", "USED", "CHANGED"]),
        (&["features"], &[]),
    ] {
        let plain = output(&mut net(stage, words)?)?;
        let wide = output(net(stage, words)?.args(["-o", "wide"]))?;
        let header = |text: &str| -> Vec<String> {
            let cells = cell(text.lines().next().unwrap_or_default());
            cells.into_iter().filter(|it| !it.is_empty()).collect()
        };
        let mut expected = header(&plain);
        expected.extend(more.iter().map(|it| (*it).to_owned()));
        ensure!(header(&wide) == expected, "{words:?}: {expected:?}, and it has\n{wide}");
    }
    let wide = |words: &[&str]| output(net(stage, words)?.args(["-o", "wide"]));
    let json = |words: &[&str]| -> Result<Value> {
        Ok(serde_json::from_str(&output(net(stage, words)?.args(["-o", "json"]))?)?)
    };
    let backends = wide(&["backends"])?;
    let here = backends.lines().filter(|line| line.contains("default/echo")).collect::<Vec<_>>();
    let near = here.iter().filter(|line| line.ends_with("active   this one")).count();
    ensure!(near > 0 && near * 2 == here.len(), "one of two is on this node: {backends}");
    let routes = wide(&["routes"])?;
    let way = routes.lines().nth(1).unwrap_or_default();
    ensure!(way.contains("eth0     native") || way.ends_with("tunnel"), "{routes}");
    let drops = wide(&["drops"])?;
    ensure!(drops.contains("a service's address, and a port that it does not have"), "{drops}");
    // The kernel's numbers for maps are those of the programs' maps, and links have their names.
    let maps = json(&["maps"])?;
    let pods = row(&maps, "PODS")?;
    ensure!(pods["type"] == "hash" && pods["keyBytes"] == 16, "{pods}");
    let programs = json(&["programs"])?;
    let used = row(&programs, "from_pod")?["maps"].as_array().context("no maps")?;
    ensure!(used.contains(&pods["id"]), "from_pod uses {used:?}, not {}", pods["id"]);
    let line = wide(&["programs"])?;
    let line = line.lines().find(|line| line.starts_with("from_pod ")).context("no from_pod")?;
    ensure!(line.contains(" s ago   ") && line.contains(&pods["id"].to_string()), "{line}");
    let links = wide(&["pods"])?;
    let link = links.lines().nth(1).and_then(|line| line.split_whitespace().rev().nth(2));
    let mut ip = stage.node()?.place()?.command("ip");
    let names = output(ip.args(["-o", "link"]))?;
    ensure!(link.is_some_and(|link| names.contains(&format!("{link}@"))), "{links}{names}");
    for (words, expected) in [
        (&["status"][..], &["ENDED", "MACHINE CODE", "MEANING", "\nhealthy"][..]),
        (&["dns"], &["counted from 20"]),
        (&["explain", "node", "echo:80"], &["candidates: 10."]),
    ] {
        let said = wide(words)?;
        let missing = expected.iter().find(|word| !said.contains(**word));
        ensure!(missing.is_none(), "{words:?}: no {missing:?} in\n{said}");
    }
    let mut all = stage.cluster.bowline(&["net", "services", "--all-nodes", "-o", "wide"])?;
    let said = output(all.args(["--name", &stage.cluster.name]))?;
    ensure!(said.contains("node2:\n") && said.matches("AFFINITY").count() == 2, "{said}");
    let mut cluster = stage.cluster.bowline(&["status", "-o", "wide"])?;
    let said = output(cluster.args(["--name", &stage.cluster.name]))?;
    ensure!(said.contains("RUNTIME") && said.contains("containerd://"), "{said}");
    let ended = finish(net(stage, &["services"])?.args(["-o", "wild"]))?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(!ended.status.success() && said.contains("possible values: table, wide"), "{said}");
    Ok(())
}
