//! Trying out what `bowline net explain` says: one real connection, or one connected datagram
//! socket, from where the client is.
//!
//! Guarantees: made by a process of its own in the client's network namespace and in a cgroup below
//! the socket hooks' own, both left when it ends; nothing is sent over a datagram socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bowline_agent::datapath::{Client, Explanation, Question};
use serde::{Deserialize, Serialize};

use crate::launch::THIS_PROGRAM;
use crate::output;

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tried {
    /// Why there is no connection.
    error: Option<String>,
    /// Whom the program believes to talk to.
    peer: Option<SocketAddr>,
    /// Where the kernel sends to.
    backend: Option<SocketAddr>,
    local: Option<SocketAddr>,
    microseconds: u64,
}

impl Tried {
    /// Where the kernel sends to.
    pub(super) fn backend(&self) -> Option<SocketAddr> {
        self.backend
    }

    /// Why there is no connection.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.microseconds;
        let shown = |end: Option<SocketAddr>| end.map_or_else(|| "-".to_owned(), |e| e.to_string());
        match &self.error {
            Some(error) => write!(f, "{error} after {time} us"),
            None => write!(
                f,
                "connected to {} in {time} us, as {}, which sees its peer as {}",
                shown(self.backend),
                shown(self.local),
                shown(self.peer)
            ),
        }
    }
}

/// The other side: who is started where the client is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    to: SocketAddr,
    #[arg(long)]
    udp: bool,
}

/// Connects, and prints what came of it.
pub(super) fn connect(args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let tried = match args.udp {
        true => datagram(args.to),
        false => stream(args.to),
    };
    let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let tried = tried.unwrap_or_else(|error| Tried {
        error: Some(error.to_string()),
        peer: None,
        backend: None,
        local: None,
        microseconds: 0,
    });
    output::document(&Tried { microseconds, ..tried }, output::Format::Json)
}

fn stream(to: SocketAddr) -> io::Result<Tried> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    tried(stream.peer_addr()?, stream.local_addr()?, "tcp")
}

fn datagram(to: SocketAddr) -> io::Result<Tried> {
    let any = match to.is_ipv4() {
        true => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    tried(socket.peer_addr()?, socket.local_addr()?, "udp")
}

fn tried(peer: SocketAddr, local: SocketAddr, table: &str) -> io::Result<Tried> {
    let suffix = if local.is_ipv4() { "" } else { "6" };
    let text = std::fs::read_to_string(format!("/proc/self/net/{table}{suffix}"))?;
    let backend = far_end(&text, local);
    Ok(Tried { error: None, peer: Some(peer), backend, local: Some(local), microseconds: 0 })
}

/// The far end of the socket with this near end, in the kernel's table (proc(5), `/proc/net/tcp`).
pub(super) fn far_end(table: &str, local: SocketAddr) -> Option<SocketAddr> {
    let mut lines = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((end(words.next()?)?, end(words.next()?)?))
    });
    lines.find(|(near, _)| *near == local).map(|(_, far)| far)
}

/// `0100007F:1F90`: words in the machine's byte order, each in network order within, and the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = address.as_bytes().chunks(8).map(|word| {
        u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes)
    });
    let bytes = words.collect::<Option<Vec<[u8; 4]>>>()?.concat();
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(SocketAddr::new(address, port))
}

/// What the names of such cgroups begin with.
const OWN: &str = "client-";

/// Removes what one left that was killed.
fn forget_dead(parent: &Path) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(OWN));
        let is_alive = |pid: &str| Path::new("/proc").join(pid).exists();
        if owner.is_some_and(|pid| !is_alive(pid)) {
            // Another one may be at it too.
            drop(std::fs::remove_dir(entry.path()));
        }
    }
}

/// A cgroup below the socket hooks' own that goes when this value does.
pub(super) struct OwnCgroup(PathBuf);

impl OwnCgroup {
    pub(super) fn of(told: &Explanation) -> anyhow::Result<Self> {
        let Some(parent) = &told.socket_cgroup else {
            bail!("where the socket hooks are attached is not known: has the agent started?");
        };
        forget_dead(parent);
        let path = parent.join(format!("{OWN}{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        // Busy for a moment after its process ended.
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A program of ours that is started where the client is; in this cgroup, or in that of this
/// process.
pub(super) fn at_client(
    netns: Option<&Path>,
    cgroup: Option<&OwnCgroup>,
    words: &[String],
) -> anyhow::Result<Command> {
    let program = Path::new(THIS_PROGRAM);
    let mut command = Command::new(program);
    command.arg("internal-exec");
    if let Some(OwnCgroup(path)) = cgroup {
        command.arg("--cgroup").arg(path);
    }
    if let Some(netns) = netns {
        command.arg("--netns").arg(netns);
    }
    command.arg("--").arg(program).args(words);
    Ok(command)
}

/// Says why nothing can be sent from a pod whose network namespace is not known.
pub(super) fn must_be_known(client: &Client, netns: Option<&Path>) -> anyhow::Result<()> {
    match (client, netns) {
        (Client::Pod(address), None) => bail!(
            "where pod {address} lives is not known, so nothing is tried: is --run-dir the agent's?"
        ),
        _ => Ok(()),
    }
}

/// Tries it where the client is.
pub(super) fn run(told: &Explanation, question: &Question) -> anyhow::Result<Tried> {
    must_be_known(&question.from, told.netns.as_deref())?;
    let cgroup = OwnCgroup::of(told)?;
    let mut words = ["net", "probe", &told.to.to_string()].map(str::to_owned).to_vec();
    if question.udp {
        words.push("--udp".to_owned());
    }
    let ended = at_client(told.netns.as_deref(), Some(&cgroup), &words)?.output();
    let ended = ended.context("cannot start a client")?;
    if !ended.status.success() {
        bail!("the client failed: {}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    serde_json::from_slice(&ended.stdout).context("the client said something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_end_is_in_the_kernels_table() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let found = far_end(&table, stream.local_addr().unwrap());
        assert_eq!(found, Some(listener.local_addr().unwrap()));
        let known = if cfg!(target_endian = "little") { "0100007F:1F90" } else { "7F000001:1F90" };
        assert_eq!(end(known), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(end("nothing"), None);
    }
}
