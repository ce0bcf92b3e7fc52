//! `bowline net bugreport`: what is in the archive and what is not, with and without an API.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::command::{command, finish, output};
use bowline_tests::{EchoStage, Wishes};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A secret that must not be found, and as the API has it.
const SECRET: &str = "rumpelstiltskin";
const ENCODED: &str = "cnVtcGVsc3RpbHRza2lu";
const PARTS: [&str; 16] = [
    "version.txt",
    "machine/proc/version",
    "nodes/node1/status.json",
    "nodes/node2/services.json",
    "nodes/node1/status.txt",
    "nodes/node1/drops.json",
    "nodes/node1/features.json",
    "nodes/node1/programs.json",
    "nodes/node1/top.json",
    "nodes/node1/monitor.json.log",
    "nodes/node2/maps-dump-FLOWS.json",
    "nodes/node2/maps-dump-SERVICES.json",
    "nodes/node2/maps-dump-PODS.json",
    "api/services.yaml",
    "logs/server.log",
    "logs/node1.log",
];
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn an_archive_has_everything_but_secrets() -> Result<()> {
    let stage = EchoStage::up(&Wishes { nodes: 2, ..Wishes::default() }).await?;
    let played = play(&stage).await;
    played.map_err(|error| stage.cluster.with_logs(error))
}

async fn play(stage: &EchoStage) -> Result<()> {
    let api = stage.cluster.api().await?;
    let secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": "name" }, "stringData": { "name": SECRET },
    }))?;
    api.of().create(&PostParams::default(), &secret).await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.tar.gz");
    interrupted(stage, directory.path())?;
    let ended = finish(&mut bugreport(stage, &file)?)?;
    let [said, beside] = [&ended.stdout, &ended.stderr].map(|it| String::from_utf8_lossy(it));
    ensure!(said.starts_with(&file.display().to_string()), "it said {said}");
    // No terminal: one line when it is done.
    let is_one = beside.starts_with("gathered ") && beside.contains(" parts of 2 nodes in ");
    ensure!(is_one && beside.lines().count() == 1, "beside it, it said {beside}");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "others may read it");
    let parts = unpacked(&file)?;
    for part in PARTS {
        ensure!(parts.get(part).is_some_and(|text| !text.is_empty()), "no {part}: {parts:?}");
    }
    let failed: Vec<&String> = parts.keys().filter(|name| name.ends_with(".err")).collect();
    ensure!(failed.is_empty(), "something failed: {failed:?}");
    let services: Value = serde_json::from_str(&parts["nodes/node1/services.json"])?;
    ensure!(services.to_string().contains("\"echo\""), "{services}");
    ensure!(parts["nodes/node1/diff.json"].trim() == "[]", "{}", parts["nodes/node1/diff.json"]);
    let tokens = fs::read_to_string(stage.cluster.kubeconfig())?;
    let key = tokens.lines().find_map(|line| line.trim().strip_prefix("client-key-data: "));
    let key = key.context("no key in the kubeconfig")?.trim_matches('"').to_owned();
    for (name, text) in &parts {
        for secret in [SECRET, ENCODED, "PRIVATE KEY", "client-key", &key] {
            ensure!(!text.contains(secret), "{name} has {secret:?} in it");
        }
    }

    // Once more into the same file: refused, and the file stays.
    let before = fs::read(&file)?;
    let again = finish(&mut bugreport(stage, &file)?)?;
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(!again.status.success() && error.contains("it is there already"), "{error}");
    ensure!(fs::read(&file)? == before, "the first archive was changed");

    // Without an API the rest is there, and what is missing says why.
    stage.cluster.kill_server()?;
    let file = directory.path().join("without.tar.gz");
    let start = Instant::now();
    report(stage, &file)?;
    ensure!(start.elapsed() < PATIENCE, "without an API it took {:?}", start.elapsed());
    let parts = unpacked(&file)?;
    ensure!(parts["nodes/node2/status.json"].contains("\"programs\""), "no programs");
    let complaint = parts.get("api/services.yaml.err").map_or("", String::as_str);
    ensure!(complaint.contains("error: "), "it does not say that there is no API: {complaint}");
    Ok(())
}

/// Ctrl-C leaves nothing behind.
fn interrupted(stage: &EchoStage, directory: &Path) -> Result<()> {
    let file = directory.join("interrupted.tar.gz");
    let part = file.with_added_extension("part");
    let mut report = bugreport(stage, &file)?;
    let report = report.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let end = Instant::now() + PATIENCE;
    while !part.exists() {
        ensure!(Instant::now() < end, "nothing is gathered");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(i32::try_from(report.id())?), Signal::SIGINT)?;
    let start = Instant::now();
    let ended = report.wait_with_output()?;
    ensure!(start.elapsed() < Duration::from_secs(5), "it went on for {:?}", start.elapsed());
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(!ended.status.success() && said.contains("interrupted"), "{}: {said}", ended.status);
    let left: Vec<_> = fs::read_dir(directory)?.flatten().map(|it| it.file_name()).collect();
    ensure!(left.is_empty(), "it left {left:?}");
    Ok(())
}

fn bugreport(stage: &EchoStage, file: &Path) -> Result<std::process::Command> {
    let mut report = stage.cluster.bowline(&["net", "bugreport", "--name", &stage.cluster.name])?;
    report.arg("--file").arg(file);
    Ok(report)
}

fn report(stage: &EchoStage, file: &Path) -> Result<String> {
    output(&mut bugreport(stage, file)?)
}

/// The parts by name, as tar(1) sees them.
fn unpacked(file: &Path) -> Result<BTreeMap<String, String>> {
    let directory = tempfile::tempdir()?;
    let mut tar = command("tar");
    output(tar.arg("-xzf").arg(file).arg("-C").arg(directory.path()).arg("--strip-components=1"))?;
    let mut parts = BTreeMap::new();
    let mut next = vec![directory.path().to_path_buf()];
    while let Some(path) = next.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                next.push(entry?.path());
            }
        } else {
            let name = path.strip_prefix(directory.path())?.display().to_string();
            parts.insert(name, String::from_utf8_lossy(&fs::read(&path)?).into_owned());
        }
    }
    Ok(parts)
}
