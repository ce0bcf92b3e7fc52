//! Pods from `apply` to Ready, away again, and from one version to the next.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use bowline_tests::api::{Api, is_ready};
use bowline_tests::command::output;
use bowline_tests::{PodWatch, registry};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::bare::Bare;
use super::{PATIENCE, Stage};
use bowline_figures::results::{Better, Figure, Relation};

/// How many pods are updated.
const UPDATED: u32 = 10;

/// What a round found, in the order of the figures: milliseconds, and for many pods seconds.
#[derive(Default)]
struct Found {
    bare: Vec<f64>,
    one: Vec<f64>,
    single: Vec<f64>,
    many: Vec<f64>,
    away: Vec<f64>,
    update: Vec<f64>,
}

/// The one container of every pod. It ends at once when it is told to.
fn container(version: &str) -> Value {
    json!({
        "name": "app",
        "image": format!("{}/workload:{version}", registry::ADDRESS),
        "args": ["serve", "--lameduck-ms", "0"],
    })
}

fn pod(name: &str, label: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "bench": label } },
        "spec": { "containers": [container("v1")] },
    })
}

fn deployment(label: &str, replicas: u32, version: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": label },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "bench": label } },
            "template": {
                "metadata": { "labels": { "bench": label } },
                "spec": { "containers": [container(version)] },
            },
        },
    })
}

fn version_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.containers.first()?.image.as_deref()?.rsplit(':').next()
}

impl Stage<'_> {
    /// `bowline apply` until so many pods with this label are Ready, in seconds.
    async fn apply(&self, api: &Api, object: &Value, label: &str, count: u32) -> Result<f64> {
        let file = tempfile::Builder::new().suffix(".json").tempfile()?;
        std::fs::write(&file, object.to_string())?;
        let mut watch = PodWatch::begin(api, &format!("bench={label}")).await?;
        let mut apply = self.cluster.bowline(&["apply", "-f"])?;
        apply.arg(file.path());
        let start = Instant::now();
        let applied = tokio::task::spawn_blocking(move || output(&mut apply));
        let what = format!("{count} Ready ones");
        let ready = watch.until(&what, PATIENCE, |pods| {
            pods.values().filter(|pod| is_ready(pod)).count() == count as usize
        });
        let (applied, ready) = tokio::join!(applied, ready);
        applied??;
        Ok((ready? - start).as_secs_f64())
    }

    /// A deployment of so many pods, all Ready; its name, which is its label.
    pub(super) async fn many(&self, api: &Api, count: u32) -> Result<String> {
        let label = format!("kept-{count}");
        self.apply(api, &deployment(&label, count, "v1"), &label, count).await?;
        Ok(label)
    }

    /// Removes a deployment and waits for the end of its pods.
    pub(super) async fn remove(&self, api: &Api, label: &str) -> Result<()> {
        api.of::<Deployment>().delete(label, &DeleteParams::background()).await?;
        api.no_pods(&format!("bench={label}"), PATIENCE).await
    }

    /// Every node fetches and unpacks the images.
    pub(super) async fn fetch_images(&self, api: &Api) -> Result<()> {
        self.screen.begin("fetching the image everywhere");
        for version in ["v1", "v2"] {
            let label = format!("fetch-{version}");
            // More than one on each node.
            self.apply(api, &deployment(&label, 9, version), &label, 9).await?;
            self.remove(api, &label).await?;
        }
        Ok(())
    }

    /// Rounds of everything.
    pub(super) async fn pods(&self, api: &Api) -> Result<Vec<Figure>> {
        let mut bare = tokio::task::block_in_place(|| Bare::new(self.cluster))?;
        let mut found = Found::default();
        for round in 1..=self.options.rounds {
            let of = format!("round {round} of {}", self.options.rounds);
            self.screen.begin(format!("one pod, {of}"));
            self.one_by_one(api, round, &mut bare, &mut found).await?;
            self.screen.begin(format!("{} pods at once, {of}", self.options.pods));
            self.all_at_once(api, round, &mut found).await?;
            self.screen.begin(format!("a rolling update, {of}"));
            found.update.push(self.rolling_update(api, round).await?);
        }
        Ok(self.figures(&found))
    }

    /// The container alone and one pod, and then pods one after the other.
    async fn one_by_one(
        &self,
        api: &Api,
        round: u32,
        bare: &mut Bare,
        found: &mut Found,
    ) -> Result<()> {
        found.bare.push(tokio::task::block_in_place(|| bare.start())?);
        let mut took = Vec::new();
        for number in 0..=self.options.single {
            let name = format!("single-{round}-{number}");
            took.push(self.apply(api, &pod(&name, &name), &name, 1).await?);
        }
        let row = took.split_off(1);
        found.one.extend(took.into_iter().map(|seconds| seconds * 1e3));
        found.single.push(row.iter().sum());
        let all = ListParams::default().labels("bench");
        api.of::<Pod>().delete_collection(&DeleteParams::default(), &all).await?;
        api.no_pods("bench", PATIENCE).await
    }

    async fn all_at_once(&self, api: &Api, round: u32, found: &mut Found) -> Result<()> {
        let (count, label) = (self.options.pods, format!("many-{round}"));
        let took = self.apply(api, &deployment(&label, count, "v1"), &label, count).await?;
        found.many.push(took);
        let mut watch = PodWatch::begin(api, &format!("bench={label}")).await?;
        watch.until("all of them", PATIENCE, |pods| pods.len() == count as usize).await?;
        let start = Instant::now();
        api.scale::<Deployment>(&label, 0).await?;
        let gone = watch.until("the end", PATIENCE, BTreeMap::is_empty).await?;
        found.away.push((gone - start).as_secs_f64());
        self.remove(api, &label).await
    }

    async fn rolling_update(&self, api: &Api, round: u32) -> Result<f64> {
        let label = format!("update-{round}");
        self.apply(api, &deployment(&label, UPDATED, "v1"), &label, UPDATED).await?;
        let mut watch = PodWatch::begin(api, &format!("bench={label}")).await?;
        let patch = json!({ "spec": { "template": { "spec": {
            "containers": [container("v2")],
        } } } });
        let start = Instant::now();
        let params = PatchParams::default();
        let patched = api.of::<Deployment>().patch(&label, &params, &Patch::Strategic(patch)).await;
        patched.context("cannot patch the deployment")?;
        let what = format!("{UPDATED} Ready ones of v2 and none of v1");
        let updated = watch.until(&what, PATIENCE, |pods| {
            let new = |pod: &&Pod| version_of(pod) == Some("v2") && is_ready(pod);
            pods.len() == UPDATED as usize && pods.values().filter(new).count() == pods.len()
        });
        let took = (updated.await? - start).as_secs_f64();
        self.remove(api, &label).await?;
        Ok(took)
    }

    fn figures(&self, found: &Found) -> Vec<Figure> {
        let super::Options { single, pods, .. } = self.options;
        let of = |name: &str, unit: &str, samples: &[f64]| {
            Figure::new(name, unit, Better::Less, samples.to_vec())
        };
        let ratio = |name: &str, unit: &str, ours: &[f64], other: &str, theirs: Vec<f64>| {
            let samples = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
            let figure = Figure::new(format!("{name}, to {other}"), "ratio", Better::Less, samples);
            figure.beside(other, Relation::Ratio).from(unit, ours)
        };
        let (one, row) = (
            "`apply` to Ready, 1 pod",
            format!("`apply` to Ready, {single} pods one after another"),
        );
        let many = format!("`apply` to Ready, {pods} pods at once");
        let times = |count: u32| found.one.iter().map(|one| one / 1e3 * f64::from(count)).collect();
        vec![
            of(one, "ms", &found.one),
            Figure::new("the same container by ctr", "ms", None, found.bare.clone()),
            ratio(one, "ms", &found.one, "the same container by ctr", found.bare.clone()),
            of(&row, "s", &found.single),
            ratio(&row, "s", &found.single, &format!("{single} times 1 pod"), times(*single)),
            of(&many, "s", &found.many),
            ratio(&many, "s", &found.many, &format!("{pods} times 1 pod"), times(*pods)),
            of(&format!("scale-down from {pods} pods to none"), "s", &found.away),
            of(&format!("rolling update of {UPDATED} pods"), "s", &found.update),
        ]
    }
}
