//! Steps 4 and 5: the backend set changes under load, and no request notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::{NIFTY, PATIENCE, Stage};
use crate::api::{name, node_of};
use crate::load::{Load, LoadReport};

/// How long a changed set is used before the next change.
const BETWEEN: Duration = Duration::from_millis(1500);
const WORKERS: u32 = 2;
const EVERY_US: u32 = 2000;

impl Stage {
    pub(super) async fn scale_under_load(&mut self) -> Result<()> {
        let node = self.cluster.nodes[1].clone();
        let from_pod = Load::start(&self.client_place()?, Self::vip()?, WORKERS, EVERY_US)?;
        let from_node = Load::start(&node.place()?, Self::vip()?, WORKERS, EVERY_US)?;

        self.api.scale::<ReplicationController>("nifty", 6).await?;
        let six = self.api.ready_pods(NIFTY, 6, PATIENCE).await?;
        tokio::time::sleep(BETWEEN).await;
        let victim = six.first().context("no pod to delete")?;
        self.api.of::<Pod>().delete(&name(victim), &DeleteParams::default()).await?;
        let after = self.replaced(victim).await?;
        tokio::time::sleep(BETWEEN).await;

        for (from, load) in [("from a pod", from_pod), (node.name.as_str(), from_node)] {
            let report = load.stop()?;
            self.check(from, &report, 7)?;
        }
        self.saw(format!("{} was deleted under load and replaced", name(victim)));
        self.saw(format!("now: {}", after.iter().map(node_of).collect::<Vec<_>>().join(" ")));
        Ok(())
    }

    async fn replaced(&self, victim: &Pod) -> Result<Vec<Pod>> {
        // Until it is gone it still counts: first its end, then the full set.
        let gone = name(victim);
        crate::api::wait(&format!("the end of {gone}"), PATIENCE, || async {
            let found = self.api.of::<Pod>().get_opt(&gone).await?;
            Ok(match found {
                None => crate::api::Found::Yes(()),
                Some(_) => crate::api::Found::NotYet("still there".to_owned()),
            })
        })
        .await?;
        self.api.ready_pods(NIFTY, 6, PATIENCE).await
    }

    fn check(&mut self, from: &str, report: &LoadReport, pods: usize) -> Result<()> {
        report.expect_no_failure(from)?;
        let answered = report.seen("pod").len();
        ensure!(answered == pods, "{from}: {answered} pods answered, {pods} were ready in turn");
        self.saw(format!(
            "{from}: {} requests over fresh connections in {:.1} s, 0 failed, {answered} pods",
            report.ok, report.seconds
        ));
        Ok(())
    }

    pub(super) async fn rolling_update(&mut self) -> Result<()> {
        self.cluster.apply("web.yaml")?;
        self.api.ready_pods("app=web", 3, PATIENCE).await?;
        self.api.endpoints("web", 3, PATIENCE).await?;
        let load = Load::start(&self.client_place()?, "10.9.8.8:80".parse()?, WORKERS, EVERY_US)?;
        tokio::time::sleep(BETWEEN).await;

        let image = format!("{}/workload:v2", crate::registry::ADDRESS);
        let patch = json!({ "spec": { "template": { "spec": {
            "containers": [{ "name": "web", "image": image }],
        } } } });
        self.api
            .of::<Deployment>()
            .patch("web", &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        self.updated(&image).await?;
        tokio::time::sleep(BETWEEN).await;

        let report = load.stop()?;
        report.expect_no_failure("during the update")?;
        let versions = report.seen("version");
        ensure!(versions.len() == 2, "answers came from versions {versions:?}");
        self.saw(format!(
            "{} requests during the update, 0 failed; answers by version: {versions:?}",
            report.ok
        ));
        Ok(())
    }

    async fn updated(&self, image: &str) -> Result<()> {
        crate::api::wait("three Ready pods of v2 and none of v1", PATIENCE, || async {
            let pods = self.api.pods("app=web").await?;
            let new = |pod: &Pod| {
                pod.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some(image))
            };
            let ready = pods.iter().filter(|pod| new(pod) && crate::api::is_ready(pod)).count();
            Ok(if ready == 3 && pods.len() == 3 {
                crate::api::Found::Yes(())
            } else {
                crate::api::Found::NotYet(format!("{ready} new and Ready of {}", pods.len()))
            })
        })
        .await
    }
}
