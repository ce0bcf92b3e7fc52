//! A controller of somebody else, written with kube's runtime: for each secret with a label it
//! keeps a config map with the names of the secret's keys. It uses what such programs use:
//! streaming lists, owner references, a finalizer and server-side apply. It needs no root.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bowline_tests::Server;
use bowline_tests::api::{Found, wait};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{self, Event, finalizer};
use kube::runtime::{Controller, watcher};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(40);
const FINALIZER: &str = "example.com/summary";
const MANAGER: &str = "example.com/summarizer";

type Failed = finalizer::Error<kube::Error>;

fn secrets(client: &kube::Client) -> Api<Secret> {
    Api::namespaced(client.clone(), "default")
}

fn maps(client: &kube::Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

/// The operator's whole life.
async fn operate(client: kube::Client) {
    let chosen = watcher::Config::default().labels("summary=yes").streaming_lists();
    Controller::new(secrets(&client), chosen)
        .owns(maps(&client), watcher::Config::default().streaming_lists())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), Arc::new(client))
        .for_each(|done| async move { println!("reconciled: {done:?}") })
        .await;
}

async fn reconcile(secret: Arc<Secret>, client: Arc<kube::Client>) -> Result<Action, Failed> {
    let act = async |event| match event {
        Event::Apply(secret) => summarize(&client, &secret).await,
        Event::Cleanup(secret) => forget(&client, &secret).await,
    };
    finalizer(&secrets(&client), FINALIZER, secret, act).await
}

async fn summarize(client: &kube::Client, secret: &Secret) -> Result<Action, kube::Error> {
    let keys: BTreeMap<&String, &str> =
        secret.data.iter().flat_map(|data| data.keys()).map(|key| (key, "here")).collect();
    let summary = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": secret.name_any(),
            "ownerReferences": secret.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "data": keys,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    maps(client).patch(&secret.name_any(), &parameters, &Patch::Apply(summary)).await?;
    Ok(Action::await_change())
}

async fn forget(client: &kube::Client, secret: &Secret) -> Result<Action, kube::Error> {
    match maps(client).delete(&secret.name_any(), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Action::await_change()),
        other => other.map(|_| Action::await_change()),
    }
}

/// Waits until the summary of a name has these keys; None: until neither it nor the secret is.
async fn summary_is(client: &kube::Client, name: &str, keys: Option<&[&str]>) -> Result<()> {
    wait(&format!("the summary {name} of {keys:?}"), PATIENCE, async || {
        let map = maps(client).get_opt(name).await?;
        let secret = secrets(client).get_opt(name).await?;
        let found = map.map(|map| map.data.unwrap_or_default().into_keys().collect::<Vec<_>>());
        let as_wanted = match keys {
            Some(keys) => found.as_ref().is_some_and(|found| found == keys),
            None => found.is_none() && secret.is_none(),
        };
        Ok(if as_wanted { Found::Yes(()) } else { Found::NotYet(format!("{found:?}")) })
    })
    .await
}

async fn make(client: &kube::Client, name: &str, key: &str) -> Result<()> {
    let secret = json!({
        "metadata": { "name": name, "labels": { "summary": "yes" } },
        "stringData": { key: "hidden" },
    });
    secrets(client).create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn converges_and_does_so_again_after_the_server_restarts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(directory.path())?;
    let client = server.client().await?;
    let operator = tokio::spawn(operate(client.clone()));
    make(&client, "one", "a").await?;
    make(&client, "two", "b").await?;
    summary_is(&client, "one", Some(&["a"])).await?;
    summary_is(&client, "two", Some(&["b"])).await?;
    let merge = PatchParams::default();
    let more = Patch::Merge(json!({ "stringData": { "c": "hidden" } }));
    secrets(&client).patch("one", &merge, &more).await?;
    summary_is(&client, "one", Some(&["a", "c"])).await?;
    // What somebody takes away is put back.
    maps(&client).patch("one", &merge, &Patch::Merge(json!({ "data": { "a": null } }))).await?;
    summary_is(&client, "one", Some(&["a", "c"])).await?;

    server.restart()?;
    server.client().await?;
    ensure!(!operator.is_finished(), "the operator ended");
    make(&client, "three", "d").await?;
    summary_is(&client, "three", Some(&["d"])).await?;
    secrets(&client).patch("two", &merge, &more).await?;
    summary_is(&client, "two", Some(&["b", "c"])).await?;
    let owner =
        maps(&client).get("two").await?.owner_references().first().map(|it| it.name.clone());
    ensure!(owner.as_deref() == Some("two"), "owned by {owner:?}");
    for name in ["one", "two", "three"] {
        secrets(&client).delete(name, &DeleteParams::default()).await?;
        summary_is(&client, name, None).await?;
    }
    operator.abort();
    Ok(())
}
