//! Step 1: a workload with a size is placed where it fits, and one that fits nowhere says why.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;

use super::{PATIENCE, Stage};
use crate::api::{Found, name, node_of, wait};

impl Stage {
    pub(super) async fn run_x(&mut self) -> Result<()> {
        let said = self.cluster.apply("run-x.yaml")?;
        let deployment = self.api.of::<Deployment>().get("x").await?;
        let uid = deployment.metadata.uid.context("the deployment has no UID")?;
        self.saw(format!("{} (UID {uid})", said.trim()));

        let pods = self.api.ready_pods("app=x", 2, PATIENCE).await?;
        let nodes: BTreeSet<String> = pods.iter().map(node_of).collect();
        ensure!(nodes.len() == 2, "two pods of 2.5 CPUs share a node of 4: {nodes:?}");
        for pod in &pods {
            let image = image_id(pod).context("a running pod names no image")?;
            self.saw(format!("{} runs on {} from {image}", name(pod), node_of(pod)));
        }
        self.too_big().await
    }

    async fn too_big(&mut self) -> Result<()> {
        self.cluster.apply("run-x-too-big.yaml")?;
        let message = wait("an event that says why x-too-big waits", PATIENCE, || async {
            let messages = self.api.events_about("x-too-big", "FailedScheduling").await?;
            Ok(match messages.into_iter().next() {
                Some(message) => Found::Yes(message),
                None => Found::NotYet("no event".to_owned()),
            })
        })
        .await?;
        let nodes = self.cluster.nodes.iter().map(|node| node.name.as_str());
        for word in nodes.chain(["memory"]) {
            ensure!(message.contains(word), "the event does not name {word}: {message}");
        }
        let pod = self.api.of::<Pod>().get("x-too-big").await?;
        let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
        ensure!(phase == "Pending", "x-too-big is {phase}");
        self.saw(format!("x-too-big (400Gi) stays {phase}: {message}"));
        Ok(())
    }
}

fn image_id(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.first().map(|status| status.image_id.clone())
}
