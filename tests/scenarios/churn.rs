//! Services that change all the time under traffic: 1,000 of IPv4 and 100 of IPv6 with five
//! backends each, 100 changes a second; and one more whose set is replaced by another one a
//! thousand times.
//!
//! The backends are addresses that lead to one listener on each node, which tells every connection
//! the address it reached. Clients on two nodes, and one that no socket hook sees, visit services
//! picked at random and write down when and whom they reached; afterwards each visit is held
//! against what the API said at that moment. A set counts as possible from the moment its write
//! began until [`LAG`] after the write of the next one was acknowledged.
//!
//! It needs the machine's processors for itself. Beside a build in the session of the test, where
//! the kernel shares them out by session (`kernel.sched_autogroup_enabled`), the server, alone in
//! its own, was seen to wait for one for seconds while it could run; what it tells nodes is late
//! then, and connections come to backends that were taken away. Without that sharing it passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::{Api, node_of, uid};
use bowline_tests::cluster::BOTH_FAMILIES;
use bowline_tests::command::output;
use bowline_tests::load::Load;
use bowline_tests::{Cluster, Place, Wishes};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const SERVICES: u32 = 1_000;
/// Of IPv6, numbered after those of IPv4.
const SERVICES_V6: u32 = 100;
const ALL: u32 = SERVICES + SERVICES_V6;
const BACKENDS_EACH: u32 = 5;
const CHANGES_A_SECOND: u32 = 100;
const PORT: u16 = 9000;
/// Services have consecutive addresses from here.
const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 9, 100, 0);
const FIRST_SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 9, 0, 0, 0, 0, 0x6400);
/// Backends of the nodes: 10.77.0.0/19 leads to the first, the next /19 to the second, and so on.
const FIRST_BACKEND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 0);
const NODE_BITS: u32 = 13;
/// The next /64 leads to the second node.
const FIRST_BACKEND_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0);
/// The service whose set is replaced so many times, so often, by one that shares nothing with those
/// before. Its backends are numbered after all others.
const HOT: Ipv4Addr = Ipv4Addr::new(10, 9, 99, 1);
const REPLACEMENTS: u32 = 1_000;
const REPLACE_EVERY: Duration = Duration::from_millis(12);
const MOST_HOT: u32 = 3;
/// Of [`CHANGES_A_SECOND`].
const LEAST_PART: f64 = 0.95;
const NODES: u32 = 2;
/// How long an acknowledged change may take to reach the nodes' maps before a connection to what it
/// removed counts as misdirected. What it really took is printed.
const LAG: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);
const NAMESPACES: u32 = 20;

/// Begin, end (microseconds since 1970), service, address reached, error.
type Visit = (u64, u64, u32, Option<IpAddr>, Option<String>);

/// One set of backends of one service, and when it was written.
#[derive(Clone, Debug)]
struct Version {
    begun: u64,
    acknowledged: u64,
    backends: BTreeSet<IpAddr>,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn no_connection_is_lost_or_misled_while_sets_change() -> Result<()> {
    let mut wishes = Wishes { nodes: NODES as usize, ..Wishes::default() };
    wishes.flags.extend(BOTH_FAMILIES.map(str::to_owned));
    let cluster = Cluster::up(&wishes)?;
    let api = cluster.api().await?;
    let played = play(&cluster, &api).await;
    played.map_err(|error| cluster.with_logs(error))
}

/// `cargo xtask test --thorough` plays for a minute.
fn duration() -> Duration {
    Duration::from_secs(if std::env::var_os("BOWLINE_THOROUGH").is_some() { 60 } else { 15 })
}

async fn play(cluster: &Cluster, api: &Api) -> Result<()> {
    let begun = Instant::now();
    let step = |what: &str| println!("{:5.1} s: {what}", begun.elapsed().as_secs_f64());
    cluster.apply("client.yaml")?;
    let servers = start_backends(cluster)?;
    let mut history = create_services(api).await?;
    wait_for_maps(cluster, api).await.context("after all services were made")?;
    let mut hot = vec![create_hot(api).await.context("the service that changes most")?];
    let client = api.ready_pods("app=client", 1, PATIENCE).await?;
    cluster.agrees(PATIENCE).await?;

    let [one, two] = &cluster.nodes[..] else { bail!("not {NODES} nodes") };
    let client = client.first().context("no client")?;
    // Outside of its cgroup: the pod's link balances it.
    let unhooked = cluster.node(&node_of(client))?.pod_network(&uid(client))?;
    let clients = [
        visit(&one.place()?, Visited::V4, 1_000)?,
        visit(&two.place()?, Visited::V4, 1_000)?,
        visit(&one.place()?, Visited::V6, 200)?,
        visit(&unhooked, Visited::V4, 200)?,
        visit(&unhooked, Visited::V6, 200)?,
        visit(&two.place()?, Visited::Hot, 200)?,
        visit(&unhooked, Visited::Hot, 200)?,
    ];
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = memory(cluster)?;
    step("all services are there, and clients run");

    let start = Instant::now();
    let (changes, replaced) = tokio::join!(
        async { (change_all_the_time(api, &mut history).await, start.elapsed()) },
        replace_again_and_again(api, &mut hot),
    );
    let ((changes, took), ()) = ((changes.0?, changes.1), replaced?);
    let after = memory(cluster)?;
    step("all changes are made");
    let (mut visits, mut hot_visits): (Vec<Visit>, Vec<Visit>) = Default::default();
    for (which, client) in clients {
        let seen: Vec<Visit> = client.stop_with()?;
        ensure!(seen.len() > 500, "only {} connections by one of the clients", seen.len());
        match which {
            Visited::V4 => visits.extend(seen),
            Visited::V6 => visits.extend(seen.into_iter().map(|mut visit| {
                visit.2 += SERVICES;
                visit
            })),
            Visited::Hot => hot_visits.extend(seen),
        }
    }
    step("the clients have ended");
    drop(servers);
    delete_hot(api).await?;
    let settled = wait_for_maps(cluster, api).await.context("after the last change")?;

    let rate = f64::from(changes) / took.as_secs_f64();
    println!("{changes} changes in {took:.1?}, {rate:.0}/s; {} connections", visits.len());
    println!("maps equal to the API {settled:.0?} after the clients' end");
    println!("memory of the agents before and after, MB: {before:?} {after:?}");
    report("all services", &judge(&history, &visits)?);
    let replaced = hot.len() - 1;
    println!("one service, replaced {replaced} times: {} connections", hot_visits.len());
    report("that service", &judge(&[hot], &hot_visits).context("one service")?);
    ensure!(rate > f64::from(CHANGES_A_SECOND) * LEAST_PART, "only {rate:.1} changes a second");
    ensure!(replaced == REPLACEMENTS as usize, "only {replaced} replacements");
    ensure!(visits.len() > 1_000, "only {} connections", visits.len());
    for (before, after) in before.iter().zip(&after) {
        ensure!(*after < before + 8, "an agent grew from {before} to {after} MB");
    }
    Ok(())
}

fn report(what: &str, late: &[u64]) {
    let of = |part: usize| Duration::from_micros(late[(late.len() - 1) * part / 1000]);
    println!(
        "{what}: zero failed, zero misdirected; connections after the acknowledged removal of \
         their backend: 99.9% within {:?}, all {:?}",
        of(999),
        of(1000)
    );
}

/// Which services a client visits.
#[derive(Clone, Copy)]
enum Visited {
    V4,
    V6,
    Hot,
}

/// A client that makes so many connections a second at most.
fn visit(place: &Place, which: Visited, rate: u32) -> Result<(Visited, Load)> {
    let (first, count): (IpAddr, u32) = match which {
        Visited::V4 => (FIRST_SERVICE.into(), SERVICES),
        Visited::V6 => (FIRST_SERVICE_V6.into(), SERVICES_V6),
        Visited::Hot => (HOT.into(), 1),
    };
    let (first, count) = (SocketAddr::new(first, 80).to_string(), count.to_string());
    let every = (2 * 1_000_000 / rate).to_string();
    let words = ["visit", &first, "--services", &count, "--workers", "2", "--every-us", &every];
    Ok((which, Load::spawn(place, &words)?))
}

/// A listener on each node for a range of addresses of each family that leads there.
fn start_backends(cluster: &Cluster) -> Result<Vec<Load>> {
    let ranges = |node: u32| {
        [(v4(node, 0), 32 - NODE_BITS), (v6(node, 0), 64)]
            .map(|(first, length)| format!("{first}/{length}"))
    };
    let mut listeners = Vec::new();
    for (index, node) in (0..).zip(&cluster.nodes) {
        let place = node.place()?;
        for (other, peer) in (0..).zip(&cluster.nodes) {
            for (range, gateway) in ranges(other).iter().zip(node_addresses(cluster, &peer.name)?) {
                let mut ip = place.command("ip");
                ip.args(["route", "add"]);
                if other == index {
                    ip.args(["local", range, "dev", "lo"]);
                } else {
                    ip.args([range, "via", &gateway]);
                }
                output(&mut ip)?;
            }
        }
        listeners.push(Load::spawn(&place, &["answer", "--port", &PORT.to_string()])?);
    }
    Ok(listeners)
}

/// Of IPv4 and of IPv6.
fn node_addresses(cluster: &Cluster, node: &str) -> Result<[String; 2]> {
    let said = output(&mut cluster.bowline(&["get", "node", node, "-o", "json"])?)?;
    let object: Value = serde_json::from_str(&said)?;
    let addresses = object["status"]["addresses"].as_array().context("no addresses")?;
    let internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
    let all: Vec<&str> = internal.filter_map(|address| address["address"].as_str()).collect();
    let of = |six: bool| all.iter().find(|address| address.contains(':') == six);
    let both = of(false).zip(of(true)).with_context(|| format!("{node} has {all:?}"))?;
    Ok([(*both.0).to_owned(), (*both.1).to_owned()])
}

/// An address of a node's backends.
fn v4(node: u32, within: u32) -> IpAddr {
    Ipv4Addr::from_bits(FIRST_BACKEND.to_bits() + (node << NODE_BITS) + within).into()
}

fn v6(node: u32, within: u32) -> IpAddr {
    let bits = (u128::from(node) << 64) + u128::from(within);
    Ipv6Addr::from_bits(FIRST_BACKEND_V6.to_bits() + bits).into()
}

/// A service's own address.
fn vip(service: u32) -> IpAddr {
    match service.checked_sub(SERVICES) {
        None => Ipv4Addr::from_bits(FIRST_SERVICE.to_bits() + service).into(),
        Some(number) => Ipv6Addr::from_bits(FIRST_SERVICE_V6.to_bits() + u128::from(number)).into(),
    }
}

/// The backends that a service chooses its sets from, spread over the nodes.
fn pool(service: u32) -> impl Iterator<Item = IpAddr> {
    let address = if service < SERVICES { v4 } else { v6 };
    (0..BACKENDS_EACH).map(move |index| {
        let number = service * BACKENDS_EACH + index;
        address(number % NODES, 1 + number / NODES)
    })
}

fn namespace(service: u32) -> String {
    format!("churn-{}", service % NAMESPACES)
}

fn slice(service: u32, ready: &BTreeSet<IpAddr>, rng: &mut impl Rng) -> Result<EndpointSlice> {
    // Those that are not in the set are missing, not ready, or on their way out.
    let endpoints = pool(service).filter_map(|address| {
        let state = if ready.contains(&address) { 0 } else { rng.random_range(1..4) };
        let conditions = match state {
            0 => json!({ "ready": true }),
            1 => json!({ "ready": false }),
            2 => json!({ "ready": false, "serving": true, "terminating": true }),
            _ => return None,
        };
        Some(json!({ "addresses": [address], "conditions": conditions }))
    });
    let endpoints: Vec<Value> = endpoints.collect();
    slice_of(&format!("s{service}"), &namespace(service), vip(service), &endpoints)
}

fn slice_of(
    service: &str,
    namespace: &str,
    vip: IpAddr,
    endpoints: &[Value],
) -> Result<EndpointSlice> {
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": namespace,
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": if vip.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [{ "name": "", "port": PORT, "protocol": "TCP" }],
        "endpoints": endpoints,
    }))?)
}

/// Makes services and slices; gives the first version of each set.
async fn create_services(api: &Api) -> Result<Vec<Vec<Version>>> {
    for number in 0..NAMESPACES {
        let object = serde_json::from_value(json!({ "metadata": { "name": namespace(number) } }))?;
        api.of_cluster::<Namespace>().create(&PostParams::default(), &object).await?;
    }
    let made = futures::stream::iter(0..ALL).map(|number| async move {
        let client = api.client();
        let namespace = namespace(number);
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": format!("s{number}") },
            "spec": {
                "clusterIP": vip(number),
                "ipFamilies": [if number < SERVICES { "IPv4" } else { "IPv6" }],
                "ports": [{ "port": 80 }],
            },
        }))?;
        let begun = now();
        let backends: BTreeSet<IpAddr> = pool(number).collect();
        let slice = slice(number, &backends, &mut rand::rng())?;
        let slices = kube::Api::namespaced(client.clone(), &namespace);
        slices.create(&PostParams::default(), &slice).await?;
        let services = kube::Api::namespaced(client, &namespace);
        services.create(&PostParams::default(), &service).await?;
        anyhow::Ok((number, vec![Version { begun, acknowledged: now(), backends }]))
    });
    let mut made: Vec<_> =
        made.buffer_unordered(16).collect::<Vec<_>>().await.into_iter().collect::<Result<_>>()?;
    made.sort_by_key(|(number, _)| *number);
    Ok(made.into_iter().map(|(_, versions)| versions).collect())
}

/// Changes sets at an even pace; a service is changed again only after all the others.
async fn change_all_the_time(api: &Api, history: &mut [Vec<Version>]) -> Result<u32> {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let total = CHANGES_A_SECOND * u32::try_from(duration().as_secs())?;
    let mut order: Vec<u32> = (0..ALL).collect();
    order.shuffle(&mut rng);
    let mut pace = tokio::time::interval(Duration::from_secs(1) / CHANGES_A_SECOND);
    let mut writes = tokio::task::JoinSet::new();
    for number in order.into_iter().cycle().take(total as usize) {
        pace.tick().await;
        let all: Vec<IpAddr> = pool(number).collect();
        let count = rng.random_range(1..=all.len());
        let backends: BTreeSet<IpAddr> = all.choose_multiple(&mut rng, count).copied().collect();
        let slice = slice(number, &backends, &mut rng)?;
        let slices: kube::Api<EndpointSlice> =
            kube::Api::namespaced(api.client(), &namespace(number));
        writes.spawn(async move {
            let begun = now();
            slices.replace(&format!("s{number}-1"), &PostParams::default(), &slice).await?;
            anyhow::Ok((number, Version { begun, acknowledged: now(), backends }))
        });
        while let Some(done) = writes.try_join_next() {
            let (number, version) = done??;
            history[number as usize].push(version);
        }
    }
    while let Some(done) = writes.join_next().await {
        let (number, version) = done??;
        history[number as usize].push(version);
    }
    Ok(total)
}

/// The set of that number of the service that changes most: nobody of it is in another one.
fn hot_set(number: u32) -> BTreeSet<IpAddr> {
    let first = SERVICES * BACKENDS_EACH + number * MOST_HOT;
    let all = first..first + 1 + number % MOST_HOT;
    all.map(|number| v4(number % NODES, 1 + number / NODES)).collect()
}

fn hot_slice(backends: &BTreeSet<IpAddr>) -> Result<EndpointSlice> {
    let ready = |address| json!({ "addresses": [address], "conditions": { "ready": true } });
    let endpoints: Vec<Value> = backends.iter().map(ready).collect();
    slice_of("hot", "default", HOT.into(), &endpoints)
}

async fn create_hot(api: &Api) -> Result<Version> {
    let service = json!({
        "metadata": { "name": "hot" },
        "spec": { "clusterIP": HOT, "ports": [{ "port": 80 }] },
    });
    let service: Service = serde_json::from_value(service)?;
    let (begun, backends) = (now(), hot_set(0));
    api.of().create(&PostParams::default(), &hot_slice(&backends)?).await?;
    api.of().create(&PostParams::default(), &service).await?;
    Ok(Version { begun, acknowledged: now(), backends })
}

async fn delete_hot(api: &Api) -> Result<()> {
    api.of::<Service>().delete("hot", &DeleteParams::default()).await?;
    api.of::<EndpointSlice>().delete("hot-1", &DeleteParams::default()).await?;
    Ok(())
}

/// Each set is followed by one that shares no backend with it.
async fn replace_again_and_again(api: &Api, history: &mut Vec<Version>) -> Result<()> {
    let slices = api.of::<EndpointSlice>();
    let mut pace = tokio::time::interval(REPLACE_EVERY);
    for number in 1..=REPLACEMENTS {
        pace.tick().await;
        let (begun, backends) = (now(), hot_set(number));
        slices.replace("hot-1", &PostParams::default(), &hot_slice(&backends)?).await?;
        history.push(Version { begun, acknowledged: now(), backends });
    }
    Ok(())
}

/// Holds every visit against the sets that were possible then. Gives for each visit how long its
/// backend had been removed, in microseconds, in ascending order; mostly not at all.
fn judge(history: &[Vec<Version>], visits: &[Visit]) -> Result<Vec<u64>> {
    let lag = LAG.as_micros() as u64;
    let mut lateness = Vec::with_capacity(visits.len());
    let mut wrong = Vec::new();
    for (begun, ended, service, reached, error) in visits {
        let Some(reached) = reached else {
            wrong.push(format!("service {service} at {begun}: {error:?}"));
            continue;
        };
        let versions = &history[*service as usize];
        let mut possible = false;
        let mut late = u64::MAX;
        for (index, version) in versions.iter().enumerate() {
            if version.begun > *ended || !version.backends.contains(reached) {
                continue;
            }
            let replaced = versions.get(index + 1).map_or(u64::MAX, |next| next.acknowledged);
            possible |= replaced.saturating_add(lag) >= *begun;
            late = late.min(begun.saturating_sub(replaced));
        }
        if !possible {
            let versions: Vec<_> = versions.iter().map(|v| (v.begun, &v.backends)).collect();
            wrong.push(format!("service {service} at {begun}: reached {reached} of {versions:?}"));
        } else {
            lateness.push(late);
        }
    }
    if !wrong.is_empty() {
        let some = &wrong[..wrong.len().min(10)];
        bail!("{} of {} connections went wrong: {some:#?}", wrong.len(), visits.len());
    }
    lateness.sort_unstable();
    ensure!(!lateness.is_empty(), "nothing was visited");
    Ok(lateness)
}

/// Waits until every node's maps hold exactly what the API says. Gives how long that took.
async fn wait_for_maps(cluster: &Cluster, api: &Api) -> Result<Duration> {
    let wanted = wanted(api).await?;
    let start = Instant::now();
    for node in &cluster.nodes {
        loop {
            let found = programmed(cluster, &node.name)?;
            let active = node.maps().active_backends()?;
            let used: BTreeSet<&IpAddr> = wanted.values().flatten().collect();
            // The other services of the cluster have a few more.
            let extra = active.checked_sub(used.len());
            if found == wanted && extra.is_some_and(|extra| extra < 10) {
                break;
            }
            let differing = wanted.iter().find(|(service, set)| found.get(*service) != Some(*set));
            ensure!(
                start.elapsed() < PATIENCE,
                "{}: {} services instead of {}, {active} backends for {}; first difference: \
                 {differing:?}, programmed {:?}",
                node.name,
                found.len(),
                wanted.len(),
                used.len(),
                differing.map(|(service, _)| found.get(service)),
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(start.elapsed())
}

/// The ready backends of each service, by its address, as the API's objects say.
async fn wanted(api: &Api) -> Result<BTreeMap<IpAddr, BTreeSet<IpAddr>>> {
    let slices = kube::Api::<EndpointSlice>::all(api.client());
    let mut wanted = BTreeMap::new();
    for slice in slices.list(&ListParams::default()).await?.items {
        let name = slice.metadata.name.unwrap_or_default();
        let number = name.strip_prefix('s').and_then(|name| name.strip_suffix("-1"));
        let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) else { continue };
        let ready = slice.endpoints.into_iter().flatten().filter(|endpoint| {
            endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
        });
        let addresses = ready.flat_map(|endpoint| endpoint.addresses);
        let addresses = addresses.map(|text| Ok(text.parse::<IpAddr>()?));
        wanted.insert(vip(number), addresses.collect::<Result<BTreeSet<IpAddr>>>()?);
    }
    ensure!(wanted.len() == ALL as usize, "the API has {} services", wanted.len());
    Ok(wanted)
}

/// The backends of each of our services in a node's maps.
fn programmed(cluster: &Cluster, node: &str) -> Result<BTreeMap<IpAddr, BTreeSet<IpAddr>>> {
    let arguments = ["net", "backends", "--name", &cluster.name, "--node", node, "-o", "json"];
    let rows: Value = serde_json::from_str(&output(&mut cluster.bowline(&arguments)?)?)?;
    let rows = rows.as_array().or_else(|| rows["items"].as_array()).context("no rows")?;
    let mut found: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    let ours: BTreeSet<IpAddr> = (0..ALL).map(vip).collect();
    for row in rows {
        let text = |field: &str| row[field].as_str().context("a row without an address");
        let service: IpAddr = text("serviceAddress")?.parse()?;
        if ours.contains(&service) {
            found.entry(service).or_default().insert(text("address")?.parse()?);
        }
    }
    Ok(found)
}

/// Resident megabytes of each agent.
fn memory(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster.nodes.iter().map(|node| Ok(node.agent_memory()?.resident >> 20)).collect()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_micros() as u64)
}
