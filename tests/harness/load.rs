//! Clients that run while something else happens, and what they saw.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::artifacts;
use crate::command::shown;
use crate::place::Place;
use crate::running::Running;

/// Uses a service by fresh sockets in turn, until its input is closed: a TCP connection, a
/// connected UDP socket and one that is not; and by one more of the latter that it keeps, which
/// began with the wanted pod if there is one. Prints what came of each. Each UDP socket has a port
/// of its own: to the packets' flow, one that had the port of another would be that one.
const FRESH: &str = r#"
import itertools, json, select, socket, sys, time
host, tcp, udp, wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
family, ports = (socket.AF_INET6, 20000) if ':' in host else (socket.AF_INET, 10000)
# Below those that the kernel gives away, and not again before flows that had them are forgotten.
ports = itertools.cycle(range(ports, ports + 10000))
def datagrams():
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(('', next(ports)))
    s.settimeout(5)
    return s
def stream():
    with socket.create_connection((host, tcp), 5) as s:
        s.sendall(b'GET / HTTP/1.0\r\nConnection: close\r\n\r\n')
        text = b''
        while part := s.recv(4096):
            text += part
    return text.split(b'\r\n\r\n', 1)[1]
def connected():
    with datagrams() as s:
        s.connect((host, udp))
        s.send(b'connected')
        return s.recv(2048)
def loose():
    with datagrams() as s:
        s.sendto(b'loose', (host, udp))
        return s.recv(2048)
def kept():
    own.sendto(b'kept', (host, udp))
    return own.recv(2048)
own, tries = datagrams(), 0
while wanted and json.loads(kept())['pod'] != wanted and tries < 200:
    own, tries = datagrams(), tries + 1
seen, end = [], time.monotonic() + 600
while not select.select([sys.stdin], [], [], 0.02)[0] and time.monotonic() < end:
    for way in (stream, connected, loose, kept):
        at, start, said = time.time(), time.monotonic(), {}
        try:
            said['pod'] = json.loads(way())['pod']
        except (OSError, IndexError, ValueError) as error:
            said['error'] = str(error)
        seen.append({'way': way.__name__, 'at': at, 'took': time.monotonic() - start, **said})
    if len(seen) == 4:
        print('begun', flush=True)
print(json.dumps(seen))
"#;

/// What a client saw.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadReport {
    pub requests: u64,
    pub ok: u64,
    pub failed: u64,
    /// Requests that a kept connection lost because the server closed it while idle.
    pub retried: u64,
    pub errors: BTreeMap<String, u64>,
    /// What servers said: field, value, count. Fields: pod, node, version, client, peer.
    pub seen: BTreeMap<String, BTreeMap<String, u64>>,
    pub seconds: f64,
    pub latency_us: Latency,
}

/// Quantiles in microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Latency {
    pub p50: u32,
    pub p99: u32,
    pub max: u32,
}

impl LoadReport {
    /// The values of a field with their counts.
    pub fn seen(&self, field: &str) -> BTreeMap<String, u64> {
        self.seen.get(field).cloned().unwrap_or_default()
    }

    /// The values of a field.
    pub fn values(&self, field: &str) -> Vec<String> {
        self.seen(field).into_keys().collect()
    }

    /// An error unless every request was answered, and there were any.
    pub fn expect_no_failure(&self, when: &str) -> Result<()> {
        if self.failed > 0 || self.ok == 0 {
            bail!(
                "{when}: {} of {} requests failed: {:?}",
                self.failed,
                self.requests,
                self.errors
            );
        }
        Ok(())
    }
}

/// A client that runs until it is stopped.
pub struct Load {
    process: Child,
    line: String,
}

impl Load {
    /// Fresh connections to `target`, `every_us` microseconds apart in each worker.
    pub fn start(place: &Place, target: SocketAddr, workers: u32, every_us: u32) -> Result<Self> {
        let (target, workers, every) =
            (target.to_string(), workers.to_string(), every_us.to_string());
        Self::spawn(place, &["load", &target, "--workers", &workers, "--every-us", &every])
    }

    /// Connections that are opened once and used all the time.
    pub fn hold(place: &Place, target: SocketAddr, connections: u32) -> Result<Self> {
        let (target, connections) = (target.to_string(), connections.to_string());
        Self::spawn(place, &["hold", &target, "--connections", &connections])
    }

    /// Any mode of the workload that ends when its input closes.
    pub fn spawn(place: &Place, arguments: &[&str]) -> Result<Self> {
        let mut command = workload(place)?;
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = shown(&command);
        let process = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self { process, line })
    }

    /// Stop it and read what it saw.
    pub fn stop(self) -> Result<LoadReport> {
        self.stop_with()
    }

    /// Stop it and read a report of its own kind.
    pub fn stop_with<T: DeserializeOwned>(mut self) -> Result<T> {
        // Closing its input is the signal.
        drop(self.process.stdin.take());
        let output = self.process.wait_with_output()?;
        parse(&self.line, &output)
    }
}

/// A client that opens a socket for each request, by TCP and by UDP.
pub struct Fresh(Running);

/// What came of one request of [`Fresh`].
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    /// `stream`, `connected`, `loose`; or `kept`, whose socket alone is not fresh.
    pub way: String,
    /// When it began, in seconds since 1970.
    pub at: f64,
    /// In seconds.
    pub took: f64,
    /// Who answered.
    pub pod: Option<String>,
    pub error: Option<String>,
}

impl Fresh {
    /// Starts it at a service's ports of TCP (HTTP) and of UDP (echo), and waits for its first
    /// requests. The socket that it keeps begins with the `wanted` pod, unless that is empty.
    pub fn start(place: &Place, host: IpAddr, ports: [u16; 2], wanted: &str) -> Result<Self> {
        let mut python = place.command("python3");
        python.args(["-c", FRESH, &host.to_string()]).args(ports.map(|port| port.to_string()));
        python.arg(wanted);
        Ok(Self(Running::until(python, "begun")?))
    }

    /// Stops it and gives all that it saw.
    pub fn stop(mut self) -> Result<Vec<Attempt>> {
        let said = self.0.rest()?;
        serde_json::from_str(&said).with_context(|| format!("fresh sockets printed {said:?}"))
    }
}

/// The workload, to be run in a place; in a container it is part of the image.
fn workload(place: &Place) -> Result<Command> {
    let program =
        if place.is_container() { PathBuf::from("/workload") } else { artifacts::workload()? };
    Ok(place.command(program))
}

/// Run a mode of the workload to its end and read its report.
pub fn run<T: DeserializeOwned>(place: &Place, arguments: &[&str]) -> Result<T> {
    let mut command = workload(place)?;
    command.args(arguments);
    let output = crate::command::finish(&mut command)?;
    parse(&shown(&command), &output)
}

/// So many requests over fresh connections.
pub fn requests(place: &Place, target: SocketAddr, count: u32) -> Result<LoadReport> {
    run(place, &["load", &target.to_string(), "--requests", &count.to_string()])
}

fn parse<T: DeserializeOwned>(line: &str, output: &std::process::Output) -> Result<T> {
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` ended with {}: {}", output.status, error.trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{line}` printed no report"))
}
