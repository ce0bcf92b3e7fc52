//! Setting sandboxes up and tearing them down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bowline_api::cidr::Cidr;
use tokio::sync::{RwLock, RwLockWriteGuard};

use super::{
    Addresses, Netlink, NetlinkRequestFailed, PodIdentity, PodLink, PodLinks, Refused, Sandbox,
    Uplink,
    addresses::{AddressPool, RangeExhausted},
    namespaces::{self, NamespaceFailed},
    records::{Phase, Record, RecordFailed, Records},
    shm::{self, SharedMemoryFailed, mount_shm, unmount_shm},
    sysctl::SetSysctlFailed,
    wiring,
};

/// A sandbox could not be set up. Nothing of it is left unless the log says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpSandboxFailed {
    #[error("{0:?} cannot be the uid of a pod")]
    BadUid(String),
    #[error("the node has no pod range yet; the node controller gives it one")]
    NoPodRange,
    #[error(transparent)]
    RangeExhausted(#[from] RangeExhausted),
    #[error("the sandbox of pod {0} is being set up or torn down already")]
    Busy(String),
    #[error("the remains of an earlier sandbox could not be removed: {0}")]
    Remains(#[from] TearDownSandboxFailed),
    #[error(transparent)]
    Namespace(#[from] NamespaceFailed),
    #[error(transparent)]
    Netlink(#[from] NetlinkRequestFailed),
    #[error(transparent)]
    Sysctl(#[from] SetSysctlFailed),
    #[error(transparent)]
    Record(#[from] RecordFailed),
    #[error(transparent)]
    SharedMemory(#[from] SharedMemoryFailed),
    #[error("starting a runtime for the sandbox: {0}")]
    Runtime(std::io::Error),
    #[error("link {0} is gone right after it was made")]
    LinkVanished(String),
    #[error("the data plane refused link {link}: {source}")]
    DataPlane { link: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the task that set the sandbox up ended without a result")]
    TaskDied,
}

/// Parts of a sandbox could not be removed; everything else of it was.
#[derive(Debug, thiserror::Error)]
#[error("tearing down the sandbox of pod {uid}: {}", list(causes))]
pub(crate) struct TearDownSandboxFailed {
    pub(crate) uid: String,
    pub(crate) causes: Vec<TearDownCause>,
}

/// One thing that stood in the way of a tear-down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TearDownCause {
    #[error("it is being set up or torn down already")]
    Busy,
    #[error(transparent)]
    Namespace(#[from] NamespaceFailed),
    #[error(transparent)]
    Netlink(#[from] NetlinkRequestFailed),
    #[error(transparent)]
    SharedMemory(#[from] SharedMemoryFailed),
    #[error(transparent)]
    Record(#[from] RecordFailed),
    #[error("the data plane did not let go of link {link}: {source}")]
    DataPlane { link: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the task that tore it down ended without a result")]
    TaskDied,
}

fn list(causes: &[TearDownCause]) -> String {
    let texts: Vec<String> = causes.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// The sandboxes of this node. A handle: clones share everything.
#[derive(Clone)]
pub(crate) struct PodNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    records: Records,
    netlink: Netlink,
    /// The agent's own network namespace: where host ends of links belong.
    own_netns: File,
    uplink: Uplink,
    /// What fits into a packet of a pod, wherever it goes.
    pod_mtu: u32,
    pod_links: Arc<dyn PodLinks>,
    state: Mutex<State>,
    /// Held shared by every set-up and tear-down, alone by whoever compares the kernel with the
    /// state: so the comparison never sees a sandbox halfway.
    settled: RwLock<()>,
}

#[derive(Default)]
struct State {
    ranges: Option<Ranges>,
    pool: AddressPool,
    sandboxes: BTreeMap<String, Record>,
    /// Directories without a readable record: remains of a crash at the very start of a set-up.
    unreadable: BTreeSet<String>,
    /// Uids that a set-up or tear-down works on right now.
    busy: BTreeSet<String>,
}

/// The node's pod ranges. The IPv6 address of a pod is at the same place in its range as the IPv4
/// address in its own, so that one decision gives both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) v4: Cidr,
    pub(crate) v6: Option<Cidr>,
}

impl Ranges {
    /// All of them, IPv4 first.
    pub(crate) fn iter(self) -> impl Iterator<Item = Cidr> {
        std::iter::once(self.v4).chain(self.v6)
    }

    fn addresses(self, v4: Ipv4Addr) -> Addresses {
        let mate = self.v6.and_then(|range| range.address(self.v4.index_of(v4)?));
        let v6 = match mate {
            Some(IpAddr::V6(address)) => Some(address),
            _ => None,
        };
        Addresses { v4, v6 }
    }
}

/// A sandbox with a link of its own, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxLink {
    pub(crate) uid: String,
    pub(crate) link: String,
    pub(crate) addresses: Addresses,
}

impl fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodNetwork").finish_non_exhaustive()
    }
}

impl PodNetwork {
    /// Opens the sandboxes under `run_dir`, those of earlier agents included. Must be called in
    /// the network namespace of the node.
    pub(crate) fn open(
        run_dir: &Path,
        netlink: Netlink,
        uplink: Uplink,
        pod_mtu: u32,
        pod_links: Arc<dyn PodLinks>,
    ) -> Result<Self, SetUpSandboxFailed> {
        let records = Records::new(run_dir);
        let own = Path::new("/proc/thread-self/ns/net");
        let own_netns = File::open(own)
            .map_err(|source| NamespaceFailed::Enter { path: own.to_owned(), source })?;
        let mut state = State::default();
        for (uid, record) in records.load()? {
            match record {
                Some(record) => drop(state.sandboxes.insert(uid, record)),
                None => drop(state.unreadable.insert(uid)),
            }
        }
        let held = state.sandboxes.values().filter(|r| !r.host_network).map(|r| r.addresses.v4);
        state.pool = AddressPool::new(held, records.load_order());
        let settled = RwLock::new(());
        let state = Mutex::new(state);
        let inner =
            Inner { records, netlink, own_netns, uplink, pod_mtu, pod_links, state, settled };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sets the ranges that new sandboxes get their addresses from.
    pub(crate) fn set_ranges(&self, ranges: Ranges) {
        self.inner.state().ranges = Some(ranges);
    }

    /// Sets up the sandbox of a pod, or gives back the one that it has. Goes on to its end also
    /// when the caller stops waiting.
    pub(crate) async fn set_up(&self, pod: &PodIdentity) -> Result<Sandbox, SetUpSandboxFailed> {
        let (inner, pod) = (self.inner.clone(), pod.clone());
        let work = tokio::spawn(async move {
            let _settled = inner.settled.read().await;
            let _busy = inner.begin(&pod.uid).ok_or(SetUpSandboxFailed::Busy(pod.uid.clone()))?;
            inner.set_up(&pod).await
        });
        work.await.map_err(|_| SetUpSandboxFailed::TaskDied)?
    }

    /// Removes a pod's sandbox. One that is not there is no error; after a failure it can be
    /// called again. Goes on to its end also when the caller stops waiting.
    pub(crate) async fn tear_down(&self, uid: &str) -> Result<(), TearDownSandboxFailed> {
        let (inner, own_uid) = (self.inner.clone(), uid.to_owned());
        let work = tokio::spawn(async move {
            let _settled = inner.settled.read().await;
            match inner.begin(&own_uid) {
                Some(_busy) => inner.tear_down(&own_uid).await,
                None => Err(vec![TearDownCause::Busy]),
            }
        });
        work.await
            .unwrap_or_else(|_| Err(vec![TearDownCause::TaskDied]))
            .map_err(|causes| TearDownSandboxFailed { uid: uid.to_owned(), causes })
    }

    /// The sandboxes that are ready, also those that an earlier agent set up.
    pub(crate) fn sandboxes(&self) -> Vec<(String, Sandbox)> {
        let state = self.inner.state();
        let ready = state.sandboxes.values().filter(|record| record.phase == Phase::Ready);
        ready.map(|record| (record.uid.clone(), self.inner.records.sandbox(record))).collect()
    }

    /// Waits until no set-up or tear-down is under way and keeps new ones waiting.
    pub(crate) async fn settle(&self) -> RwLockWriteGuard<'_, ()> {
        self.inner.settled.write().await
    }

    /// The links that ready sandboxes should have.
    pub(crate) fn links(&self) -> Vec<SandboxLink> {
        let state = self.inner.state();
        let with_link = |record: &&Record| record.phase == Phase::Ready && !record.host_network;
        let links = state.sandboxes.values().filter(with_link);
        links
            .map(|record| SandboxLink {
                uid: record.uid.clone(),
                link: wiring::link_name(&record.uid),
                addresses: record.addresses,
            })
            .collect()
    }

    /// Sandboxes that are not ready and that nobody works on, and ready ones whose namespaces
    /// are no longer pinned (the machine was restarted).
    pub(crate) fn abandoned(&self) -> BTreeSet<String> {
        let state = self.inner.state();
        let lost = state.sandboxes.values().filter(|record| !self.inner.is_intact(record));
        let all = lost.map(|record| record.uid.clone()).chain(state.unreadable.iter().cloned());
        all.filter(|uid| !state.busy.contains(uid)).collect()
    }

    /// Removes an abandoned sandbox. The caller holds the guard of [`Self::settle`].
    pub(crate) async fn remove_abandoned(&self, uid: &str) -> Result<(), TearDownSandboxFailed> {
        let removed = self.inner.tear_down(uid).await;
        removed.map_err(|causes| TearDownSandboxFailed { uid: uid.to_owned(), causes })
    }

    /// Makes the link of a ready sandbox anew, or completes it. The caller holds the guard of
    /// [`Self::settle`].
    pub(crate) async fn restore_link(&self, uid: &str) -> Result<(), SetUpSandboxFailed> {
        let record = self.inner.state().sandboxes.get(uid).cloned();
        match record {
            Some(record) => self.inner.connect(&record).await,
            None => Ok(()),
        }
    }

    /// Tells the data plane about every ready sandbox again: it may have missed some, or have
    /// been emptied, while no agent was there. Links that are gone are for the repair.
    pub(crate) async fn reattach(&self) -> Vec<SetUpSandboxFailed> {
        let _settled = self.settle().await;
        let mut failures = Vec::new();
        for link in self.links() {
            let record = self.inner.state().sandboxes.get(&link.uid).cloned();
            let found = self.inner.netlink.link(&link.link).await;
            if let (Some(record), Ok(Some(seen))) = (record, found) {
                let attached = self.inner.attach(self.inner.pod_link(&record, seen.index)).await;
                failures.extend(
                    attached
                        .err()
                        .map(|source| SetUpSandboxFailed::DataPlane { link: link.link, source }),
                );
            }
        }
        failures
    }

    /// Removes every sandbox, whole or not, and the records' directories.
    pub(crate) async fn remove_all(&self) -> Vec<TearDownCause> {
        let _settled = self.settle().await;
        let uids: Vec<String> = {
            let state = self.inner.state();
            state.sandboxes.keys().chain(&state.unreadable).cloned().collect()
        };
        let mut causes = Vec::new();
        for uid in uids {
            causes.extend(self.inner.tear_down(&uid).await.err().into_iter().flatten());
        }
        causes.extend(self.inner.records.remove_all().err().map(TearDownCause::from));
        causes
    }
}

/// Takes a uid off the list of those that are worked on when the work ends, however it ends.
struct Busy<'a> {
    inner: &'a Inner,
    uid: String,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.inner.state().busy.remove(&self.uid);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, uid: &str) -> Option<Busy<'_>> {
        let began = self.state().busy.insert(uid.to_owned());
        began.then(|| Busy { inner: self, uid: uid.to_owned() })
    }

    fn is_intact(&self, record: &Record) -> bool {
        let dir = self.records.dir(&record.uid);
        record.phase == Phase::Ready
            && namespaces::NAMES.iter().all(|name| namespaces::is_pinned(&dir.join(name)))
    }

    async fn set_up(&self, pod: &PodIdentity) -> Result<Sandbox, SetUpSandboxFailed> {
        check_uid(&pod.uid)?;
        let known = self.state().sandboxes.get(&pod.uid).cloned();
        if let Some(record) = known.as_ref().filter(|record| self.is_intact(record)) {
            // An earlier build's agent made sandboxes without it.
            mount_shm(&self.records.sandbox(record).shm)?;
            return Ok(self.records.sandbox(record));
        }
        if known.is_some() || self.state().unreadable.contains(&pod.uid) {
            self.tear_down(&pod.uid)
                .await
                .map_err(|causes| TearDownSandboxFailed { uid: pod.uid.clone(), causes })?;
        }
        let record = self.reserve(pod)?;
        match self.make(&record).await {
            Ok(()) => Ok(self.records.sandbox(&record)),
            Err(error) => {
                if let Err(causes) = self.tear_down(&pod.uid).await {
                    let left = list(&causes);
                    tracing::warn!(uid = pod.uid, left, "remains of a failed sandbox");
                }
                Err(error)
            }
        }
    }

    /// Takes an address and enters the sandbox as being made.
    fn reserve(&self, pod: &PodIdentity) -> Result<Record, SetUpSandboxFailed> {
        let mut state = self.state();
        let addresses = if pod.host_network {
            self.uplink.addresses
        } else {
            let ranges = state.ranges.ok_or(SetUpSandboxFailed::NoPodRange)?;
            // A sandbox of a former IPv4 range may still hold the IPv6 address.
            let held: BTreeSet<_> =
                state.sandboxes.values().filter_map(|record| record.addresses.v6).collect();
            let fits = |v4| ranges.addresses(v4).v6.is_none_or(|v6| !held.contains(&v6));
            ranges.addresses(state.pool.take(ranges.v4, fits)?)
        };
        let record = Record::new(pod, addresses);
        state.sandboxes.insert(pod.uid.clone(), record.clone());
        Ok(record)
    }

    async fn make(&self, record: &Record) -> Result<(), SetUpSandboxFailed> {
        self.records.write(record)?;
        let dir = self.records.dir(&record.uid);
        let (hostname, host_network) = (record.hostname.clone(), record.host_network);
        let ends = self.ends(record)?;
        mount_shm(&dir.join(shm::NAME))?;
        namespaces::in_own_thread(move || {
            namespaces::make(&dir, &hostname, host_network)?;
            if host_network { Ok(()) } else { wiring::wire_pod_side(&ends) }
        })
        .await??;
        if !host_network {
            self.wire_node_side(record).await?;
        }
        let ready = Record { phase: Phase::Ready, ..record.clone() };
        self.records.write(&ready)?;
        self.state().sandboxes.insert(record.uid.clone(), ready);
        Ok(())
    }

    /// Makes or completes the link between the node and a sandbox that has its namespaces.
    async fn connect(&self, record: &Record) -> Result<(), SetUpSandboxFailed> {
        let path = self.records.dir(&record.uid).join("net");
        let ends = self.ends(record)?;
        namespaces::in_own_thread(move || {
            namespaces::enter_network(&path)?;
            wiring::wire_pod_side(&ends)
        })
        .await??;
        self.wire_node_side(record).await
    }

    fn ends(&self, record: &Record) -> Result<wiring::Ends, SetUpSandboxFailed> {
        let node_netns = self.own_netns.try_clone().map_err(|source| NamespaceFailed::Enter {
            path: "/proc/thread-self/ns/net".into(),
            source,
        })?;
        Ok(wiring::Ends {
            node_link: wiring::link_name(&record.uid),
            node_netns,
            addresses: record.addresses,
            mtu: self.pod_mtu,
        })
    }

    async fn wire_node_side(&self, record: &Record) -> Result<(), SetUpSandboxFailed> {
        let name = wiring::link_name(&record.uid);
        let (pod, node) = (record.addresses, self.uplink.addresses);
        let index = wiring::wire_node_side(&self.netlink, &name, pod, node, self.pod_mtu).await?;
        self.attach(self.pod_link(record, index))
            .await
            .map_err(|source| SetUpSandboxFailed::DataPlane { link: name, source })
    }

    async fn attach(&self, link: PodLink) -> Result<(), Refused> {
        self.tell(move |links| links.attach(&link)).await
    }

    /// Speaks to the data plane on a thread that may wait: it may be busy with services.
    async fn tell<F>(&self, what: F) -> Result<(), Refused>
    where
        F: FnOnce(&dyn PodLinks) -> Result<(), Refused> + Send + 'static,
    {
        let links = self.pod_links.clone();
        tokio::task::spawn_blocking(move || what(&*links)).await?
    }

    fn pod_link(&self, record: &Record, index: u32) -> PodLink {
        PodLink {
            uid: record.uid.clone(),
            namespace: record.namespace.clone(),
            pod: record.name.clone(),
            index,
            addresses: record.addresses,
            pod_mac: wiring::pod_mac(record.addresses),
            netns: self.records.dir(&record.uid).join("net"),
        }
    }

    /// Removes all there is of a sandbox. Its record goes last and only if everything else went.
    async fn tear_down(&self, uid: &str) -> Result<(), Vec<TearDownCause>> {
        if check_uid(uid).is_err() {
            return Ok(());
        }
        let record = self.state().sandboxes.get(uid).cloned();
        let mut causes = Vec::new();
        if let Some(record) = &record {
            let removing = Record { phase: Phase::Removing, ..record.clone() };
            if record.phase == Phase::Ready {
                causes.extend(self.records.write(&removing).err().map(TearDownCause::from));
            }
            self.state().sandboxes.insert(uid.to_owned(), removing);
        }
        if record.as_ref().is_none_or(|record| !record.host_network) {
            self.remove_link(uid, record.as_ref(), &mut causes).await;
        }
        let dir = self.records.dir(uid);
        for name in namespaces::NAMES {
            causes.extend(namespaces::unpin(&dir.join(name)).err().map(TearDownCause::from));
        }
        causes.extend(unmount_shm(&dir.join(shm::NAME)).err().map(TearDownCause::from));
        if !causes.is_empty() {
            return Err(causes);
        }
        self.records.remove(uid).map_err(|error| vec![error.into()])?;
        self.forget(uid);
        Ok(())
    }

    async fn remove_link(
        &self,
        uid: &str,
        record: Option<&Record>,
        causes: &mut Vec<TearDownCause>,
    ) {
        let name = wiring::link_name(uid);
        let found = self.netlink.link(&name).await;
        let index = found.as_ref().ok().and_then(Option::as_ref).map_or(0, |link| link.index);
        if let Some(record) = record {
            let link = self.pod_link(record, index);
            let detached = self.tell(move |links| links.detach(&link)).await;
            causes.extend(
                detached
                    .err()
                    .map(|source| TearDownCause::DataPlane { link: name.clone(), source }),
            );
        }
        let removed = match found {
            Ok(Some(link)) => self.netlink.remove_link(&link).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        causes.extend(removed.err().map(TearDownCause::from));
    }

    /// The order is written under the lock: two removals at once must not write it the wrong way
    /// round, or over each other's new file.
    fn forget(&self, uid: &str) {
        let mut state = self.state();
        state.unreadable.remove(uid);
        let Some(record) = state.sandboxes.remove(uid) else { return };
        if record.host_network {
            return;
        }
        state.pool.give_back(record.addresses.v4);
        let order = state.pool.given_back().collect::<Vec<_>>();
        if let Err(error) = self.records.write_order(&order) {
            tracing::warn!(%error, "the order of addresses is lost at the next start");
        }
    }
}

/// Uids name directories: only what looks like one is let through.
fn check_uid(uid: &str) -> Result<(), SetUpSandboxFailed> {
    if is_pod_uid(uid) { Ok(()) } else { Err(SetUpSandboxFailed::BadUid(uid.to_owned())) }
}

/// Whether a text can be the uid of a pod, and so the name of a directory.
pub(crate) fn is_pod_uid(uid: &str) -> bool {
    (1..=64).contains(&uid.len())
        && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !uid.starts_with('-')
}
