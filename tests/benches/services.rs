//! What many services cost a node: `cargo xtask bench services`.
//!
//! A real cluster of one node; by default 10,000 services with 10 endpoints each, made through the
//! API. The agent then starts on an empty node, once a round, and single endpoints are replaced.
//! Making the services, and the memory without them, is measured once.

#[expect(dead_code, reason = "no figure of this suite has a baseline")]
#[path = "../../xtask/src/bench/results.rs"]
mod results;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::maps::Services;
use bowline_tests::{Cluster, Node, Wishes, api::Api, artifacts};
use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use results::{Better, Figure, Run, Statistics};
use serde_json::json;

/// Measure what many services cost a node.
#[derive(Parser)]
struct Options {
    /// How many services there are.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    services: u32,
    /// How many endpoints each of them has.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    endpoints: u32,
    /// How often the agent starts on an empty node.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many changes are timed.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    changes: u32,
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 9, 16, 0);
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const NAMESPACES: u32 = 100;
/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// After this long the names are written and the memory of the lists is given back.
const SETTLE: Duration = Duration::from_secs(3);
/// Room for as many backends as the goal speaks of.
const ROOM: [&str; 2] = ["--map-size", "BACKENDS=131072"];

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let Options { services, endpoints, .. } = options;
    println!(
        "{services} services, {endpoints} endpoints each, measured with a cluster of one node"
    );
    let parameters = [
        ("services", json!(services)),
        ("endpoints", json!(endpoints)),
        ("rounds", json!(options.rounds)),
        ("changes", json!(options.changes)),
    ];
    let mut run = Run::begin("services", &parameters, Statistics::Off);
    let cluster = Cluster::up(&Wishes { nodes: 1, registry: false, ..Wishes::default() })?;
    let api = cluster.api().await?;
    let measured = measure(&cluster, &api, &options).await;
    run.extend(measured.map_err(|error| cluster.with_logs(error))?);
    run.figures().iter().for_each(print);
    run.end(options.json.as_deref())?;
    Ok(())
}

fn print(figure: &Figure) {
    let Figure { name, median, min, max, unit, .. } = figure;
    let spread = match figure.samples.len() {
        1 => String::new(),
        _ => format!("[{min:.2} .. {max:.2}]"),
    };
    println!("{name:50} {median:9.2} {unit:2}  {spread:20} {}", figure.judgement());
}

/// A figure of which less is better, and what it should be at most.
fn figure(
    name: &str,
    unit: &str,
    samples: impl Into<Vec<f64>>,
    goal: impl Into<Option<f64>>,
) -> Figure {
    Figure::new(name, unit, Better::Less, samples.into()).goal(goal)
}

async fn measure(cluster: &Cluster, api: &Api, options: &Options) -> Result<Vec<Figure>> {
    let node = &cluster.nodes[0];
    let idle = megabytes(node)?;
    node.kill_agent()?;
    let start = Instant::now();
    create(api, options).await.context("making services")?;
    let made = start.elapsed().as_secs_f64();

    let (mut programmed, mut full, mut maps) = (Vec::new(), Vec::new(), None);
    for round in 0..options.rounds {
        if round > 0 {
            node.kill_agent()?;
        }
        node.forget_pins()?;
        let start = Instant::now();
        node.start_agent_of(&artifacts::bowline()?, &ROOM)?;
        maps = Some(wait_for_all(node, options).await?);
        programmed.push(start.elapsed().as_secs_f64());
        tokio::time::sleep(SETTLE).await;
        full.push(megabytes(node)?);
    }
    let services = maps.context("no rounds were asked for")?;
    let [from_write, from_event] = changes(api, &services, options).await?;
    let start = "agent's start to all of them in an empty node's maps";
    Ok(vec![
        figure("services and slices made through the API", "s", [made], None),
        figure(start, "s", programmed, 2.0),
        figure("endpoint change, API write to map, median", "ms", from_write, None),
        figure("endpoint change, watch event to map, median", "ms", from_event, 3.0),
        figure("agent's memory without services", "MB", [idle], None),
        figure("agent's memory with them", "MB", full, 120.0),
        figure("agent's memory after the changes", "MB", [megabytes(node)?], 120.0),
    ])
}

/// The agent's resident memory.
fn megabytes(node: &Node) -> Result<f64> {
    Ok(node.agent_memory()?.resident as f64 / 1e6)
}

fn names(number: u32) -> (String, String) {
    (format!("bench-{}", number % NAMESPACES), format!("s{number}"))
}

fn service_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_SERVICE.to_bits() + number)
}

fn slice(number: u32, options: &Options, version: u32) -> Result<EndpointSlice> {
    let (namespace, name) = names(number);
    let endpoints = (0..options.endpoints).map(|index| {
        // Of a changed version one endpoint is another.
        let moved = if index == 0 { version * 0x10_0000 } else { 0 };
        let offset = number * options.endpoints + index + moved;
        let address: IpAddr = Ipv4Addr::from_bits(FIRST_ENDPOINT.to_bits() + offset).into();
        let pod = format!("{name}-5d8f9c7b6-{index:05}");
        json!({
            "addresses": [address],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": format!("node{}", index % 3),
            "zone": "a",
            "targetRef": { "kind": "Pod", "namespace": namespace, "name": pod,
                "uid": format!("6f1c9a52-0000-4000-8000-{offset:012}") },
        })
    });
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": format!("{name}-1"),
            "namespace": namespace,
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    }))?)
}

async fn create(api: &Api, options: &Options) -> Result<()> {
    for number in 0..NAMESPACES {
        let (name, _) = names(number);
        let object = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        api.of_cluster::<Namespace>().create(&PostParams::default(), &object).await?;
    }
    let made = futures::stream::iter(0..options.services).map(|number| async move {
        let (namespace, name) = names(number);
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "clusterIP": service_address(number), "ports": [{ "port": 80 }] },
        }))?;
        let slices = kube::Api::namespaced(api.client(), &namespace);
        slices.create(&PostParams::default(), &slice(number, options, 0)?).await?;
        let services = kube::Api::namespaced(api.client(), &namespace);
        services.create(&PostParams::default(), &service).await?;
        anyhow::Ok(())
    });
    made.buffer_unordered(32).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Waits until every service is in the maps with all its endpoints.
async fn wait_for_all(node: &Node, options: &Options) -> Result<Services> {
    let start = Instant::now();
    let mut number = 0;
    let mut opened = None;
    while number < options.services {
        ensure!(start.elapsed() < PATIENCE, "service {number} is not in the maps");
        if opened.is_none() {
            opened = node.maps().services().ok();
        }
        let slots = opened.as_ref().and_then(|map| map.slot_count(service_address(number), 80));
        if slots == Some(options.endpoints) {
            number += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    opened.context("no services were asked for")
}

/// Changes one endpoint at a time. Gives milliseconds of each: from the API write, and from the
/// watch event, to the map.
async fn changes(api: &Api, services: &Services, options: &Options) -> Result<[Vec<f64>; 2]> {
    let (mut from_write, mut from_event) = (Vec::new(), Vec::new());
    for round in 0..options.changes {
        let number = round.wrapping_mul(7919) % options.services;
        let (namespace, name) = names(number);
        let slices: kube::Api<EndpointSlice> = kube::Api::namespaced(api.client(), &namespace);
        // Of now: the slice's own may be older than what the server remembers.
        let current = slices.list(&ListParams::default().limit(1)).await?;
        let revision = current.metadata.resource_version.unwrap_or_default();
        let mut watch = slices.watch(&WatchParams::default(), &revision).await?.boxed();
        let (told, heard) = mpsc::channel();
        let follow = tokio::spawn(async move {
            while let Some(event) = watch.try_next().await? {
                let changed = matches!(&event, WatchEvent::Modified(slice)
                    if slice.metadata.name.as_deref() == Some(&format!("{name}-1")));
                if changed {
                    // Whoever waits for it gives up by itself.
                    let _ = told.send(Instant::now());
                    return anyhow::Ok(());
                }
            }
            bail!("the watch ended")
        });
        let before = services.first_slot(service_address(number), 80);
        let new = slice(number, options, 1 + round / options.services)?;
        let begun = Instant::now();
        let write = tokio::spawn(async move {
            slices
                .replace(
                    &new.metadata.name.clone().unwrap_or_default(),
                    &PostParams::default(),
                    &new,
                )
                .await
        });
        let seen = tokio::task::block_in_place(|| {
            loop {
                if services.first_slot(service_address(number), 80) != before {
                    return Ok(Instant::now());
                }
                ensure!(begun.elapsed() < PATIENCE, "a change never reached the map");
                std::thread::sleep(Duration::from_micros(50));
            }
        })?;
        write.await??;
        follow.await??;
        let event = heard.recv()?;
        from_write.push((seen - begun).as_secs_f64() * 1e3);
        // The map may be ahead of our own event: then the figure is below zero.
        from_event.push(((seen - begun).as_secs_f64() - (event - begun).as_secs_f64()) * 1e3);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok([from_write, from_event])
}
