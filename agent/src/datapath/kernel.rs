//! What the kernel itself says of a network namespace: its links, its neighbours, where its routes
//! lead, and which packet programs run at its links.
//!
//! Guarantees: reads only. The calling thread stays where it is: a thread that lives only for it
//! enters the namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::Serialize;

use super::condition::Condition;
use super::filters;
use super::links;
use super::netns;
use super::pins::Pins;
use crate::network::{
    AddressSeen, LinkSeen, Lookup, Netlink, NetlinkRequestFailed, hardware_address,
};

/// The kernel could not be asked about a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum ReadKernelFailed {
    #[error("entering network namespace {}: {source}", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("asking the kernel: {0}")]
    Ask(#[from] io::Error),
    #[error("asking the kernel: {0}")]
    Netlink(#[from] NetlinkRequestFailed),
}

/// A neighbour of the node or of one of its links.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighbourRow {
    pub address: IpAddr,
    pub ifindex: u32,
    pub link: String,
    /// None while nobody answered.
    pub mac: Option<String>,
    /// As `ip neigh` has it, in lower case.
    pub state: String,
    /// Since it was last heard that it is there, was last sent to, and its entry last changed.
    pub confirmed_seconds_ago: Option<u64>,
    pub used_seconds_ago: Option<u64>,
    pub updated_seconds_ago: Option<u64>,
}

/// The neighbours that the kernel knows in a network namespace, the calling thread's if none is
/// named; loopback's and those of groups are left out.
pub fn neighbours(netns: Option<&Path>) -> Result<Vec<NeighbourRow>, ReadKernelFailed> {
    inside(netns, || block_on(async { Ok(Seen::of(&[]).await?.neighbours) }))
}

/// The names of the links in a network namespace by their numbers, in the calling thread's if none
/// is named.
pub fn link_names(netns: Option<&Path>) -> Result<BTreeMap<u32, String>, ReadKernelFailed> {
    let links = inside(netns, || block_on(async { Ok(Netlink::open()?.links().await?) }))?;
    Ok(links.into_iter().map(|link| (link.index, link.name)).collect())
}

/// The number that the kernel has for a network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn namespace_cookie(netns: &Path) -> Result<u64, ReadKernelFailed> {
    inside(Some(netns), || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")
            .or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"));
        let cookie = socket
            .and_then(|socket| netns::socket_cookie(socket.as_fd(), nix::libc::SO_NETNS_COOKIE));
        Ok(cookie?)
    })
}

/// One look at a network namespace.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) links: BTreeMap<u32, LinkSeen>,
    pub(super) addresses: Vec<AddressSeen>,
    pub(super) neighbours: Vec<NeighbourRow>,
    /// Where the kernel would send a packet of its own.
    pub(super) lookups: BTreeMap<IpAddr, Lookup>,
}

impl Seen {
    /// Looks, and asks for the way to each of these addresses.
    pub(super) fn inside(
        netns: Option<&Path>,
        addresses: &[IpAddr],
    ) -> Result<Self, ReadKernelFailed> {
        inside(netns, || block_on(Self::of(addresses)))
    }

    async fn of(addresses: &[IpAddr]) -> Result<Self, ReadKernelFailed> {
        let netlink = Netlink::open()?;
        let links = netlink.links().await?;
        let links: BTreeMap<u32, LinkSeen> =
            links.into_iter().map(|link| (link.index, link)).collect();
        let own = netlink.addresses().await?;
        let mut neighbours = Vec::new();
        for entry in netlink.neighbour_entries().await? {
            let Some(link) = links.get(&entry.link).filter(|link| link.name != "lo") else {
                continue;
            };
            if entry.address.is_multicast() {
                continue;
            }
            neighbours.push(NeighbourRow {
                address: entry.address,
                ifindex: entry.link,
                link: link.name.clone(),
                mac: entry.mac.map(|mac| hardware_address(&mac)),
                state: entry.state.to_string(),
                confirmed_seconds_ago: entry.age.map(|age| age.confirmed),
                used_seconds_ago: entry.age.map(|age| age.used),
                updated_seconds_ago: entry.age.map(|age| age.updated),
            });
        }
        neighbours.sort_unstable();
        let mut lookups = BTreeMap::new();
        for address in addresses {
            lookups.insert(*address, netlink.lookup(*address).await?);
        }
        Ok(Self { links, addresses: own, neighbours, lookups })
    }

    pub(super) fn link_name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("link {ifindex}"), |link| link.name.clone())
    }
}

/// A place where a program should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attached {
    /// The number of the program that runs there.
    Runs(u32),
    /// Nothing of ours runs there, and how that shows.
    Not(&'static str),
}

/// Whether a packet program runs at an interface of this namespace.
pub(super) fn packet_program(
    netns: Option<&Path>,
    pins: &Pins,
    condition: &Condition,
    program: &str,
    ifindex: u32,
) -> Result<Attached, ReadKernelFailed> {
    let hook = condition.programs.iter().find(|loaded| loaded.name == program);
    if hook.is_some_and(|loaded| loaded.hook.starts_with("clsact")) {
        let number = inside(netns, || Ok(filters::program_of(program, ifindex)?))?;
        return Ok(number.map_or(Attached::Not("no filter of ours is there"), Attached::Runs));
    }
    pinned_program(&pins.links.join(format!("{program}-{ifindex}")))
}

/// Whether the program runs whose link is pinned here.
pub(super) fn pinned_program(pin: &Path) -> Result<Attached, ReadKernelFailed> {
    Ok(links::program_of(pin)?)
}

fn inside<T: Send>(
    netns: Option<&Path>,
    work: impl FnOnce() -> Result<T, ReadKernelFailed> + Send,
) -> Result<T, ReadKernelFailed> {
    let enter = |path: &Path| -> io::Result<()> {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    };
    let work = || {
        if let Some(path) = netns {
            enter(path)
                .map_err(|source| ReadKernelFailed::Enter { path: path.to_path_buf(), source })?;
        }
        work()
    };
    let ended = std::thread::scope(|scope| scope.spawn(work).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn block_on<T>(
    work: impl Future<Output = Result<T, ReadKernelFailed>>,
) -> Result<T, ReadKernelFailed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime?.block_on(work)
}
