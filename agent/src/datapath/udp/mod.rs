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
//! descriptor is under way in a message, say) or lets nobody near it is destroyed, so that its next
//! call fails at once and the client connects anew. A service without ready backends is tried again
//! until it has one.
//! Not here: TCP, which notices by itself.

mod departures;
mod diag;
mod holders;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_ebpf_abi::{Address, Direction, Peer, Reason, Service, ServiceKey, Traffic, map};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockaddrStorage;

use super::pins::Pins;
use super::table::{ReadMapsFailed, Table};
pub(super) use departures::{Departed, Departures};
use diag::Found;
use holders::Processes;

/// How long further departures are waited for before a search.
const GATHER: Duration = Duration::from_millis(50);
/// How long until sockets that could not be moved are tried again, first and at most: a search
/// reads much of /proc.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MOST: Duration = Duration::from_secs(4);

/// What a search came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Search {
    moved: usize,
    destroyed: usize,
    /// Services that have nobody else yet.
    waiting: BTreeSet<ServiceKey>,
    /// Why some namespace could not be looked at.
    failed: Option<String>,
}

/// What the thread is told: each departure once, however often it is told.
#[derive(Debug, Default)]
struct Told {
    departed: BTreeSet<Departed>,
    ended: bool,
}

type Cell = Arc<(Mutex<Told>, Condvar)>;

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that moves sockets. Dropping it lets a search that is under way end.
#[derive(Debug)]
pub(super) struct UdpMover {
    cell: Cell,
    thread: Option<JoinHandle<()>>,
}

impl UdpMover {
    /// For the processes below this cgroup2 directory.
    pub(super) fn start(pins: &Pins, cgroup: PathBuf) -> Result<Self, StartMoverFailed> {
        let peers = Table::open(&pins.maps, map::PEERS)?;
        let counters = Table::open_per_cpu(&pins.maps, map::COUNTERS)?;
        let services = Table::open(&pins.maps, map::SERVICES)?;
        let cell = Cell::default();
        let theirs = cell.clone();
        let thread = std::thread::Builder::new()
            .name("datapath-udp".to_owned())
            .spawn(move || move_departed(&theirs, &services, &peers, &counters, &cgroup))
            .map_err(StartMoverFailed::Thread)?;
        Ok(Self { cell, thread: Some(thread) })
    }

    /// These backends left these services.
    pub(super) fn tell(&self, departed: Vec<Departed>) {
        if !departed.is_empty() {
            lock(&self.cell.0).departed.extend(departed);
            self.cell.1.notify_one();
        }
    }
}

impl Drop for UdpMover {
    fn drop(&mut self) {
        lock(&self.cell.0).ended = true;
        self.cell.1.notify_one();
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

fn move_departed(
    cell: &Cell,
    services: &Table<ServiceKey, Service>,
    peers: &Table<u32, Peer>,
    counters: &Table<u32, Traffic>,
    cgroup: &Path,
) {
    let mut departed: BTreeSet<Departed> = BTreeSet::new();
    let (mut failing, mut pause) = (false, AGAIN);
    while let Some(more) = wait(cell, (!departed.is_empty()).then_some(pause)) {
        pause = if more.is_empty() { AGAIN_MOST.min(pause * 2) } else { AGAIN };
        departed.extend(more);
        // Where the service itself is gone, there is nowhere to go.
        departed.retain(|gone| !matches!(services.get(&gone.service), Ok(None)));
        if departed.is_empty() {
            continue;
        }
        let Search { moved, destroyed, waiting, failed } = search(&departed, peers, cgroup);
        if moved + destroyed > 0 {
            let waiting = waiting.len();
            tracing::info!(moved, destroyed, waiting, "UDP sockets left dead backends");
            count(counters, Reason::SocketMoved, moved);
            count(counters, Reason::SocketDestroyed, destroyed);
        }
        match &failed {
            None => departed.retain(|gone| waiting.contains(&gone.service)),
            // One line when trouble begins.
            Some(error) if !failing => {
                tracing::warn!(error, "searching UDP sockets of dead backends, retrying");
            }
            Some(_) => {}
        }
        failing = failed.is_some();
    }
}

/// Waits for departures, or, if something is left to do, until it is time to try again. None when
/// it is time to end.
fn wait(cell: &Cell, again: Option<Duration>) -> Option<BTreeSet<Departed>> {
    let (told, bell) = &**cell;
    let idle = |told: &mut Told| told.departed.is_empty() && !told.ended;
    let mut told = lock(told);
    told = match again {
        None => bell.wait_while(told, idle).unwrap_or_else(PoisonError::into_inner),
        Some(pause) => {
            let waited = bell.wait_timeout_while(told, pause, idle);
            waited.unwrap_or_else(PoisonError::into_inner).0
        }
    };
    if !told.departed.is_empty() {
        let gathered = bell.wait_timeout_while(told, GATHER, |told| !told.ended);
        told = gathered.unwrap_or_else(PoisonError::into_inner).0;
    }
    (!told.ended).then(|| std::mem::take(&mut told.departed))
}

/// The programs never count what is counted here, so it is read and written without a race.
fn count(counters: &Table<u32, Traffic>, reason: Reason, sockets: usize) {
    let index = reason.index(Direction::Socket);
    let counted = counters.get_per_cpu(&index).map_err(|error| error.to_string());
    let written = counted.and_then(|mut traffic| {
        traffic.iter_mut().take(1).for_each(|first| first.packets += sockets as u64);
        counters.put_per_cpu(&index, &traffic).map_err(|error| error.to_string())
    });
    if let Err(error) = written {
        tracing::warn!(error, "counting UDP sockets");
    }
}

/// Looks everywhere, past namespaces where that fails.
fn search(departed: &BTreeSet<Departed>, peers: &Table<u32, Peer>, cgroup: &Path) -> Search {
    let mut done = Search::default();
    let processes = match Processes::below(cgroup) {
        Ok(processes) => processes,
        Err(error) => return Search { failed: Some(error.to_string()), ..done },
    };
    for (namespace, members) in processes.namespaces() {
        let entered = setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        let sockets = match entered.and_then(|()| diag::connected_udp_sockets()) {
            Ok(sockets) => sockets,
            Err(error) => {
                done.failed = Some(error.to_string());
                continue;
            }
        };
        for socket in sockets {
            let Some(service) = service_of(&socket, departed, peers) else { continue };
            let holder = members.iter().find_map(|process| process.socket(socket.inode));
            let holder = holder.or_else(|| processes.holder_of(socket.inode));
            let duplicate = holder.and_then(|holder| holder.duplicate().ok());
            match duplicate.map(|duplicate| reconnect(&duplicate, &socket, &service)) {
                Some(Ok(())) => done.moved += 1,
                Some(Err(error)) if refused(&error) => drop(done.waiting.insert(service)),
                _ => match diag::destroy(&socket) {
                    Ok(()) => done.destroyed += 1,
                    Err(error) => tracing::warn!(%error, ?socket, "destroying a UDP socket"),
                },
            }
        }
    }
    done
}

/// The service under whose name the socket is connected to a departed backend.
fn service_of(
    socket: &Found,
    departed: &BTreeSet<Departed>,
    peers: &Table<u32, Peer>,
) -> Option<ServiceKey> {
    let (address, port) = (Address::from(socket.remote.ip()), socket.remote.port());
    if !departed.iter().any(|gone| gone.backend.is(&address, port)) {
        return None;
    }
    let place = Peer::place(socket.cookie, peers.size() - 1);
    let peer = peers.get(&place).ok().flatten()?;
    let mine = peer.cookie == socket.cookie && peer.backend.same(&address);
    let left = departed.iter().find(|gone| {
        gone.service.address.same(&peer.name.address)
            && gone.service.port == peer.name.port
            && gone.backend.is(&peer.backend, peer.port.get())
    });
    left.filter(|_| mine).map(|gone| gone.service)
}

/// Connects the socket to its service again: the hook of its own cgroup balances it anew.
fn reconnect(duplicate: &OwnedFd, socket: &Found, service: &ServiceKey) -> io::Result<()> {
    if nix::sys::stat::fstat(duplicate)?.st_ino != u64::from(socket.inode) {
        return Err(io::Error::other("the descriptor became another socket's"));
    }
    let address = match service.address.into() {
        IpAddr::V4(v4) if socket.is_v6 => v4.to_ipv6_mapped().into(),
        address => address,
    };
    let service = SocketAddr::new(address, service.port.get());
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
