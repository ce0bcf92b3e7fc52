//! `bowline net monitor` and `capture` on a real cluster: what they show of packets and calls, what
//! they leave out, and that it stays small when there is more than anybody can read.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::loaded_programs;
use bowline_agent::datapath::Repeat;
use bowline_tests::api::{address, uid};
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::command::{finish, output};
use bowline_tests::load::Load;
use bowline_tests::{EchoStage, Place, Wishes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Until what happened is shown, and between two looks at who listens.
const MOMENT: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);
const RATE: u64 = 500;
const FLOOD: Duration = Duration::from_secs(2);
/// Of the monitor's memory.
const MOST_KB: u64 = 60_000;

const CONNECT: &str = r"
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
except OSError as error:
    print(error)
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn what_happens_is_shown_as_it_happens() -> Result<()> {
    let mut wishes = Wishes { nodes: 2, ..Wishes::default() };
    wishes.flags.extend(BOTH_FAMILIES.map(str::to_owned));
    let stage = EchoStage::up(&wishes).await?;
    let played = play(&stage);
    played.map_err(|error| stage.cluster.with_logs(error))
}

fn play(stage: &EchoStage) -> Result<()> {
    let node = stage.node()?;
    let client = uid(&stage.client);
    let hooked = node.pod_network_in_cgroup(&client)?;
    let past_hooks = node.pod_network(&client)?;
    calls(stage, &hooked).context("calls on sockets")?;
    packets(stage, &past_hooks).context("packets that are balanced one by one")?;
    super::capture::play(stage, &past_hooks).context("captures")?;
    one_at_a_time(stage).context("two who listen")?;
    flood(stage, &past_hooks).context("more than can be read")?;
    a_million(stage).context("a million events at once")
}

/// One who listens at work, and who reads it.
pub(super) struct Monitor {
    process: Child,
    complaints: BufReader<ChildStderr>,
    /// Until it is ended.
    shown: Option<JoinHandle<io::Result<String>>>,
}

impl Monitor {
    fn start(stage: &EchoStage, words: &[&str]) -> Result<Self> {
        Self::run(stage, &[&["monitor", "-o", "json"], words].concat())
    }

    /// `bowline net` with these words, once it listens.
    pub(super) fn run(stage: &EchoStage, words: &[&str]) -> Result<Self> {
        let node = &stage.node()?.name;
        let mut command = stage.cluster.bowline(&["net"])?;
        command.args(words).args(["--node", node, "--name", &stage.cluster.name]);
        command.stdout(Stdio::piped());
        Self::of(command)
    }

    /// The same of a command whose output goes where it says.
    fn of(mut command: Command) -> Result<Self> {
        let mut process = command.stderr(Stdio::piped()).spawn()?;
        let complaints = BufReader::new(process.stderr.take().context("no stderr")?);
        let mut monitor = Self { process, complaints, shown: None };
        let shown = monitor.process.stdout.take();
        monitor.shown = Some(std::thread::spawn(move || {
            let mut text = String::new();
            shown.map_or(Ok(0), |mut shown| shown.read_to_string(&mut text)).map(|_| text)
        }));
        let mut said = String::new();
        while !said.ends_with("listening\n") {
            let more = monitor.complaints.read_line(&mut said)?;
            ensure!(more > 0, "the monitor ended: {said}");
        }
        Ok(monitor)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.process.id())?))
    }

    /// Kilobytes of memory.
    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let field = field.and_then(|text| text.split_whitespace().next()).context("no VmRSS")?;
        Ok(field.parse()?)
    }

    /// How long it has kept processors busy.
    fn busy(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()?))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().context("no time")?;
            nanoseconds += first.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Ends it as Ctrl-C does; the events, and what it said at its end.
    fn end(self) -> Result<(Vec<Value>, String)> {
        let (text, said) = self.stop()?;
        let rows = text.lines().map(|line| Ok(serde_json::from_str(line)?));
        Ok((rows.collect::<Result<_>>()?, said))
    }

    /// The same, with what it printed as it is.
    pub(super) fn stop(mut self) -> Result<(String, String)> {
        std::thread::sleep(MOMENT);
        kill(self.pid()?, Signal::SIGINT)?;
        let mut said = String::new();
        self.complaints.read_to_string(&mut said)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "{status}: {said}");
        let shown = self.shown.take().context("it was ended before")?;
        let text = shown.join().map_err(|_| anyhow!("the reader panicked"))??;
        Ok((text, said))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Of one that ended nothing is left to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// That nothing was lost, by what one who listened said at its end.
pub(super) fn nothing_lost(said: &str) -> Result<()> {
    ensure!(said.lines().any(|line| line.ends_with(", 0 lost")), "{said}");
    Ok(())
}

/// Whether a connection came about.
pub(super) fn connect(place: &Place, to: &str, port: u16) -> Result<bool> {
    let mut python = place.command("python3");
    let said = output(python.args(["-c", CONNECT, to, &port.to_string()]))?;
    Ok(said.is_empty())
}

fn find<'a>(rows: &'a [Value], wanted: &[(&str, &str)]) -> Result<&'a Value> {
    let is = |row: &&Value| {
        wanted.iter().all(|(path, value)| row.pointer(path).and_then(Value::as_str) == Some(*value))
    };
    rows.iter().find(is).with_context(|| format!("no event {wanted:?} among {rows:#?}"))
}

fn calls(stage: &EchoStage, place: &Place) -> Result<()> {
    let name = stage.client.metadata.name.clone().unwrap_or_default();
    let caller = format!("default/{name}");
    // By the pod: its calls have no address of its own.
    let monitor = Monitor::start(stage, &["--pod", &name, "--verdict", "refused"])?;
    connect(place, "10.9.8.9", 82)?;
    let (rows, _) = monitor.end()?;
    if knows_cookies()? {
        find(&rows, &[("/reason", "unknown-port"), ("/caller", &caller)])?;
    }
    let monitor = Monitor::start(stage, &["--address", "10.9.8.9"])?;
    connect(place, "10.9.8.9", 80)?;
    connect(place, "10.9.8.9", 81)?;
    connect(place, "10.9.8.7", 80)?;
    let (rows, said) = monitor.end()?;
    let row = find(&rows, &[("/reason", "balanced"), ("/direction", "socket")])?;
    ensure!(row["destination"]["name"] == "default/echo", "{row}");
    let servers = stage.servers.iter().map(|pod| Ok(address(pod)?.to_string()));
    let servers: Vec<String> = servers.collect::<Result<_>>()?;
    let becomes = row["becomes"]["address"].as_str().unwrap_or_default();
    ensure!(servers.iter().any(|server| server == becomes), "{row}");
    ensure!(row["caller"] == caller.as_str() || !knows_cookies()?, "{row}");
    let own = address(&stage.client)?.to_string();
    let opened = find(&rows, &[("/reason", "connected"), ("/source/address", &own)])?;
    let took = opened["connectMicroseconds"].as_u64();
    ensure!(took.is_some_and(|took| took < 1_000_000), "no time of connect: {opened}");
    let ends = (&opened["destination"], &opened["becomes"]);
    ensure!(ends == (&row["destination"], &row["becomes"]), "{row} {opened}");
    let row = find(&rows, &[("/reason", "unknown-port"), ("/verdict", "refused")])?;
    ensure!(row["destination"]["port"] == 81, "{row}");
    let strangers = rows.iter().filter(|row| !row.to_string().contains("10.9.8.9")).count();
    ensure!(strangers == 0, "the filter let {strangers} others through: {rows:#?}");
    nothing_lost(&said)?;
    Ok(())
}

/// Whether the kernel tells the number of a network namespace (Linux 5.14).
pub(super) fn knows_cookies() -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut parts = release.split('.').map_while(|part| part.parse::<u32>().ok());
    Ok((parts.next(), parts.next()) >= (Some(5), Some(14)))
}

fn packets(stage: &EchoStage, place: &Place) -> Result<()> {
    let words = ["--service", "echo:80", "--verdict", "passed"];
    let monitor = Monitor::start(stage, &words)?;
    connect(place, "10.9.8.9", 80)?;
    let (rows, _) = monitor.end()?;
    let own = address(&stage.client)?.to_string();
    let asked = find(
        &rows,
        &[("/reason", "balanced"), ("/direction", "from-pod"), ("/source/address", &own)],
    )?;
    ensure!(asked["tcpFlags"] == serde_json::json!(["SYN"]), "{asked}");
    ensure!(asked["becomes"]["port"] == 9376, "{asked}");
    let answered =
        find(&rows, &[("/reason", "answer-translated"), ("/destination/address", &own)])?;
    ensure!(answered["becomes"]["name"] == "default/echo", "{answered}");
    let took = rows.iter().filter_map(|row| row["connectMicroseconds"].as_u64()).next();
    ensure!(took.is_some_and(|took| took < 1_000_000), "no time of connect: {rows:#?}");
    Ok(())
}

fn one_at_a_time(stage: &EchoStage) -> Result<()> {
    let mut first = Monitor::start(stage, &[])?;
    let node = &stage.node()?.name;
    let mut second = stage.cluster.bowline(&["net", "monitor", "--count", "1"])?;
    let refused = finish(second.args(["--node", node, "--name", &stage.cluster.name]))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("somebody else listens"), "{said}");
    // One that is killed is in nobody's way, and soon costs nothing.
    first.process.kill()?;
    first.process.wait()?;
    let left = || -> Result<String> {
        let mut dump = stage.cluster.bowline(&["net", "maps", "dump", "MONITOR", "-o", "json"])?;
        output(dump.args(["--node", node, "--name", &stage.cluster.name]))
    };
    ensure!(left()?.contains("until_ns"), "one that was killed left nothing to clear");
    let start = Instant::now();
    while left()?.trim() != "[]" {
        ensure!(start.elapsed() < PATIENCE, "one that was killed left {}", left()?);
        std::thread::sleep(MOMENT);
    }
    let (_, said) = Monitor::start(stage, &[])?.end()?;
    nothing_lost(&said)?;
    ensure!(left()?.trim() == "[]", "one that ended left {}", left()?);
    Ok(())
}

/// As many packets as two workers make; a bounded rate, and a bounded memory.
fn flood(stage: &EchoStage, place: &Place) -> Result<()> {
    let service: SocketAddr = EchoStage::service();
    let load = Load::start(place, service, 4, 0)?;
    let start = Instant::now();
    let monitor = Monitor::start(stage, &["--rate", &RATE.to_string()])?;
    std::thread::sleep(FLOOD);
    let resident = monitor.resident()?;
    let (rows, said) = monitor.end()?;
    let seconds = start.elapsed().as_secs() + 1;
    let seen = load.stop()?;
    seen.expect_no_failure("while somebody listens")?;
    let last = said.lines().last().unwrap_or_default().to_owned();
    println!("{} requests; {} events shown, {resident} kB; {last}", seen.ok, rows.len());
    let shown = rows.len() as u64;
    ensure!(shown > RATE / 2 && shown <= RATE * (seconds + 1), "{shown} events in {seconds} s");
    ensure!(said.contains("events are lost: --rate is 500"), "{said}");
    ensure!(resident < MOST_KB, "the monitor takes {resident} kB");
    Ok(())
}

/// Of a pod that no node has: a datagram from 10.240.77.77 to 10.240.77.78.
const STRANGER: [u8; 60] = {
    let mut frame = [0; 60];
    let header: [u8; 34] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet, IPv4
        0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 240, 77, 77, 10, 240, 77, 78, // UDP
    ];
    let mut at = 0;
    while at < header.len() {
        frame[at] = header[at];
        at += 1;
    }
    [frame[35], frame[37], frame[39]] = [7, 7, 26];
    frame
};
const MILLION: u32 = 1_000_000;
/// Of them in a second.
const MOST_SHOWN: u32 = 10_000;

/// A million packets that are refused, as fast as a processor can refuse them, while somebody
/// listens: each is shown or counted as lost, and who listens stays small.
fn a_million(stage: &EchoStage) -> Result<()> {
    let node = &stage.node()?.name;
    let of_node = ["--node", node, "--name", &stage.cluster.name];
    let mut programs = stage.cluster.bowline(&["net", "programs", "-o", "json"])?;
    let programs: Value = serde_json::from_str(&output(programs.args(of_node))?)?;
    let mut programs = programs.as_array().into_iter().flatten();
    let program = programs.find(|row| row["name"] == "from_pod").context("no from_pod")?;
    let loaded = loaded_programs().filter_map(Result::ok);
    let mut loaded = loaded.filter(|info| program["id"] == info.id());
    let program = loaded.next().context("from_pod is not loaded")?.fd()?;
    let stranger = Repeat::new(Some(program.as_fd()), &STRANGER, None)?;
    for rate in [MOST_SHOWN, 0] {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("events");
        let reason = ["--reason", "spoofed-source", "--rate", &rate.to_string()];
        let mut monitor = stage.cluster.bowline(&["net", "monitor"])?;
        monitor.args(of_node).args(reason).stdout(fs::File::create(&file)?);
        let monitor = Monitor::of(monitor)?;
        let start = Instant::now();
        let cost = stranger.run(MILLION, None)?;
        let took = start.elapsed();
        std::thread::sleep(FLOOD);
        let (resident, busy) = (monitor.resident()?, monitor.busy()?);
        let said = monitor.stop()?.1;
        let last = said.lines().last().unwrap_or_default();
        println!(
            "a million events in {took:.2?}, {:.0} ns each; --rate {rate}: {last}; {resident} kB, \
             {busy:.2?} of a processor",
            cost.nanoseconds
        );
        let mut numbers = last.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (shown, lost) = numbers.next().zip(numbers.next()).context("no numbers")?;
        ensure!(shown + lost == u64::from(MILLION), "{said}");
        let lines = fs::read_to_string(&file)?.lines().count() as u64;
        ensure!(shown > 0 && lines == shown, "{lines} lines: {said}");
        ensure!(rate == 0 || shown <= u64::from(rate) * 4, "{said}");
        ensure!(resident < MOST_KB, "the monitor takes {resident} kB");
        ensure!(busy < FLOOD, "the monitor took {busy:?} of a processor");
    }
    Ok(())
}
