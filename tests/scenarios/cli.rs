//! The `bowline` program as people and scripts use it: the object verbs, what it shows of a cluster
//! and of a node's data plane, and two clusters side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::api::{Api, Found, address, is_ready, name, node_of, wait};
use bowline_tests::command::{command, finish, output};
use bowline_tests::load::{self, requests};
use bowline_tests::machine::PROGRAMS;
use bowline_tests::{Cluster, EchoStage, Wishes, artifacts};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::bad_input::error_line;

const PATIENCE: Duration = Duration::from_secs(60);
const ECHO: &str = "10.9.8.9";
/// More than the chance packets of probes.
const REQUESTS: u32 = 200;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn every_command_on_one_cluster() -> Result<()> {
    let wishes = Wishes { nodes: 2, ..Wishes::default() };
    let stage = EchoStage::up(&wishes).await?;
    let played = async {
        completion()?;
        get(&stage)?;
        describe(&stage)?;
        data_plane(&stage).context("bowline net")?;
        dumps(&stage).context("bowline net maps dump")?;
        sticky_clients(&stage).await.context("bowline net affinity")?;
        drops_are_named(&stage).context("bowline net drops")?;
        counters_rise(&stage).context("counters")?;
        namespaces_of_pods(&stage).context("network namespaces")?;
        status(&stage.cluster).await.context("bowline status")?;
        // The server that answers now is another one.
        let api = stage.cluster.api().await?;
        scale_and_apply(&stage.cluster, &api).await?;
        delete(&stage.cluster, &api).await.context("bowline delete")
    };
    let played: Result<()> = played.await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

/// Runs a command that must succeed and say these words.
fn says(cluster: &Cluster, line: &str, expected: &[&str]) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let said = output(&mut cluster.bowline(&words)?)?;
    for word in expected {
        ensure!(said.contains(word), "`bowline {line}` does not say `{word}`:\n{said}");
    }
    Ok(said)
}

fn parsed(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
}

fn yaml(text: &str) -> Result<Value> {
    serde_yaml_ng::from_str(text).with_context(|| format!("not YAML: {text}"))
}

fn rows(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not a list: {value}"))
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

fn names(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().map(name).collect()
}

fn completion() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let mut bowline = command(artifacts::bowline()?);
        let script = output(bowline.args(["completion", shell]))?;
        ensure!(script.contains("apply"), "the script for {shell} does not know `apply`: {script}");
        if shell == "bash" {
            let directory = tempfile::tempdir()?;
            let file = directory.path().join("bowline");
            fs::write(&file, &script)?;
            output(command("bash").arg("-n").arg(&file))?;
        }
    }
    Ok(())
}

fn get(stage: &EchoStage) -> Result<()> {
    let cluster = &stage.cluster;
    let pods = names(&stage.servers);
    let wide = says(cluster, "get pods -l app=echo -o wide", &["NAME", "READY", "IP", "NODE"])?;
    for pod in &stage.servers {
        let line = wide.lines().find(|line| line.starts_with(&name(pod)));
        let line = line.with_context(|| format!("no {} in:\n{wide}", name(pod)))?;
        for word in [address(pod)?.to_string(), node_of(pod), "Running".to_owned()] {
            ensure!(line.split_whitespace().any(|one| one == word), "no {word} in `{line}`");
        }
    }
    let from_json = parsed(&says(cluster, "get pods -l app=echo -o json", &[])?)?;
    let from_yaml = yaml(&says(cluster, "get pods -l app=echo -o yaml", &[])?)?;
    for list in [&from_json, &from_yaml] {
        ensure!(list["kind"] == "List", "{list}");
        let items = rows(&list["items"])?;
        ensure!(items.iter().all(|pod| pod["kind"] == "Pod" && pod["apiVersion"] == "v1"));
        let found: BTreeSet<String> =
            items.iter().map(|pod| text(&pod["metadata"], "name").to_owned()).collect();
        ensure!(found == pods, "{found:?} instead of {pods:?}");
    }
    let one = yaml(&says(cluster, "get pod client -o yaml", &[])?)?;
    ensure!((&one["kind"], &one["metadata"]["name"]) == (&"Pod".into(), &"client".into()), "{one}");
    let listed = says(cluster, "get pods -l app=echo -o name", &[])?;
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let expected: BTreeSet<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
    ensure!(listed == expected, "{listed:?} instead of {expected:?}");
    Ok(())
}

fn describe(stage: &EchoStage) -> Result<()> {
    for (line, expected) in [
        (
            "describe pod client",
            &["Name:", "Pod (v1)", "app=client", "Containers:", "Running", "Scheduled"][..],
        ),
        (
            "describe deployment/echo",
            &["Deployment (apps/v1)", "Conditions:", "Available", "replicas: 2"],
        ),
        ("describe service echo", &["Service (v1)", "clusterIP: 10.9.8.9", "Events:"]),
        ("describe node node1", &["Node (v1)", "Conditions:", "Ready", "podCIDR: 10.240."]),
    ] {
        says(&stage.cluster, line, expected)?;
    }
    Ok(())
}

/// `bowline net`, of one node.
fn net(stage: &EchoStage, what: &str, node: &str, form: &str) -> Result<String> {
    let name = &stage.cluster.name;
    says(&stage.cluster, &format!("net {what} --name {name} --node {node} -o {form}"), &[])
}

fn net_rows(stage: &EchoStage, what: &str, node: &str) -> Result<Value> {
    parsed(&net(stage, what, node, "json")?)
}

/// What `bowline net` has rows of.
const ROWS: [&str; 9] = [
    "services", "backends", "pods", "routes", "counters", "maps", "features", "programs", "status",
];

/// Every kind of rows in every form; the two forms for programs say the same.
fn data_plane(stage: &EchoStage) -> Result<()> {
    let pods = stage.servers.iter().map(|pod| Ok(address(pod)?.to_string()));
    let backends: BTreeSet<String> = pods.collect::<Result<_>>()?;
    let routes = node_ranges(&stage.cluster)?;
    for node in &stage.cluster.nodes {
        for what in ROWS {
            let table = net(stage, what, &node.name, "table")?;
            ensure!(table.lines().count() > 1, "`net {what}` shows nothing: {table}");
            for form in ["json", "yaml"] {
                let said = net(stage, what, &node.name, form)?;
                let value = if form == "json" { parsed(&said)? } else { yaml(&said)? };
                let seen = match what {
                    "services" => services_hold(&value),
                    "backends" => backends_hold(&value, &backends),
                    "pods" => pods_hold(&value, stage, &node.name),
                    "routes" => routes_hold(&value, &routes, &node.name),
                    "counters" => all_have(&value, &["reason", "direction", "packets", "bytes"]),
                    "maps" => maps_hold(&value),
                    "features" => features_hold(&value),
                    "programs" => all_have(&value, &["name", "id", "hook", "instructions"]),
                    _ => condition_holds(&value),
                };
                let words = seen.with_context(|| format!("`net {what} -o {form}`: {value}"))?;
                for word in words {
                    ensure!(table.contains(&word), "no {word} in the table:\n{table}");
                }
            }
        }
    }
    Ok(())
}

/// Every map, entry by entry; one entry by its key; and what there is not, by its neighbours.
fn dumps(stage: &EchoStage) -> Result<()> {
    let node = &stage.cluster.nodes[0].name;
    let maps = net_rows(stage, "maps", node)?;
    for map in rows(&maps)? {
        let entries = net_rows(stage, &format!("maps dump {}", text(map, "name")), node)?;
        let found = rows(&entries)?.len() as u64;
        let used = map["used"].as_u64().unwrap_or(0);
        let seen = match text(map, "name") {
            // Programs write to these all the time.
            "REVERSE" | "AFFINITY" | "FLOWS" => true,
            // What services left stays until it is used again.
            "SLOTS" | "BACKENDS" => found >= used,
            _ => found == used,
        };
        ensure!(seen, "{found} entries of {map}");
    }
    let vip = format!("{ECHO}:80/TCP");
    let service = net_rows(stage, &format!("maps get services {vip}"), node)?;
    ensure!(service["value"]["slot_count"] == 2, "{service}");
    let first = &service["value"]["first_slot"];
    let slot = net_rows(stage, &format!("maps get SLOTS {first}"), node)?;
    let backend =
        net_rows(stage, &format!("maps get BACKENDS {}", slot["value"]["backend"]), node)?;
    ensure!(backend["value"]["port"] == 9376 && backend["value"]["state"] == 1, "{backend}");
    let raw = net(stage, "maps dump SERVICES --raw", node, "table")?;
    // 10.9.8.9 as it stands in a mapped address, and port 80.
    ensure!(raw.contains("ffff0a0908090050"), "{raw}");
    let counters = net(stage, "maps dump COUNTERS", node, "table")?;
    ensure!(counters.contains("stack/from-pod"), "{counters}");

    let one_letter_off = format!("{ECHO}:81/TCP");
    for (line, expected) in [
        ("maps get SERVICES", vec![one_letter_off.as_str(), "did you mean", vip.as_str()]),
        ("maps dump", vec!["SERVICE", "did you mean SERVICES"]),
    ] {
        let name = &stage.cluster.name;
        let line = format!("net {line} {} --name {name} --node {node}", expected[0]);
        let words: Vec<&str> = line.split_whitespace().collect();
        let ended = finish(&mut stage.cluster.bowline(&words)?)?;
        let said = error_line(&ended)?;
        ensure!(expected.iter().all(|word| said.contains(word)), "{said}");
    }
    Ok(())
}

/// A client of a service with session affinity has a row with its backend.
async fn sticky_clients(stage: &EchoStage) -> Result<()> {
    let services = stage.cluster.api().await?.of::<Service>();
    let sticky =
        |policy: &str| kube::api::Patch::Merge(json!({"spec": {"sessionAffinity": policy}}));
    let params = kube::api::PatchParams::default();
    services.patch("echo", &params, &sticky("ClientIP")).await?;
    let node = &stage.cluster.node(&node_of(&stage.client))?.name;
    let vip: SocketAddr = format!("{ECHO}:80").parse()?;
    wait("a row of the client", PATIENCE, async || {
        requests(&stage.place()?, vip, 2)?.expect_no_failure("the client")?;
        let found = net_rows(stage, "affinity", node)?;
        let row = rows(&found)?.iter().find(|row| row["service"] == "default/echo").cloned();
        Ok(row.map_or_else(|| Found::NotYet(found.to_string()), Found::Yes))
    })
    .await
    .and_then(|row| {
        let pods = stage.servers.iter().map(|pod| format!("default/{}", name(pod)));
        ensure!(pods.into_iter().any(|pod| row["target"] == pod), "{row}");
        ensure!(text(&row, "client").starts_with("netns:"), "{row}");
        ensure!(row["idleSeconds"].as_u64().is_some_and(|idle| idle < 60), "{row}");
        Ok(())
    })?;
    services.patch("echo", &params, &sticky("None")).await?;
    Ok(())
}

/// A port that a service has not is refused, and the refusal has a row; others have none here.
fn drops_are_named(stage: &EchoStage) -> Result<()> {
    let place = stage.node()?.place()?;
    let refused = finish(place.command("bash").args(["-c", &format!("</dev/tcp/{ECHO}/81")]))?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("Connection refused"), "port 81 is nobody's: {said}");
    let found = net_rows(stage, "drops", &node_of(&stage.client))?;
    let own = |row: &&Value| row["reason"] == "unknown-port" && row["direction"] == "socket";
    let row = rows(&found)?.iter().find(own).with_context(|| format!("no row in {found}"))?;
    ensure!(row["packets"].as_u64() >= Some(1), "{row}");
    ensure!(rows(&found)?.iter().all(|row| row["dropped"] == true), "{found}");
    Ok(())
}

/// Each of these looks at rows and gives words that the table must have too.
fn services_hold(value: &Value) -> Result<Vec<String>> {
    let own = |row: &&Value| row["name"] == "echo" && row["namespace"] == "default";
    let own: Vec<&Value> = rows(value)?.iter().filter(own).collect();
    let ports: BTreeSet<(u64, &str)> =
        own.iter().map(|row| (row["port"].as_u64().unwrap_or(0), text(row, "protocol"))).collect();
    ensure!(ports == BTreeSet::from([(7, "TCP"), (7, "UDP"), (80, "TCP")]), "ports {ports:?}");
    ensure!(own.iter().all(|row| row["address"] == ECHO && row["backends"] == 2));
    Ok(["echo", ECHO, "80/TCP", "7/UDP"].map(str::to_owned).to_vec())
}

fn backends_hold(value: &Value, pods: &BTreeSet<String>) -> Result<Vec<String>> {
    let web = |row: &&Value| row["serviceAddress"] == ECHO && row["servicePort"] == 80;
    let web = rows(value)?.iter().filter(web);
    let found: BTreeSet<String> = web.map(|row| text(row, "address").to_owned()).collect();
    ensure!(found == *pods, "backends {found:?} instead of {pods:?}");
    Ok(found.into_iter().map(|address| format!("{address}:9376")).collect())
}

fn pods_hold(value: &Value, stage: &EchoStage, node: &str) -> Result<Vec<String>> {
    let all = stage.servers.iter().chain([&stage.client]);
    let here = all.filter(|pod| node_of(pod) == node);
    let expected: BTreeMap<String, String> =
        here.map(|pod| Ok((name(pod), address(pod)?.to_string()))).collect::<Result<_>>()?;
    let found: BTreeMap<String, String> = rows(value)?
        .iter()
        .map(|row| (text(row, "name").to_owned(), text(row, "address").to_owned()))
        .collect();
    ensure!(found == expected, "pods {found:?} instead of {expected:?}");
    Ok(found.into_iter().flat_map(|(name, address)| [name, address]).collect())
}

fn routes_hold(
    value: &Value,
    ranges: &BTreeMap<String, String>,
    node: &str,
) -> Result<Vec<String>> {
    let others = ranges.iter().filter(|(other, _)| *other != node);
    let expected: BTreeSet<&str> = others.map(|(_, range)| range.as_str()).collect();
    let found: BTreeSet<&str> = rows(value)?.iter().map(|row| text(row, "cidr")).collect();
    ensure!(found == expected, "routes {found:?} instead of {expected:?}");
    Ok(found.into_iter().map(str::to_owned).collect())
}

fn maps_hold(value: &Value) -> Result<Vec<String>> {
    all_have(value, &["name", "used", "size"])?;
    for map in ["SERVICES", "BACKENDS", "SLOTS"] {
        let row = rows(value)?.iter().find(|row| row["name"] == map);
        let row = row.with_context(|| format!("no map {map}"))?;
        let (used, size) = (row["used"].as_u64().unwrap_or(0), row["size"].as_u64().unwrap_or(0));
        ensure!(0 < used && used <= size, "{row}");
    }
    Ok(vec!["SERVICES".to_owned(), "BACKENDS".to_owned()])
}

fn condition_holds(value: &Value) -> Result<Vec<String>> {
    let mut words = features_hold(&value["features"]).context("features")?;
    for part in ["maps", "programs"] {
        all_have(&value[part], &["name"]).with_context(|| part.to_owned())?;
        words.extend(rows(&value[part])?.iter().map(|row| text(row, "name").to_owned()));
    }
    let mut bytes = 0;
    for map in rows(&value["maps"])? {
        let own = map["bytes"].as_u64().filter(|bytes| *bytes > 0);
        bytes += own.with_context(|| format!("no memory: {map}"))?;
    }
    ensure!(value["mapBytes"] == bytes, "{} is not the sum of {bytes}", value["mapBytes"]);
    let programs = rows(&value["programs"])?.iter().map(|row| text(row, "name"));
    let unknown: Vec<&str> = programs.filter(|name| !PROGRAMS.contains(name)).collect();
    ensure!(unknown.is_empty(), "what `down` leaves of {unknown:?} would not be seen");
    Ok(words)
}

/// Each feature has its name, the first kernel with it, whether this one has it, and whether it is
/// used, which it cannot be where it is not there.
fn features_hold(value: &Value) -> Result<Vec<String>> {
    all_have(value, &["name", "neededFrom", "present", "used"])?;
    let is_version = |text: &str| text.contains('.') && text.split('.').all(is_number);
    for row in rows(value)? {
        ensure!(is_version(text(row, "neededFrom")), "no kernel: {row}");
        let flags = (row["present"].as_bool(), row["used"].as_bool());
        ensure!(matches!(flags, (Some(true), Some(_)) | (Some(false), Some(false))), "{row}");
    }
    Ok(rows(value)?.iter().map(|row| text(row, "name").to_owned()).collect())
}

fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok()
}

/// There are rows, and none lacks a field.
fn all_have(value: &Value, fields: &[&str]) -> Result<Vec<String>> {
    ensure!(!rows(value)?.is_empty(), "no rows");
    for row in rows(value)? {
        for field in fields {
            ensure!(!row[field].is_null(), "no {field} in {row}");
        }
    }
    Ok(Vec::new())
}

fn node_ranges(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let nodes = parsed(&says(cluster, "get nodes -o json", &[])?)?;
    let range = |node: &Value| {
        (text(&node["metadata"], "name").to_owned(), text(&node["spec"], "podCIDR").to_owned())
    };
    Ok(rows(&nodes["items"])?.iter().map(range).collect())
}

fn counters_rise(stage: &EchoStage) -> Result<()> {
    let node = node_of(&stage.client);
    let connections = || -> Result<u64> {
        let services = net_rows(stage, "services", &node)?;
        let web = rows(&services)?.iter().find(|row| row["address"] == ECHO && row["port"] == 80);
        web.context("no echo:80")?["connections"].as_u64().context("no count")
    };
    let packets = || -> Result<u64> {
        let counters = net_rows(stage, "counters", &node)?;
        let passed = rows(&counters)?.iter().filter(|row| row["dropped"] == false);
        Ok(passed.filter_map(|row| row["packets"].as_u64()).sum())
    };
    let before = (connections()?, packets()?);
    requests(&stage.place()?, EchoStage::service(), REQUESTS)?.expect_no_failure("the client")?;
    let (made, passed) = (connections()? - before.0, packets()? - before.1);
    ensure!(made == u64::from(REQUESTS), "{made} connections counted of {REQUESTS}");
    // A request and its answer, at the least.
    ensure!(passed >= 2 * u64::from(REQUESTS), "{passed} packets counted of {REQUESTS} requests");
    Ok(())
}

/// The path that `net pods` shows is one that `nsenter` takes, and the pod's address is in there.
fn namespaces_of_pods(stage: &EchoStage) -> Result<()> {
    let mut entered = BTreeSet::new();
    for node in &stage.cluster.nodes {
        let pods = net_rows(stage, "pods", &node.name)?;
        for row in rows(&pods)? {
            let mut ip = command("nsenter");
            ip.arg(format!("--net={}", text(row, "netns"))).args(["ip", "-o", "addr"]);
            let inside = output(&mut ip)?;
            let address = format!("inet {}/", text(row, "address"));
            ensure!(inside.contains(&address), "no {address} in {}:\n{inside}", row["netns"]);
            entered.insert(text(row, "name").to_owned());
        }
    }
    let all = stage.servers.iter().chain([&stage.client]).map(name);
    ensure!(entered == all.collect(), "only {entered:?} were entered");
    Ok(())
}

fn status_command(cluster: &Cluster, form: &str) -> Result<Command> {
    cluster.bowline(&["status", "--name", &cluster.name, "-o", form])
}

async fn status(cluster: &Cluster) -> Result<()> {
    healthy(cluster)?;
    cluster.kill_server()?;
    let ended = finish(&mut status_command(cluster, "table")?)?;
    let advice = error_line(&ended)?;
    ensure!(advice.contains("does not run") && advice.contains("server.log"), "{advice}");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(said.lines().count() == 1, "more than a line of advice: {said}");
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    ensure!(table.contains("does not answer") && table.contains("not running"), "{table}");
    let ended = finish(&mut status_command(cluster, "json")?)?;
    error_line(&ended)?;
    let value = parsed(&String::from_utf8_lossy(&ended.stdout))?;
    ensure!(value["serverVersion"].is_null() && value["nodes"] == serde_json::json!([]), "{value}");
    // Without a server the other verbs have one line as well.
    let ended = finish(&mut cluster.bowline(&["get", "pods"])?)?;
    let advice = error_line(&ended)?;
    ensure!(advice.contains("bowline status"), "{advice}");
    cluster.start_server()?;
    wait("the server to answer again", PATIENCE, async || {
        Ok(match healthy(cluster) {
            Ok(()) => Found::Yes(()),
            Err(error) => Found::NotYet(format!("{error:#}")),
        })
    })
    .await
}

/// What `status` says of a cluster in which all is well.
fn healthy(cluster: &Cluster) -> Result<()> {
    let table = output(&mut status_command(cluster, "table")?)?;
    let pods = "pods 3 of 3 ready";
    for word in [cluster.name.as_str(), pods, "PROCESS", "server", "containerd", "node2"] {
        ensure!(table.contains(word), "`status` does not say `{word}`:\n{table}");
    }
    let value = parsed(&output(&mut status_command(cluster, "json")?)?)?;
    ensure!(value["name"] == cluster.name.as_str(), "{value}");
    ensure!(text(&value, "serverVersion").contains("bowline"), "{value}");
    let nodes = rows(&value["nodes"])?;
    ensure!(nodes.len() == 2 && nodes.iter().all(|node| node["ready"] == true), "{value}");
    let processes = rows(&value["processes"])?;
    ensure!(processes.len() == 4, "server, containerd and two agents: {value}");
    for process in processes {
        let pid = process["pid"].as_u64().with_context(|| format!("not running: {process}"))?;
        ensure!(fs::exists(format!("/proc/{pid}"))?, "no such process: {process}");
        ensure!(process["residentBytes"].as_u64() > Some(1 << 20), "{process}");
    }
    Ok(())
}

async fn scale_and_apply(cluster: &Cluster, api: &Api) -> Result<()> {
    says(cluster, "scale deploy/echo --replicas 3", &["deployment.apps/echo scaled"])?;
    api.ready_pods("app=echo", 3, PATIENCE).await?;
    api.endpoints("echo", 3, PATIENCE).await?;

    let manifest = fs::read_to_string(artifacts::example("echo.yaml"))?;
    let changed = manifest.replace("replicas: 2", "replicas: 1");
    ensure!(changed != manifest, "echo.yaml has another number of replicas");
    let file = cluster.dir.join("logs/echo.yaml");
    fs::write(&file, changed)?;
    let apply = format!("apply -f {}", file.display());
    says(cluster, &apply, &["deployment.apps/echo configured\n", "service/echo unchanged\n"])?;
    api.ready_pods("app=echo", 1, PATIENCE).await?;
    says(cluster, &apply, &["deployment.apps/echo unchanged\n", "service/echo unchanged\n"])?;
    says(cluster, "get deployment echo", &["1/1"])?;
    Ok(())
}

/// Nothing is left in the API, and nothing on the nodes.
async fn delete(cluster: &Cluster, api: &Api) -> Result<()> {
    let said = cluster.delete("echo.yaml")?;
    for word in ["deployment.apps/echo deleted", "service/echo deleted"] {
        ensure!(said.contains(word), "no `{word}`: {said}");
    }
    // What the command waited for is gone at once, what those owned follows.
    ensure!(api.of::<Deployment>().get_opt("echo").await?.is_none());
    ensure!(api.of::<Service>().get_opt("echo").await?.is_none());
    api.no_pods("app=echo", PATIENCE).await?;
    let slices = ListParams::default().labels("kubernetes.io/service-name=echo");
    wait("the end of all that echo owned", PATIENCE, async || {
        let sets = api.of::<ReplicaSet>().list(&ListParams::default()).await?.items.len();
        let slices = api.of::<EndpointSlice>().list(&slices).await?.items.len();
        let endpoints = api.of::<Endpoints>().get_opt("echo").await?.is_some();
        Ok(match (sets, slices, endpoints) {
            (0, 0, false) => Found::Yes(()),
            left => Found::NotYet(format!("replica sets, slices, endpoints: {left:?}")),
        })
    })
    .await?;
    cluster.agrees(PATIENCE).await?;
    for node in &cluster.nodes {
        for what in ["services", "backends", "pods"] {
            let line = format!("net {what} --name {} --node {} -o json", cluster.name, node.name);
            let said = says(cluster, &line, &[])?;
            ensure!(!said.contains("echo") && !said.contains(ECHO), "`{line}`: {said}");
        }
    }
    Ok(())
}

/// Two clusters on one machine, the second in ranges of its own; both serve.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn two_clusters_side_by_side() -> Result<()> {
    let first = EchoStage::up(&Wishes { nodes: 1, ..Wishes::default() }).await?;
    let mut wishes = Wishes { nodes: 1, ..Wishes::default() };
    let ranges = ["--pod-cidr", "10.96.0.0/16", "--service-cidr", "10.97.0.0/16"];
    wishes.flags.extend(ranges.map(str::to_owned));
    let second = Cluster::up(&wishes)?;
    let played = beside(&first, &second).await;
    played.map_err(|error| first.cluster.with_logs(second.with_logs(error)))
}

async fn beside(first: &EchoStage, second: &Cluster) -> Result<()> {
    let ranges = node_ranges(second)?;
    let range = ranges.get("node1").context("no node1")?;
    ensure!(range.starts_with("10.96.") && range.ends_with("/24"), "pod range {range}");
    ensure!(node_ranges(&first.cluster)?["node1"].starts_with("10.240."));
    let api = second.api().await?;
    ensure!(cluster_ip(&api, "kubernetes").await? == "10.97.0.1");
    // Which one is meant must be said.
    let ended = finish(command(artifacts::bowline()?).args(["get", "nodes"]))?;
    let advice = error_line(&ended)?;
    ensure!(advice.contains("--name") && advice.contains(&second.name), "{advice}");

    let manifest = fs::read_to_string(artifacts::example("echo.yaml"))?;
    let file = second.dir.join("logs/echo.yaml");
    fs::write(&file, manifest.replace("  clusterIP: 10.9.8.9\n", ""))?;
    says(second, &format!("apply -f {}", file.display()), &["service/echo created"])?;
    second.apply("client.yaml")?;
    let servers = api.ready_pods("app=echo", 2, PATIENCE).await?;
    api.endpoints("echo", 2, PATIENCE).await?;
    let clients = api.ready_pods("app=client", 1, PATIENCE).await?;
    let client = clients.first().context("no client")?;
    for pod in servers.iter().chain([client]) {
        ensure!(is_ready(pod) && address(pod)?.octets()[..2] == [10, 96], "{:?}", address(pod));
    }
    let service = cluster_ip(&api, "echo").await?;
    ensure!(service.starts_with("10.97."), "the service has {service}");
    second.agrees(PATIENCE).await?;

    let place = second.pod_place(client)?;
    let answer: Value = load::run(&place, &["resolve", "echo"])?;
    ensure!(answer["addresses"] == serde_json::json!([service]), "{answer}");
    let web = format!("{service}:80").parse()?;
    let here = requests(&place, web, REQUESTS)?;
    here.expect_no_failure("the second cluster")?;
    let answered: BTreeSet<String> = here.values("pod").into_iter().collect();
    ensure!(answered == names(&servers), "answers of {answered:?}");
    let there = requests(&first.place()?, EchoStage::service(), REQUESTS)?;
    there.expect_no_failure("the first cluster")?;
    let answered: BTreeSet<String> = there.values("pod").into_iter().collect();
    ensure!(answered == names(&first.servers), "answers of {answered:?}");
    Ok(())
}

async fn cluster_ip(api: &Api, service: &str) -> Result<String> {
    let service = api.of::<Service>().get(service).await?;
    service.spec.and_then(|spec| spec.cluster_ip).context("a service without an address")
}
