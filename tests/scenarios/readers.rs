//! Whoever reads what `bowline net` prints: somebody who watches, at a terminal and in a pipe; a
//! narrow terminal; a pipe that nobody reads any more; somebody who is not root. A part of the
//! toolkit's scenario.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::api::name;
use bowline_tests::command::{command, finish, output};
use bowline_tests::{EchoStage, artifacts};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bad_input::error_line;
use crate::terminal::{ENTERS, Terminal};
use crate::toolkit::net;

const PATIENCE: Duration = Duration::from_secs(20);
/// How a screen is cleared, and its first place is gone to.
const CLEARS: &str = "\x1b[2J\x1b[H";
/// Who is nobody.
const NOBODY: u32 = 65_534;
/// Narrower than any table.
const NARROW: u16 = 30;

/// Comes while somebody watches, and goes.
const LATE: &str = r#"{ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "late" },
    "spec": { "selector": { "app": "late" }, "ports": [{ "port": 81 }] } }"#;

/// Commands that show a state, of which nothing changes on a cluster at rest.
const STEADY: [&[&str]; 9] = [
    &["services"],
    &["backends", "-o", "wide"],
    &["pods"],
    &["routes"],
    &["affinity"],
    &["features"],
    &["maps", "dump", "SERVICES"],
    &["maps", "get", "SERVICES", "10.9.8.9:80/TCP"],
    &["explain", "node", "echo:80"],
];

/// And those of which something does.
const MOVING: [&[&str]; 8] = [
    &["counters"],
    &["drops"],
    &["maps"],
    &["programs"],
    &["neighbours"],
    &["dns"],
    &["diff"],
    &["status"],
];

pub(super) fn play(stage: &EchoStage) -> Result<()> {
    at_a_terminal(stage).context("--watch at a terminal")?;
    in_a_pipe(stage).context("--watch in a pipe")?;
    narrow(stage).context("a narrow terminal")?;
    nobody_reads(stage).context("a pipe that nobody reads")?;
    not_root(stage).context("somebody who is not root")
}

/// Tables one after the other on a screen that is cleared, until Ctrl-C; what comes is shown, and
/// what goes.
fn at_a_terminal(stage: &EchoStage) -> Result<()> {
    let cluster = &stage.cluster;
    let mut terminal = Terminal::start(net(stage, &["services", "--watch", "1"])?, 24, 200)?;
    terminal.shows(" echo ")?;
    let directory = tempfile::tempdir()?;
    let manifest = directory.path().join("late.json");
    fs::write(&manifest, LATE)?;
    let of_file = |verb: &str| -> Result<String> {
        let mut asked = cluster.bowline(&[verb, "--name", &cluster.name, "-f"])?;
        output(asked.arg(&manifest))
    };
    of_file("apply")?;
    terminal.shows(" late ")?;
    of_file("delete")?;
    terminal.hides(" late ")?;
    terminal.press("\x03")?;
    let status = terminal.end()?;
    let raw = terminal.raw();
    ensure!(status.signal() == Some(Signal::SIGINT as i32), "{status}: {raw:?}");
    ensure!(raw.matches(CLEARS).count() > 2 && !raw.contains(ENTERS), "{raw:?}");
    // Between two tables it does nothing to the terminal: its settings are those from before.
    terminal.has_its_settings()
}

/// Documents one after the other; it ends, and has not failed, once nobody reads them.
fn in_a_pipe(stage: &EchoStage) -> Result<()> {
    let mut watch = net(stage, &["backends", "--watch", "1", "-o", "json"])?;
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let read = watch.stdout.take().context("no output")?;
    let mut documents = serde_json::Deserializer::from_reader(BufReader::new(read)).into_iter();
    for _ in 0..2 {
        let rows: Value = documents.next().context("it ended")??;
        ensure!(rows.to_string().contains("10.9.8.9"), "{rows}");
    }
    drop(documents);
    ends_quietly(watch)
}

/// Nothing is cut, and no row is arranged in another way: a terminal wraps what is too long.
fn narrow(stage: &EchoStage) -> Result<()> {
    for words in STEADY {
        let piped = output(&mut net(stage, words)?)?;
        let mut terminal = Terminal::start(net(stage, words)?, 24, NARROW)?;
        let (status, raw) = (terminal.end()?, terminal.raw());
        ensure!(status.success(), "{words:?}: {status}: {raw}");
        // The terminal's own: it begins lines where the machine only ends them.
        let raw = raw.replace("\r\n", "\n");
        // Which way was taken is said to people only.
        let (way, table) = raw.split_once('\n').context("no line")?;
        let says = format!("of the local cluster {}, not through the API", stage.cluster.name);
        ensure!(way.ends_with(&says), "{words:?}: {way}");
        ensure!(table == piped, "{words:?}: {table:?}, and in a pipe {piped:?}");
        ensure!(!piped.contains('\x1b'), "{words:?}: {piped:?}");
    }
    Ok(())
}

/// What is printed is not read: that is no failure, and nothing is said about it.
fn nobody_reads(stage: &EchoStage) -> Result<()> {
    let client = name(&stage.client);
    let more: [&[&str]; 3] = [
        &["top", "--count", "2", "--interval", "0.2"],
        &["explain", &client, "echo:80", "--run"],
        &["trace", &client, "echo:80"],
    ];
    for words in STEADY.into_iter().chain(MOVING).chain(more) {
        let mut unread = net(stage, words)?;
        let mut unread = unread.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(unread.stdout.take());
        ends_quietly(unread).with_context(|| format!("{words:?}"))?;
    }
    // The first line is read, and there is more than a pipe holds.
    let mut head = net(stage, &["monitor", "--count", "1000000"])?;
    let mut head = head.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut complaints = BufReader::new(head.stderr.take().context("no stderr")?);
    let mut said = String::new();
    while !said.ends_with("listening\n") {
        ensure!(complaints.read_line(&mut said)? > 0, "it ended: {said}");
    }
    let load = bowline_tests::Load::start(&stage.place()?, EchoStage::service(), 1, 0)?;
    let mut first = String::new();
    let mut shown = BufReader::new(head.stdout.take().context("no output")?);
    shown.read_line(&mut first)?;
    drop(shown);
    let ended = finishes(&mut head);
    load.stop()?.expect_no_failure("while somebody listens")?;
    ensure!(first.ends_with('\n') && ended?.success(), "{first:?}, then {said}");
    Ok(())
}

fn finishes(process: &mut Child) -> Result<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > PATIENCE {
            process.kill()?;
            process.wait()?;
            anyhow::bail!("it goes on without a reader");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ends_quietly(mut process: Child) -> Result<()> {
    finishes(&mut process)?;
    let ended = process.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success() && said.is_empty(), "{}: {said}", ended.status);
    Ok(())
}

/// On the node itself everything needs root: one line says so, and what else there is.
fn not_root(stage: &EchoStage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    // The build directory may not be readable for everybody.
    let program = directory.path().join("bowline");
    fs::copy(artifacts::bowline()?, &program)?;
    let bpffs = stage.node()?.bpffs();
    // Somebody's own, in which only bowline keeps anything from being made.
    let own = directory.path().join("own");
    fs::create_dir(&own)?;
    chown(&own, Some(NOBODY), Some(NOBODY))?;
    let [packets, archive] = ["packets", "archive"].map(|it| own.join(it).display().to_string());
    let client = name(&stage.client);
    let kubeconfig = stage.cluster.kubeconfig().display().to_string();
    let more: [&[&str]; 7] = [
        &["top", "--count", "1"],
        &["monitor", "--count", "1"],
        &["capture", "--count", "1", "--write", &packets],
        &["explain", &client, "10.9.8.9:80"],
        &["trace", &client, "10.9.8.9:80"],
        &["bugreport", "--file", &archive],
        &["diff", "--node-name", "node1", "--kubeconfig", &kubeconfig],
    ];
    let steady = STEADY.into_iter().filter(|words| words[0] != "explain");
    // What DNS counts is in a file of the agent's, and whoever may read that may.
    let moving = MOVING.into_iter().filter(|words| !["diff", "dns"].contains(&words[0]));
    for words in steady.chain(moving).chain(more) {
        let mut nobody: Command = command("setpriv");
        let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        nobody.args(ids).arg("--clear-groups").arg(&program);
        nobody.arg("net").args(words).arg("--bpffs").arg(&bpffs);
        let ended = finish(&mut nobody)?;
        let said = error_line(&ended).with_context(|| format!("{words:?}"))?;
        ensure!(said.contains("needs root: run it with sudo"), "{words:?}: {said}");
        ensure!(ended.stdout.is_empty(), "{words:?} printed something");
    }
    let made = fs::read_dir(&own)?.count();
    ensure!(made == 0, "somebody who is not root made {made} files");
    Ok(())
}
