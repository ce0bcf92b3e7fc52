//! Memory and processor time of the server and of the agents.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_tests::Node;
use bowline_tests::api::Api;

use super::{PATIENCE, Stage};
use crate::fleet::Fleet;
use crate::rules::Services as _;
use bowline_figures::results::{Better, Figure};

/// After this long what was made last is dealt with.
const SETTLE: Duration = Duration::from_secs(3);
const ENDPOINTS: u32 = 10;

/// What may be taken of memory, in megabytes, as far as there are goals.
#[derive(Clone, Copy, Default)]
pub(super) struct Goals {
    pub(super) server: Option<f64>,
    pub(super) agent: Option<f64>,
}

impl Goals {
    pub(super) const IDLE: Self = Self { server: Some(80.0), agent: Some(40.0) };
}

impl Stage<'_> {
    /// What is used while nothing changes: a sample a window, as many as there are rounds.
    pub(super) async fn usage(&self, when: &str, goals: Goals) -> Result<Vec<Figure>> {
        self.screen.begin(format!("memory and processor time, {when}"));
        tokio::time::sleep(SETTLE).await;
        let (mut server, mut agent) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..self.options.rounds {
            let busy = || -> Result<(Duration, Vec<Duration>)> {
                let agents = self.cluster.nodes.iter().map(Node::agent_busy);
                Ok((self.cluster.server_busy()?, agents.collect::<Result<_>>()?))
            };
            let (start, before) = (Instant::now(), busy()?);
            tokio::time::sleep(Duration::from_millis(self.options.window)).await;
            let (took, after) = (start.elapsed(), busy()?);
            let part = |before: Duration, after: Duration| {
                (after - before).as_secs_f64() / took.as_secs_f64() * 100.0
            };
            server[0].push(self.cluster.server_memory()?.resident as f64 / 1e6);
            server[1].push(part(before.0, after.0));
            let agents: Vec<_> =
                self.cluster.nodes.iter().map(Node::agent_memory).collect::<Result<_>>()?;
            let largest = agents.into_iter().max().context("no nodes")?;
            agent[0].push(largest.resident as f64 / 1e6);
            let parts = before.1.into_iter().zip(after.1);
            agent[1].push(parts.map(|(before, after)| part(before, after)).fold(0.0, f64::max));
        }
        let mut figures = Vec::new();
        for (who, goal, [memory, cpu]) in
            [("server", goals.server, server), ("largest agent", goals.agent, agent)]
        {
            let figure = |what: &str, unit: &str, samples: Vec<f64>| {
                Figure::new(format!("{who}, {when}: {what}"), unit, Better::Less, samples)
            };
            figures.push(figure("memory", "MB", memory).goal(goal));
            figures.push(figure("processor time", "% CPU", cpu));
        }
        Ok(figures)
    }

    /// Makes the services and waits until all nodes have them.
    pub(super) async fn services(&self, api: &Api) -> Result<()> {
        let count = self.options.services;
        self.screen.begin(format!("making {count} services"));
        let mut fleet = Fleet::new(ENDPOINTS, 0);
        fleet.grow(api, count).await.context("making services")?;
        let (start, last) = (Instant::now(), fleet.address(count - 1));
        for node in &self.cluster.nodes {
            let maps = node.maps().services()?;
            let wanted = Some(fleet.endpoints_of(count - 1));
            while maps.slot_count(last, Fleet::PORT) != wanted {
                ensure!(start.elapsed() < PATIENCE, "{} lacks the last service", node.name);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}
