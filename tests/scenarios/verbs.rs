//! The object verbs against a server without nodes: what they refuse, that one failure hides no
//! other, and that they do all of their work whoever reads what they say. None of it needs root.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use bowline_tests::command::{command, finish};
use bowline_tests::{Server, artifacts};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::bad_input::error_line;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A server, a client of it, and a directory for manifests.
struct Stage {
    server: Server,
    client: kube::Client,
    directory: tempfile::TempDir,
}

impl Stage {
    async fn up() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut server = Server::start(directory.path())?;
        let client = server.client().await?;
        Ok(Self { server, client, directory })
    }

    fn bowline(&self, words: &[&str]) -> Result<Command> {
        let mut bowline = command(artifacts::bowline()?);
        bowline.args(words).env("KUBECONFIG", self.server.kubeconfig());
        Ok(bowline)
    }

    fn maps(&self) -> kube::Api<ConfigMap> {
        kube::Api::namespaced(self.client.clone(), "default")
    }

    async fn make(&self, metadata: Value) -> Result<()> {
        let map = serde_json::from_value(json!({ "metadata": metadata }))?;
        self.maps().create(&PostParams::default(), &map).await?;
        Ok(())
    }

    /// Those of the config maps that are there.
    async fn there(&self) -> Result<BTreeSet<String>> {
        let list = self.maps().list(&ListParams::default()).await?;
        let names = list.items.into_iter().filter_map(|map| map.metadata.name);
        Ok(names.filter(|name| NAMES.contains(&name.as_str())).collect())
    }

    /// Writes a manifest of one config map and gives its path.
    fn manifest(&self, name: &str, metadata: &Value) -> Result<String> {
        let file = self.directory.path().join(name);
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
        std::fs::write(&file, map.to_string())?;
        Ok(file.display().to_string())
    }
}

fn all() -> BTreeSet<String> {
    NAMES.map(str::to_owned).into()
}

/// An empty name would be the path of the collection, and that of a DELETE of all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_names_nothing_deletes_nothing() -> Result<()> {
    let stage = Stage::up().await?;
    for name in NAMES {
        stage.make(json!({ "name": name })).await?;
    }
    let nameless = stage.manifest("nameless.json", &json!({ "generateName": "a-" }))?;
    let elsewhere = json!({ "name": "a", "namespace": "default" });
    let elsewhere = stage.manifest("elsewhere.json", &elsewhere)?;
    for (words, expected) in [
        (&["delete", "configmap", ""][..], "empty word"),
        (&["delete", "configmap", "a", ""], "empty word"),
        (&["delete", "configmap", "..", "--wait=false"], "no name"),
        (&["delete", "configmap/"], "not TYPE/NAME"),
        (&["delete", "-f", &nameless], "without metadata.name"),
        (&["delete", "-f", &elsewhere, "-n", "staging"], "the command line `staging`"),
    ] {
        let said = error_line(&finish(&mut stage.bowline(words)?)?)?;
        ensure!(said.contains(expected), "{words:?}: {said}");
        let there = stage.there().await?;
        ensure!(there == all(), "{words:?} left {there:?}");
    }
    Ok(())
}

/// What is still there in the end does not hide what could not be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn all_failures_are_told() -> Result<()> {
    let stage = Stage::up().await?;
    for name in ["a", "b"] {
        stage.make(json!({ "name": name, "finalizers": ["example.com/held"] })).await?;
    }
    let words = ["delete", "configmap", "a", "missing", "b", "--timeout", "0"];
    let said = error_line(&finish(&mut stage.bowline(&words)?)?)?;
    for expected in ["configmap/a is still", "configmap/b is still", "configmap/missing: "] {
        ensure!(said.contains(expected), "no `{expected}`: {said}");
    }
    Ok(())
}

/// Runs it with a standard output whose reader is gone.
fn unread(bowline: &mut Command) -> Result<Output> {
    let (reader, writer) = io::pipe()?;
    drop(reader);
    written_to(bowline, writer.into())
}

/// Runs it with this standard output.
fn written_to(bowline: &mut Command, output: Stdio) -> Result<Output> {
    let child = bowline.stdout(output).stderr(Stdio::piped()).spawn()?;
    Ok(child.wait_with_output()?)
}

fn full() -> Result<Stdio> {
    Ok(File::options().write(true).open("/dev/full").context("no /dev/full")?.into())
}

/// Neither a reader that goes away nor a full disk stops a verb in the middle of its work; only
/// the disk is a failure.
#[tokio::test(flavor = "multi_thread")]
async fn work_is_finished_whoever_reads_what_was_done() -> Result<()> {
    let stage = Stage::up().await?;
    let mut apply = vec!["apply".to_owned()];
    for name in NAMES {
        let file = stage.manifest(&format!("{name}.json"), &json!({ "name": name }))?;
        apply.extend(["-f".to_owned(), file]);
    }
    let apply: Vec<&str> = apply.iter().map(String::as_str).collect();
    let delete = [&["delete", "configmap"][..], &NAMES].concat();
    for (words, left) in [(&apply, all()), (&delete, BTreeSet::new())] {
        let ended = unread(&mut stage.bowline(words)?)?;
        ensure!(ended.status.success() && ended.stderr.is_empty(), "{words:?}: {ended:?}");
        let there = stage.there().await?;
        ensure!(there == left, "{words:?} without a reader left {there:?}");
    }
    for (words, left) in [(&apply, all()), (&delete, BTreeSet::new())] {
        let said = error_line(&written_to(&mut stage.bowline(words)?, full()?)?)?;
        ensure!(said.contains("cannot write to standard output"), "{words:?}: {said}");
        let there = stage.there().await?;
        ensure!(there == left, "{words:?} to a full disk left {there:?}");
    }
    let mut get = stage.bowline(&["get", "namespaces"])?;
    ensure!(unread(&mut get)?.status.success(), "`get` fails without a reader");
    error_line(&written_to(&mut get, full()?)?).context("`get` to a full disk")?;
    Ok(())
}
