//! Network namespaces of a cluster, and the links between them.
//!
//! Namespaces are pinned in `/run/netns`, where `ip netns` finds them. Links are made straight
//! into their namespaces; none ever appears in the host's.
//!
//! Guarantees: the calling thread's namespace never changes; work inside of a namespace is done
//! by a thread that lives only for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bowline_api::cidr::Cidr;
use k8s_openapi::api::core::v1::Node as ApiNode;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{InfoData, InfoVeth};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::mounts;
use super::place::Place;
use super::plan::{Node, Plan};
use super::uplinks::{BRIDGE_ADDRESS, Layout, UplinkAddress};
use crate::launch::enter_netns;

/// Where namespaces are pinned.
pub(crate) const PINS: &str = "/run/netns";

/// Says that PINS is a mount point because of us.
const OWN_MOUNT: &str = "/run/bowline/netns-mount";

/// More directories than this are not removed while they are waited for.
const MAX_REMOVALS: usize = 64;

const BRIDGE: &str = "br0";
const UPLINK: &str = "eth0";
const LOOPBACK: &str = "lo";

/// The pin of a namespace.
pub(crate) fn path(namespace: &str) -> PathBuf {
    Path::new(PINS).join(namespace)
}

/// Makes the bridge's and the nodes' namespaces and the links between them.
pub(crate) fn make_all(plan: &Plan) -> anyhow::Result<()> {
    {
        let _held = hold_pins()?;
        mount_pins().with_context(|| format!("cannot make {PINS} a mount point"))?;
        // From here on it is used, and stays.
        make(&plan.bridge_namespace)?;
    }
    for node in &plan.nodes {
        make(&node.namespace)?;
    }
    let middle = plan.clone();
    inside(&plan.bridge_namespace, async move |handle| make_middle(&handle, &middle).await)?;
    for node in &plan.nodes {
        let addresses = node.addresses.clone();
        inside(&node.namespace, async move |handle| set_up_uplink(&handle, &addresses).await)?;
    }
    Ok(())
}

/// Leads what the server answers to the pods that ask it: it stands between the nodes, and packets
/// come to it with their pods' addresses. Which node has which pods is known once they are ready.
pub(crate) fn lead_to_pods(plan: &Plan, ready: &[ApiNode]) -> anyhow::Result<()> {
    let mut routes: Vec<(Cidr, IpAddr)> = Vec::new();
    for node in &plan.nodes {
        let found = ready.iter().find(|it| it.metadata.name.as_deref() == Some(&node.agent.name));
        let spec = found.and_then(|node| node.spec.as_ref());
        for range in spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten() {
            let range: Cidr = range.parse().with_context(|| format!("pods of {}", node.name))?;
            let addresses = node.addresses.iter().map(|uplink| uplink.address);
            let is_alike = |it: &IpAddr| it.is_ipv4() == range.network().is_ipv4();
            routes.extend(addresses.into_iter().find(is_alike).map(|gateway| (range, gateway)));
        }
    }
    inside(&plan.bridge_namespace, async move |handle| {
        for (range, gateway) in routes {
            let prefix = range.prefix();
            let route = match (range.network(), gateway) {
                (IpAddr::V4(first), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(first, prefix)
                    .gateway(gateway)
                    .build(),
                (IpAddr::V6(first), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(first, prefix)
                    .gateway(gateway)
                    .build(),
                _ => continue,
            };
            let added = handle.route().add(route).execute().await;
            added.with_context(|| format!("cannot add the route to {range}"))?;
        }
        Ok(())
    })
}

/// Makes PINS, if need be, and keeps others from mounting, unmounting or removing it: `up` and
/// `down` of other clusters, and `ip netns add`, which takes the same lock.
pub(crate) fn hold_pins() -> anyhow::Result<File> {
    let hold = || -> io::Result<Option<File>> {
        fs::create_dir_all(PINS)?;
        let pins = File::open(PINS)?;
        pins.lock()?;
        // Who held it before may have removed it.
        let is_there = fs::metadata(PINS).is_ok_and(|now| {
            pins.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()))
        });
        Ok(is_there.then_some(pins))
    };
    for _ in 0..MAX_REMOVALS {
        match hold() {
            Ok(Some(pins)) => return Ok(pins),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot lock {PINS}")),
        }
    }
    bail!("somebody removes {PINS} all the time")
}

/// Makes PINS a mount point, as the first `ip netns add` of a machine does: one that comes later
/// would hide the namespaces that are there already, and nobody could unmount them any more.
fn mount_pins() -> anyhow::Result<()> {
    if is_mounted()? {
        return Ok(());
    }
    if let Some(parent) = Path::new(OWN_MOUNT).parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(OWN_MOUNT, PINS)?;
    mount(Some(PINS), PINS, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(mount(None::<&str>, PINS, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)?)
}

fn is_mounted() -> anyhow::Result<bool> {
    Ok(mounts::read()?.iter().any(|mount| mount.target == Path::new(PINS)))
}

/// Undoes what the first `up` made of PINS when no namespace is left there, anybody's.
pub(crate) fn unmount_pins() -> anyhow::Result<()> {
    if !Path::new(OWN_MOUNT).exists() {
        return Ok(());
    }
    let is_used = fs::read_dir(PINS).is_ok_and(|mut entries| entries.next().is_some());
    // Not lazily: that would take along what somebody pins there now. Nor under the lock: whoever
    // holds it uses the mount.
    if is_used || (is_mounted()? && !mounts::remove_unused(Path::new(PINS))?) {
        return Ok(());
    }
    let _held = hold_pins()?;
    // Another `up` may have made it anew, another `down` may have been here.
    if is_mounted()? || !Path::new(OWN_MOUNT).exists() {
        return Ok(());
    }
    fs::remove_file(OWN_MOUNT).with_context(|| format!("cannot remove {OWN_MOUNT}"))
}

/// Makes one namespace and pins it.
fn make(namespace: &str) -> anyhow::Result<()> {
    let pin = path(namespace);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&pin)
        .with_context(|| format!("cannot make network namespace {}", pin.display()))?;
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        // No two links have one address here, and while a node looks for a second one it cannot ask
        // for its neighbours: the first connection to another node would wait for a second.
        set("net/ipv6/conf/default/accept_dad", "0")?;
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot pin network namespace {}", pin.display()))
    });
    join(thread)
}

/// Runs netlink work in a namespace, on a thread of its own.
fn inside<F>(namespace: &str, work: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(Handle) -> anyhow::Result<()> + Send + 'static,
{
    let pin = path(namespace);
    let thread = std::thread::spawn(move || {
        enter_netns(&pin)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("cannot open a netlink socket")?;
            let connection = tokio::spawn(connection);
            let done = work(handle).await;
            connection.abort();
            done
        })
    });
    join(thread).with_context(|| format!("cannot set up network namespace {namespace}"))
}

fn join(thread: std::thread::JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Makes what lies between the nodes: a bridge, or a router with a link to each of them. The
/// server's address is the bridge's in both.
async fn make_middle(handle: &Handle, plan: &Plan) -> anyhow::Result<()> {
    bring_up(handle, LOOPBACK).await?;
    let links = handle.link();
    links.add(LinkBridge::new(BRIDGE).up().build()).execute().await.context("cannot add br0")?;
    let bridge = index_of(BRIDGE)?;
    let own = plan.nodes.first().map(|node| node.addresses.as_slice()).unwrap_or_default();
    match plan.l2 {
        Layout::Shared => add_gateways(handle, bridge, own).await?,
        Layout::PerNode => {
            add_address(handle, bridge, BRIDGE_ADDRESS.into(), 32).await?;
            forward()?;
        }
    }
    for node in &plan.nodes {
        let shared = (plan.l2 == Layout::Shared).then_some(bridge);
        add_uplink(handle, node, shared).await?;
        if plan.l2 == Layout::PerNode {
            add_gateways(handle, index_of(&node.name)?, &node.addresses).await?;
        }
    }
    Ok(())
}

/// Makes the link between the middle and a node; with `bridge`, as a port of it.
async fn add_uplink(handle: &Handle, node: &Node, bridge: Option<u32>) -> anyhow::Result<()> {
    let pin = path(&node.namespace);
    let namespace = File::open(&pin).with_context(|| format!("cannot open {}", pin.display()))?;
    let peer = LinkUnspec::new_with_name(UPLINK).setns_by_fd(namespace.as_raw_fd()).build();
    let mut link =
        LinkVeth::new(&node.name, UPLINK).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).up();
    if let Some(bridge) = bridge {
        link = link.controller(bridge);
    }
    let added = handle.link().add(link.build()).execute().await;
    added.with_context(|| format!("cannot add the uplink of {}", node.name))
}

/// Gives a link the addresses that nodes have as their gateways.
async fn add_gateways(handle: &Handle, link: u32, uplinks: &[UplinkAddress]) -> anyhow::Result<()> {
    for uplink in uplinks {
        add_address(handle, link, uplink.gateway, uplink.prefix).await?;
    }
    Ok(())
}

/// Makes the namespace that the calling thread is in a router.
fn forward() -> anyhow::Result<()> {
    set("net/ipv4/ip_forward", "1")?;
    set("net/ipv6/conf/all/forwarding", "1")
}

/// Changes a setting of the namespace that the calling thread is in.
fn set(setting: &str, value: &str) -> anyhow::Result<()> {
    match fs::write(Path::new("/proc/sys").join(setting), value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot set {setting}"))
        }
        // A kernel without IPv6: nodes have no such address either.
        _ => Ok(()),
    }
}

async fn set_up_uplink(handle: &Handle, uplinks: &[UplinkAddress]) -> anyhow::Result<()> {
    bring_up(handle, LOOPBACK).await?;
    let link = bring_up(handle, UPLINK).await?;
    for uplink in uplinks {
        add_address(handle, link, uplink.address, uplink.prefix).await?;
        let default = match uplink.gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        handle.route().add(default).execute().await.context("cannot add the default route")?;
    }
    Ok(())
}

async fn bring_up(handle: &Handle, name: &str) -> anyhow::Result<u32> {
    let index = index_of(name)?;
    let message = LinkUnspec::new_with_index(index).up().build();
    let set = handle.link().set(message).execute().await;
    set.with_context(|| format!("cannot bring up {name}"))?;
    Ok(index)
}

/// Adds an address that is used at once: nobody else can have it, so none is asked whether it does.
async fn add_address(
    handle: &Handle,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> anyhow::Result<()> {
    let mut request = handle.address().add(index, address, prefix);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.with_context(|| format!("cannot add address {address}"))
}

fn index_of(name: &str) -> anyhow::Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("no link {name}"))
}

/// Names of the cluster's namespaces that are pinned now.
pub(crate) fn existing(place: &Place) -> Vec<String> {
    let Ok(entries) = fs::read_dir(PINS) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut own: Vec<String> = names.filter(|name| place.owns_namespace(name)).collect();
    own.sort();
    own
}

/// Removes the pin of a namespace; the kernel removes namespace and links with the last user.
pub(crate) fn remove(namespace: &str) -> anyhow::Result<()> {
    let pin = path(namespace);
    mounts::remove(&pin)?;
    match fs::remove_file(&pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pin.display()))
        }
        _ => Ok(()),
    }
}
