//! Steps 6 and 7: an agent dies and nothing else does; a node vanishes and its pods move.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use super::{NIFTY, PATIENCE, Stage};
use crate::api::{Found, address, is_ready, name, node_of, wait};
use crate::cluster::Uplink;
use crate::load::{Load, requests};
use crate::node::Node;

/// How long an agent stays dead: shorter than the grace period of its node.
const DEAD: Duration = Duration::from_millis(2500);

impl Stage {
    pub(super) async fn agent_killed(&mut self) -> Result<()> {
        let client = self.client.clone().context("no client pod")?;
        let node = self.cluster.node(&node_of(&client))?.clone();
        let place = self.client_place()?;
        let open = Load::hold(&place, Self::vip()?, 20)?;
        let fresh = Load::start(&place, Self::vip()?, 2, 2000)?;
        tokio::time::sleep(Duration::from_millis(500)).await;

        let before = slots(&node)?;
        let old = node.agent_pid()?;
        node.kill_agent()?;
        tokio::time::sleep(DEAD).await;
        ensure!(slots(&node)? == before, "the pinned maps changed while the agent was dead");
        let start = Instant::now();
        node.start_agent()?;
        self.agrees(&node, 6).await?;
        let back = start.elapsed();
        let open = open.stop()?;
        open.expect_no_failure("on 20 open connections")?;
        // A pod goes in this part, and the connections to it with it: fresh ones only.
        self.follows(&node).await?;
        let fresh = fresh.stop()?;
        fresh.expect_no_failure("on fresh connections")?;
        self.saw(format!(
            "agent {old} of {} killed; {} slots stayed pinned for {:.1} s without it",
            node.name,
            before.unwrap_or_default(),
            DEAD.as_secs_f64()
        ));
        self.saw(format!("20 open connections: {} requests, none broken", open.ok));
        self.saw(format!("fresh connections: {} made, 0 failed", fresh.ok));
        self.saw(format!(
            "a new agent ({}) agreed with the pinned maps {:.2} s after its start, and followed a \
             change of the service",
            node.agent_pid()?,
            back.as_secs_f64()
        ));
        Ok(())
    }

    /// The node's agent lives, its node is Ready, and its map has `count` slots.
    async fn agrees(&self, node: &Node, count: u32) -> Result<()> {
        wait(&format!("{} with {count} slots and a living agent", node.name), PATIENCE, || async {
            let (slots, ready) = (slots(node)?, self.api.node_ready(&node.name).await?);
            let lives = node.agent_pid().is_ok();
            Ok(if slots == Some(count) && ready == "True" && lives {
                Found::Yes(())
            } else {
                Found::NotYet(format!("slots {slots:?}, Ready {ready}, alive {lives}"))
            })
        })
        .await
    }

    /// The set shrinks and grows, and the node's map with it.
    async fn follows(&self, node: &Node) -> Result<()> {
        for count in [5, 6] {
            self.api.scale::<ReplicationController>("nifty", count).await?;
            self.agrees(node, count).await?;
        }
        self.api.ready_pods(NIFTY, 6, PATIENCE).await?;
        Ok(())
    }

    pub(super) async fn node_cut_off(&mut self) -> Result<()> {
        let home = self.client.as_ref().map(node_of).unwrap_or_default();
        let pods = self.api.ready_pods(NIFTY, 6, PATIENCE).await?;
        let lost = pods
            .iter()
            .map(node_of)
            .find(|node| *node != home)
            .context("all pods are on the client's node")?;
        let gone: Vec<&Pod> = pods.iter().filter(|pod| node_of(pod) == lost).collect();
        let start = Instant::now();
        self.cluster.set_uplink(&lost, Uplink::Cut)?;
        let result = self.without(&lost, &gone, start).await;
        self.cluster.set_uplink(&lost, Uplink::Joined)?;
        result?;
        wait(&format!("{lost} to be Ready again"), PATIENCE, || async {
            let ready = self.api.node_ready(&lost).await?;
            Ok(if ready == "True" { Found::Yes(()) } else { Found::NotYet(ready) })
        })
        .await?;
        self.api.ready_pods(NIFTY, 6, PATIENCE).await?;
        self.saw(format!("joined again: {lost} is Ready, its old pods are gone"));
        // Two of X, the client, six of Nifty, three of the rolling update.
        self.no_rules(12).await
    }

    async fn without(&mut self, lost: &str, gone: &[&Pod], start: Instant) -> Result<()> {
        let status = wait(&format!("{lost} to be NotReady"), PATIENCE, || async {
            let ready = self.api.node_ready(lost).await?;
            Ok(if ready == "True" { Found::NotYet(ready) } else { Found::Yes(ready) })
        })
        .await?;
        self.saw(format!("{:.1} s after the cut {lost} is Ready={status}", since(start)));
        let addresses: Vec<String> =
            gone.iter().map(|pod| Ok(address(pod)?.to_string())).collect::<Result<_>>()?;
        wait("endpoints without the lost pods", PATIENCE, || async {
            let ready = self.api.ready_endpoints("nifty-svc").await?;
            let still = ready.iter().any(|address| addresses.contains(address));
            Ok(if still { Found::NotYet(format!("{ready:?}")) } else { Found::Yes(()) })
        })
        .await?;
        self.saw(format!("{:.1} s: its {} pods left the endpoints", since(start), gone.len()));
        let moved = wait("six Ready pods elsewhere", PATIENCE, || async {
            let pods = self.api.pods(NIFTY).await?;
            let elsewhere: Vec<String> =
                pods.iter().filter(|pod| is_ready(pod) && node_of(pod) != lost).map(name).collect();
            Ok(if elsewhere.len() == 6 {
                Found::Yes(elsewhere.len())
            } else {
                Found::NotYet(format!("{elsewhere:?}"))
            })
        })
        .await?;
        self.saw(format!("{:.1} s: {moved} pods are Ready elsewhere", since(start)));
        self.api.endpoints("nifty-svc", 6, PATIENCE).await?;
        let report = requests(&self.client_place()?, Self::vip()?, 500)?;
        report.expect_no_failure("after the replacements")?;
        self.saw(format!("{} requests after that, 0 failed", report.ok));
        Ok(())
    }
}

fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

/// Ready backends of the service in a node's own map.
fn slots(node: &Node) -> Result<Option<u32>> {
    Ok(node.maps().services()?.slot_count(Ipv4Addr::new(10, 9, 8, 7), 80))
}
