//! Services that change all the time under traffic: 1,000 services, 5,000 backends, 100 changes a
//! second.
//!
//! The backends are addresses that lead to one listener on each node, which tells every connection
//! the address it reached. Clients on two nodes visit services picked at random and write down
//! when and whom they reached; afterwards each visit is held against what the API said at that
//! moment. A set counts as possible from the moment its write began until [`LAG`] after the write
//! of the next one was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::api::Api;
use bowline_tests::command::output;
use bowline_tests::load::Load;
use bowline_tests::{Cluster, Wishes};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const SERVICES: u32 = 1_000;
const BACKENDS_EACH: u32 = 5;
const CHANGES_A_SECOND: u32 = 100;
const PORT: u16 = 9000;
/// Services have consecutive addresses from here.
const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 9, 100, 0);
/// Backends of the nodes: 10.77.0.0/19 leads to the first, the next /19 to the second.
const FIRST_BACKEND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 0);
const NODE_BITS: u32 = 13;
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
    let nodes = NODES as usize;
    let cluster = Cluster::up(&Wishes { nodes, registry: false, ..Wishes::default() })?;
    let api = cluster.api().await?;
    let played = play(&cluster, &api).await;
    played.map_err(|error| cluster.with_logs(error))
}

/// `cargo xtask test --thorough` plays for a minute.
fn duration() -> Duration {
    Duration::from_secs(if std::env::var_os("BOWLINE_THOROUGH").is_some() { 60 } else { 15 })
}

async fn play(cluster: &Cluster, api: &Api) -> Result<()> {
    let servers = start_backends(cluster)?;
    let mut history = create_services(api).await?;
    wait_for_maps(cluster, api).await.context("after all services were made")?;

    let first = format!("{FIRST_SERVICE}:80");
    let count = SERVICES.to_string();
    let visit = ["visit", &first, "--services", &count, "--workers", "2", "--every-us", "2000"];
    let clients = cluster.nodes.iter().map(|node| Load::spawn(&node.place()?, &visit));
    let clients = clients.collect::<Result<Vec<Load>>>()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = memory(cluster)?;

    let start = Instant::now();
    let changes = change_all_the_time(api, &mut history).await?;
    let took = start.elapsed();
    let after = memory(cluster)?;
    let mut visits: Vec<Visit> = Vec::new();
    for client in clients {
        visits.append(&mut client.stop_with()?);
    }
    drop(servers);
    let settled = wait_for_maps(cluster, api).await.context("after the last change")?;

    let rate = f64::from(changes) / took.as_secs_f64();
    println!("{changes} changes in {took:.1?}, {rate:.0}/s; {} connections", visits.len());
    println!("maps equal to the API {settled:.0?} after the clients' end");
    println!("memory of the agents before and after, MB: {before:?} {after:?}");
    let late = judge(&history, &visits)?;
    let of = |part: usize| Duration::from_micros(late[(late.len() - 1) * part / 1000]);
    println!("zero failed, zero misdirected");
    println!(
        "connections after the acknowledged removal of their backend: 99.9% within {:?}, all {:?}",
        of(999),
        of(1000)
    );
    ensure!(rate > f64::from(CHANGES_A_SECOND) * 0.8, "only {rate:.0} changes a second were made");
    ensure!(visits.len() > 1_000, "only {} connections", visits.len());
    for (before, after) in before.iter().zip(&after) {
        ensure!(*after < before + 8, "an agent grew from {before} to {after} MB");
    }
    Ok(())
}

/// A listener on each node for a range of addresses that leads there.
fn start_backends(cluster: &Cluster) -> Result<Vec<Load>> {
    let range = |node: u32| {
        let first = Ipv4Addr::from_bits(FIRST_BACKEND.to_bits() + (node << NODE_BITS));
        format!("{first}/{}", 32 - NODE_BITS)
    };
    let mut listeners = Vec::new();
    for (index, node) in (0..).zip(&cluster.nodes) {
        let place = node.place()?;
        for (other, peer) in (0..).zip(&cluster.nodes) {
            let mut ip = place.command("ip");
            ip.args(["route", "add"]);
            if other == index {
                ip.args(["local", &range(other), "dev", "lo"]);
            } else {
                ip.args([&range(other), "via", &node_address(cluster, &peer.name)?]);
            }
            output(&mut ip)?;
        }
        listeners.push(Load::spawn(&place, &["answer", "--port", &PORT.to_string()])?);
    }
    Ok(listeners)
}

fn node_address(cluster: &Cluster, node: &str) -> Result<String> {
    let said = output(&mut cluster.bowline(&["get", "node", node, "-o", "json"])?)?;
    let object: Value = serde_json::from_str(&said)?;
    let addresses = object["status"]["addresses"].as_array().context("no addresses")?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    let address = internal.and_then(|address| address["address"].as_str());
    address.map(str::to_owned).context("no internal address")
}

/// The backends that a service chooses its sets from, spread over the nodes.
fn pool(service: u32) -> impl Iterator<Item = IpAddr> {
    (0..BACKENDS_EACH).map(move |index| {
        let number = service * BACKENDS_EACH + index;
        let within = 1 + number / NODES;
        let bits = FIRST_BACKEND.to_bits() + ((number % NODES) << NODE_BITS) + within;
        Ipv4Addr::from_bits(bits).into()
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
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": format!("s{service}-1"),
            "namespace": namespace(service),
            "labels": { "kubernetes.io/service-name": format!("s{service}") },
        },
        "addressType": "IPv4",
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
    let made = futures::stream::iter(0..SERVICES).map(|number| async move {
        let client = api.client();
        let namespace = namespace(number);
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": format!("s{number}") },
            "spec": {
                "clusterIP": Ipv4Addr::from_bits(FIRST_SERVICE.to_bits() + number),
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
    let mut order: Vec<u32> = (0..SERVICES).collect();
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
            if found == wanted {
                break;
            }
            let differing = wanted.iter().find(|(service, set)| found.get(*service) != Some(*set));
            ensure!(
                start.elapsed() < PATIENCE,
                "{}: {} services instead of {}; first difference: {differing:?}, programmed {:?}",
                node.name,
                found.len(),
                wanted.len(),
                differing.map(|(service, _)| found.get(service)),
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let active = node.maps().active_backends()?;
        let used: BTreeSet<&IpAddr> = wanted.values().flatten().collect();
        // The other services of the cluster have a few more.
        let extra = active.checked_sub(used.len());
        ensure!(extra.is_some_and(|extra| extra < 10), "{active} backends for {}", used.len());
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
        let address = Ipv4Addr::from_bits(FIRST_SERVICE.to_bits() + number);
        let ready = slice.endpoints.into_iter().flatten().filter(|endpoint| {
            endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
        });
        let addresses = ready.flat_map(|endpoint| endpoint.addresses);
        let addresses = addresses.map(|text| Ok(text.parse::<IpAddr>()?));
        wanted.insert(address.into(), addresses.collect::<Result<BTreeSet<IpAddr>>>()?);
    }
    ensure!(wanted.len() == SERVICES as usize, "the API has {} services", wanted.len());
    Ok(wanted)
}

/// The backends of each of our services in a node's maps.
fn programmed(cluster: &Cluster, node: &str) -> Result<BTreeMap<IpAddr, BTreeSet<IpAddr>>> {
    let arguments = ["net", "backends", "--name", &cluster.name, "--node", node, "-o", "json"];
    let rows: Value = serde_json::from_str(&output(&mut cluster.bowline(&arguments)?)?)?;
    let rows = rows.as_array().or_else(|| rows["items"].as_array()).context("no rows")?;
    let mut found: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    let last = Ipv4Addr::from_bits(FIRST_SERVICE.to_bits() + SERVICES - 1);
    for row in rows {
        let text = |field: &str| row[field].as_str().context("a row without an address");
        let service: IpAddr = text("serviceAddress")?.parse()?;
        if service >= IpAddr::from(FIRST_SERVICE) && service <= IpAddr::from(last) {
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
