//! Connected UDP sockets leave a backend that is gone.
//!
//! Nothing tells a client that holds one connected UDP socket for ever that its backend went: it
//! would go on sending to nobody. When a backend left a UDP service for good, a thread of its own
//! looks for sockets that are connected to it under the service's name, in every network namespace
//! of the processes below the node's cgroup, and connects them to the service anew, through a
//! duplicate of the holder's descriptor. The socket hook then chooses a backend that is there. The
//! client's own descriptor, local address and port, options and waiting receive calls stay.
//!
//! Guarantees: sockets that reached the same address without the service are left alone, and so are
//! those of backends that only terminate and still serve. A socket whose holder is not found (its
//! descriptor is under way in a message, say) is destroyed, so that its next call fails at once and
//! the client connects anew. A service without ready backends is tried again until it has one.
//! Not here: TCP, which notices by itself.

mod departures;
mod diag;
mod holders;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_ebpf_abi::{Address, Peer, map, size};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockaddrStorage;

use super::pins::Pins;
use super::table::{ReadMapsFailed, Table};
pub(super) use departures::{Departed, Departures};
use diag::Found;
use holders::Processes;

/// How long further departures are waited for before a search, and how long until sockets that
/// could not be moved are tried again.
const GATHER: Duration = Duration::from_millis(50);
const AGAIN: Duration = Duration::from_millis(500);

/// What a search came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Search {
    moved: usize,
    destroyed: usize,
    /// Their service has nobody else yet.
    waiting: usize,
}

/// The thread that moves sockets. Dropping it lets a search that is under way end.
#[derive(Debug)]
pub(super) struct UdpMover {
    departed: Option<Sender<Vec<Departed>>>,
    thread: Option<JoinHandle<()>>,
}

impl UdpMover {
    /// For the processes below this cgroup2 directory.
    pub(super) fn start(pins: &Pins, cgroup: PathBuf) -> Result<Self, StartMoverFailed> {
        let peers = Table::open(&pins.maps, map::PEERS)?;
        let (departed, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("datapath-udp".to_owned())
            .spawn(move || move_departed(&queue, &peers, &cgroup))
            .map_err(StartMoverFailed::Thread)?;
        Ok(Self { departed: Some(departed), thread: Some(thread) })
    }

    /// These backends left these services.
    pub(super) fn tell(&self, departed: Vec<Departed>) {
        if let Some(queue) = self.departed.as_ref().filter(|_| !departed.is_empty()) {
            let _ = queue.send(departed);
        }
    }
}

impl Drop for UdpMover {
    fn drop(&mut self) {
        self.departed.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that moves UDP sockets could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartMoverFailed {
    #[error(transparent)]
    Read(#[from] ReadMapsFailed),
    #[error("starting a thread failed: {0}")]
    Thread(io::Error),
}

fn move_departed(queue: &Receiver<Vec<Departed>>, peers: &Table<u32, Peer>, cgroup: &Path) {
    let mut departed: BTreeSet<Departed> = BTreeSet::new();
    loop {
        let more = if departed.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(AGAIN)
        };
        match more {
            Ok(first) => {
                departed.extend(first);
                std::thread::sleep(GATHER);
                departed.extend(queue.try_iter().flatten());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        match search(&departed, peers, cgroup) {
            Ok(done) => {
                if done.moved + done.destroyed > 0 {
                    let Search { moved, destroyed, waiting } = done;
                    tracing::info!(moved, destroyed, waiting, "UDP sockets left dead backends");
                }
                if done.waiting == 0 {
                    departed.clear();
                }
            }
            Err(error) => tracing::warn!(%error, "searching UDP sockets of dead backends"),
        }
    }
}

fn search(
    departed: &BTreeSet<Departed>,
    peers: &Table<u32, Peer>,
    cgroup: &Path,
) -> io::Result<Search> {
    let mut done = Search::default();
    let processes = Processes::below(cgroup)?;
    for (path, members) in processes.namespaces() {
        // A process may end at any time.
        let Ok(namespace) = std::fs::File::open(path) else { continue };
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        for socket in diag::connected_udp_sockets()? {
            let Some(service) = service_of(&socket, departed, peers) else { continue };
            let holder = members.iter().find_map(|process| process.socket(socket.inode));
            let holder = holder.or_else(|| processes.holder_of(socket.inode));
            match holder.map(|holder| reconnect(&holder, &socket, service)) {
                Some(Ok(())) => done.moved += 1,
                Some(Err(error)) if refused(&error) => done.waiting += 1,
                _ => match diag::destroy(&socket) {
                    Ok(()) => done.destroyed += 1,
                    Err(error) => tracing::warn!(%error, ?socket, "destroying a UDP socket"),
                },
            }
        }
    }
    Ok(done)
}

/// The service under whose name the socket is connected to a departed backend.
fn service_of(
    socket: &Found,
    departed: &BTreeSet<Departed>,
    peers: &Table<u32, Peer>,
) -> Option<SocketAddr> {
    let (address, port) = (Address::from(socket.remote.ip()), socket.remote.port());
    if !departed.iter().any(|gone| gone.backend.is(&address, port)) {
        return None;
    }
    let place = socket.cookie as u32 & (size::PEERS - 1);
    let peer = peers.get(&place).ok().flatten()?;
    let mine = peer.cookie == socket.cookie && peer.backend.same(&address);
    let left = departed.iter().any(|gone| {
        gone.service.address.same(&peer.name.address)
            && gone.service.port == peer.name.port
            && gone.backend.is(&peer.backend, peer.port.get())
    });
    (mine && left).then(|| SocketAddr::new(peer.name.address.into(), peer.name.port.get()))
}

/// Connects the socket to its service again: the hook of its own cgroup balances it anew.
fn reconnect(holder: &holders::Descriptor, socket: &Found, service: SocketAddr) -> io::Result<()> {
    let duplicate = holder.duplicate()?;
    if nix::sys::stat::fstat(&duplicate)?.st_ino != u64::from(socket.inode) {
        return Err(io::Error::other("the descriptor became another socket's"));
    }
    let service = match (socket.is_v6, service.ip()) {
        (true, IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), service.port()),
        _ => service,
    };
    nix::sys::socket::connect(duplicate.as_raw_fd(), &SockaddrStorage::from(service))?;
    Ok(())
}

/// Whether the service has nobody to answer at the moment.
fn refused(error: &io::Error) -> bool {
    use nix::libc::{ECONNREFUSED, EPERM};
    matches!(error.raw_os_error(), Some(ECONNREFUSED | EPERM))
}

/// The form in which both families compare.
fn canonical(address: Ipv6Addr) -> IpAddr {
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}
