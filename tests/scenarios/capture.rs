//! `bowline net capture`: files that tshark reads, with what became of each packet. A part of the
//! monitor's scenario.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{address, name};
use bowline_tests::command::{command, finish, output};
use bowline_tests::pod_network::Family;
use bowline_tests::{EchoStage, Place};

use crate::monitor::{Monitor, connect, nothing_lost};

/// Nobody listens at it: a server refuses it, with a packet of its own.
const IPV6_PORT: u16 = 9;

/// Less than a packet that opens a connection.
const SNAPLEN: u64 = 60;

const TSHARK: [&str; 11] = [
    "frame.comment",
    "frame.interface_name",
    "frame.time_epoch",
    "frame.len",
    "frame.cap_len",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.dstport",
    "tcp.flags.syn",
];

/// A packet as tshark has it: the fields above.
#[derive(Debug)]
struct Row(Vec<String>);

impl Row {
    fn field(&self, name: &str) -> &str {
        let at = TSHARK.iter().position(|known| *known == name);
        at.and_then(|at| self.0.get(at)).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Result<f64> {
        let text = self.field(name);
        text.parse().with_context(|| format!("{name} is {text:?} of {self:?}"))
    }
}

fn read(file: &Path) -> Result<Vec<Row>> {
    let mut tshark = command("tshark");
    tshark.args(["-n", "-T", "fields"]).arg("-r").arg(file);
    tshark.args(TSHARK.iter().flat_map(|field| ["-e", field]));
    let text = output(&mut tshark)?;
    Ok(text.lines().map(|line| Row(line.split('\t').map(str::to_owned).collect())).collect())
}

/// What was captured of the client while it connected to this port of the service.
fn captured(stage: &EchoStage, place: &Place, words: &[&str], port: u16) -> Result<Vec<Row>> {
    let name = name(&stage.client);
    let words = [&["--pod", &name], words].concat();
    captured_while(stage, &words, || connect(place, "10.9.8.9", port).map(drop))
}

/// What was captured meanwhile.
fn captured_while(
    stage: &EchoStage,
    words: &[&str],
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("capture.pcapng");
    let path = file.to_string_lossy();
    let capture = Monitor::run(stage, &[&["capture", "--write", &path], words].concat())?;
    meanwhile()?;
    let (_, said) = capture.stop()?;
    nothing_lost(&said)?;
    read(&file)
}

fn find<'a>(rows: &'a [Row], comment: &str) -> Result<&'a Row> {
    let row = rows.iter().find(|row| row.field("frame.comment").starts_with(comment));
    row.with_context(|| format!("no packet {comment:?} among {rows:#?}"))
}

pub(super) fn play(stage: &EchoStage, place: &Place) -> Result<()> {
    passed(stage, place).context("of what passes")?;
    refused(stage, place).context("of what is refused")?;
    chosen(stage, place).context("at one hook")?;
    of_a_service(stage, place).context("of a service")?;
    over_ipv6(stage, place).context("over IPv6")?;
    nowhere(stage)
}

fn passed(stage: &EchoStage, place: &Place) -> Result<()> {
    let rows = captured(stage, place, &[], 80)?;
    let own = address(&stage.client)?.to_string();
    let asked = find(&rows, "passed: balanced at from-pod, destination becomes ")?;
    let pod = format!("default/{}", name(&stage.client));
    ensure!(asked.field("frame.interface_name") == pod, "{asked:?}");
    ensure!((asked.field("ip.src"), asked.field("ip.dst")) == (&own, "10.9.8.9"), "{asked:?}");
    ensure!(asked.field("tcp.dstport") == "80", "{asked:?}");
    ensure!(["1", "True"].contains(&asked.field("tcp.flags.syn")), "{asked:?}");
    ensure!(asked.field("frame.comment").contains(":9376 (default/echo"), "{asked:?}");
    let age = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64()
        - asked.number("frame.time_epoch")?;
    ensure!((0.0..60.0).contains(&age), "{age} s old: {asked:?}");
    let answered = find(&rows, "passed: answer-translated at ")?;
    ensure!(answered.field("ip.dst") == own, "{answered:?}");
    ensure!(answered.field("ip.src") != "10.9.8.9", "as it came in: {answered:?}");
    for row in &rows {
        ensure!(row.field("frame.len") == row.field("frame.cap_len"), "cut: {row:?}");
    }
    Ok(())
}

fn refused(stage: &EchoStage, place: &Place) -> Result<()> {
    let rows = captured(stage, place, &["--verdict", "refused"], 81)?;
    let refused = find(&rows, "refused: unknown-port at from-pod")?;
    ensure!(refused.field("tcp.dstport") == "81", "{refused:?}");
    let others = rows.iter().filter(|row| !row.field("frame.comment").starts_with("refused"));
    ensure!(others.count() == 0, "{rows:#?}");
    Ok(())
}

fn chosen(stage: &EchoStage, place: &Place) -> Result<()> {
    let snaplen = SNAPLEN.to_string();
    let rows = captured(stage, place, &["--hook", "from-pod", "--snaplen", &snaplen], 80)?;
    ensure!(rows.len() > 1, "{rows:#?}");
    for row in &rows {
        let (length, kept) = (row.number("frame.len")?, row.number("frame.cap_len")?);
        ensure!(row.field("frame.comment").contains(" at from-pod"), "{row:?}");
        ensure!(kept == length.min(SNAPLEN as f64), "{row:?}");
    }
    ensure!(rows.iter().any(|row| row.field("frame.len") != row.field("frame.cap_len")));
    Ok(())
}

/// What is balanced packet by packet, both ways, and nothing else: not what the client and a server
/// say to each other by their own addresses.
fn of_a_service(stage: &EchoStage, place: &Place) -> Result<()> {
    let server = address(stage.servers.first().context("no server")?)?.to_string();
    let rows = captured_while(stage, &["--service", "echo:80"], || {
        for (to, port) in [("10.9.8.9", 80), ("10.9.8.9", 7), (&server, 9376)] {
            ensure!(connect(place, to, port)?, "no connection to {to}:{port}");
        }
        Ok(())
    })?;
    let own = address(&stage.client)?.to_string();
    let asked = find(&rows, "passed: balanced at from-pod, destination becomes ")?;
    ensure!(asked.field("ip.src") == own && asked.field("tcp.dstport") == "80", "{asked:?}");
    let answered = find(&rows, "passed: answer-translated at ")?;
    ensure!(answered.field("ip.dst") == own, "{answered:?}");
    let balanced = |row: &&Row| row.field("frame.comment").contains("balanced");
    let translated = |row: &&Row| row.field("frame.comment").contains("answer-translated");
    let others = rows.iter().filter(|row| !balanced(row) && !translated(row)).count();
    let other_ports = rows.iter().filter(|row| row.field("tcp.dstport") == "7").count();
    ensure!(others == 0 && other_ports == 0, "{rows:#?}");
    Ok(())
}

/// Between pods' own addresses: the packet that opens a connection, and its answer.
fn over_ipv6(stage: &EchoStage, place: &Place) -> Result<()> {
    let server = stage.servers.first().context("no server")?;
    let [own, other] =
        [Family::V6.of(&stage.client)?, Family::V6.of(server)?].map(|it| it.to_string());
    let pod = name(&stage.client);
    let rows = captured_while(stage, &["--pod", &pod], || {
        ensure!(!connect(place, &other, IPV6_PORT)?, "somebody listens at {IPV6_PORT}");
        Ok(())
    })?;
    let ends = |row: &Row, from: &str, to: &str| {
        row.field("ipv6.src") == from && row.field("ipv6.dst") == to
    };
    let asked = rows.iter().find(|row| ends(row, &own, &other)).context("no question");
    let asked = asked.with_context(|| format!("{rows:#?}"))?;
    ensure!(asked.field("tcp.dstport") == IPV6_PORT.to_string(), "{asked:?}");
    ensure!(asked.field("frame.comment").starts_with("passed: "), "{asked:?}");
    ensure!(rows.iter().any(|row| ends(row, &other, &own)), "no answer: {rows:#?}");
    Ok(())
}

/// A file that cannot be made is said at once, in one line.
fn nowhere(stage: &EchoStage) -> Result<()> {
    let mut capture = stage.cluster.bowline(&["net", "capture", "--write", "/nowhere/c.pcapng"])?;
    let ended =
        finish(capture.args(["--node", &stage.node()?.name, "--name", &stage.cluster.name]))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(!ended.status.success() && said.lines().count() == 1, "{said}");
    ensure!(said.contains("cannot make /nowhere/c.pcapng"), "{said}");
    Ok(())
}
