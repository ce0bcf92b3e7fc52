//! Steps 2 and 3: a service by its address and by its name, and who answers what to whom.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde::Deserialize;

use super::{NIFTY, PATIENCE, Stage};
use crate::api::{Found, address, is_ready, name, node_of, uid, wait};
use crate::load::{LoadReport, requests, run};
use crate::place::Place;
use crate::rules;

const REQUESTS: u32 = 3000;

/// What the workload's resolver reports.
#[derive(Deserialize)]
struct Resolved {
    found: Option<String>,
    server: String,
    addresses: BTreeSet<String>,
}

impl Stage {
    pub(super) async fn nifty(&mut self) -> Result<()> {
        self.cluster.apply("nifty.yaml")?;
        self.cluster.apply("client.yaml")?;
        let pods = self.api.ready_pods(NIFTY, 3, PATIENCE).await?;
        let nodes: BTreeSet<String> = pods.iter().map(node_of).collect();
        ensure!(nodes.len() == 3, "the three pods are on {nodes:?} only");
        for pod in &pods {
            self.saw(format!("{} has {} on {}", name(pod), address(pod)?, node_of(pod)));
        }
        self.api.endpoints("nifty-svc", 3, PATIENCE).await?;
        self.client = self.api.ready_pods("app=client", 1, PATIENCE).await?.into_iter().next();
        let own: BTreeSet<String> =
            pods.iter().map(|pod| Ok(address(pod)?.to_string())).collect::<Result<_>>()?;
        self.names(&own)
    }

    fn names(&mut self, pods: &BTreeSet<String>) -> Result<()> {
        let place = self.client_place()?;
        let vip = BTreeSet::from(["10.9.8.7".to_owned()]);
        for (asked, expected) in [
            ("nifty-svc", &vip),
            ("nifty-svc.default.svc.cluster.local", &vip),
            ("nifty-headless", pods),
        ] {
            let answer: Resolved = run(&place, &["resolve", asked])?;
            ensure!(
                answer.addresses == *expected,
                "{asked} is {:?}, not {expected:?}",
                answer.addresses
            );
            let found = answer.found.context("an answer without a name")?;
            let addresses = answer.addresses.into_iter().collect::<Vec<_>>().join(" ");
            self.saw(format!("{asked} -> {found} -> {addresses} (asked {})", answer.server));
        }
        Ok(())
    }

    pub(super) async fn three_thousand(&mut self) -> Result<()> {
        let pods = self.api.ready_pods(NIFTY, 3, PATIENCE).await?;
        let client = self.client.clone().context("no client pod")?;
        let from_pod = requests(&self.client_place()?, Self::vip()?, REQUESTS)?;
        self.check_spread("from a pod", &from_pod, &pods)?;
        let own = address(&client)?.to_string();
        let seen = from_pod.values("client");
        ensure!(seen == [own.clone()], "backends saw {seen:?}, the client's address is {own}");
        self.saw(format!("every backend saw the pod's own address, {own}: no NAT on the way"));
        ensure!(
            from_pod.values("peer") == [super::VIP],
            "getpeername: {:?}",
            from_pod.seen("peer")
        );
        self.saw(format!("the client's sockets say that they talk to {}", super::VIP));

        let node = self.cluster.nodes[0].clone();
        let from_node = requests(&node.place()?, Self::vip()?, REQUESTS)?;
        self.check_spread(&format!("from {}", node.name), &from_node, &pods)?;
        let own = self.api.node_addresses(&node.name).await?;
        let seen = from_node.values("client");
        ensure!(seen == own, "backends saw {seen:?}, the addresses of {} are {own:?}", node.name);
        self.saw(format!("backends saw {}, the node's own address", seen.join(", ")));
        // Two of X, the client, three of Nifty.
        self.no_rules(6).await
    }

    fn check_spread(&mut self, from: &str, report: &LoadReport, pods: &[Pod]) -> Result<()> {
        report.expect_no_failure(from)?;
        ensure!(report.ok == u64::from(REQUESTS), "{from}: {} answers", report.ok);
        let spread: BTreeMap<String, u64> = report.seen("pod");
        let expected: BTreeSet<String> = pods.iter().map(name).collect();
        ensure!(
            spread.keys().cloned().collect::<BTreeSet<_>>() == expected,
            "{from}: answers came from {spread:?}"
        );
        let fair = u64::from(REQUESTS) / spread.len() as u64;
        // Seven standard deviations of a fair choice.
        ensure!(
            spread.values().all(|&count| count.abs_diff(fair) < fair / 5),
            "{from}: the spread is not even: {spread:?}"
        );
        let counts: Vec<String> = spread.values().map(ToString::to_string).collect();
        self.saw(format!(
            "{from}: {} of {REQUESTS} answered, none lost, spread {}; median {} us, p99 {} us",
            report.ok,
            counts.join(" / "),
            report.latency_us.p50,
            report.latency_us.p99
        ));
        Ok(())
    }

    /// Looks into every namespace there is, those of all pods included: there are `count`.
    pub(super) async fn no_rules(&mut self, count: usize) -> Result<()> {
        let what = format!("{count} Ready pods in all");
        let pods = wait(&what, PATIENCE, || async {
            let all = kube::Api::<Pod>::all(self.api.client()).list(&ListParams::default()).await?;
            let ready: Vec<Pod> = all.items.into_iter().filter(is_ready).collect();
            Ok(if ready.len() == count {
                Found::Yes(ready)
            } else {
                Found::NotYet(format!("{:?}", ready.iter().map(name).collect::<Vec<_>>()))
            })
        })
        .await?;
        let places: Vec<(String, Place)> = pods
            .iter()
            .map(|pod| {
                let node = self.cluster.node(&node_of(pod))?;
                Ok((format!("pod {}", name(pod)), node.pod_network(&uid(pod))?))
            })
            .collect::<Result<_>>()?;
        let found = rules::in_cluster(&self.cluster, &places)?;
        for namespace in &found {
            ensure!(
                namespace.rules.is_empty() && namespace.translated.unwrap_or(0) == 0,
                "{namespace:?} holds rules or translations"
            );
        }
        let names: Vec<&str> = found.iter().map(|rules| rules.namespace.as_str()).collect();
        let names = names.join(", ");
        self.saw(format!("nft and iptables (both kinds): 0 rules in {names}"));
        self.saw(if found.iter().all(|rules| rules.translated.is_some()) {
            "conntrack: 0 translations in any of them".to_owned()
        } else {
            "conntrack: NOT LOOKED AT, this kernel does not show what it tracks".to_owned()
        });
        Ok(())
    }
}
