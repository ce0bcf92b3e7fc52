//! `down` removes everything that `up` made, whatever happened in between, and nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};
use bowline_tests::command::output;
use bowline_tests::machine::Machine;
use bowline_tests::{Cluster, Wishes};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn after_sigkill_of_everything() -> Result<()> {
    let before = Machine::look()?;
    let cluster = Cluster::up(&Wishes::default())?;
    let api = cluster.api().await?;
    cluster.apply("nifty.yaml")?;
    api.ready_pods("App=Nifty", 3, PATIENCE).await.map_err(|error| cluster.with_logs(error))?;
    let during = Machine::look()?;
    let made = before.difference(&during);
    ensure!(made.len() > 10, "the look sees too little: {made:?}");
    let foreign: Vec<_> = made.iter().filter(|thing| thing.starts_with("left: link")).collect();
    ensure!(foreign.is_empty(), "`up` made links in the host's namespace: {foreign:?}");

    cluster.kill_everything()?;
    cluster.down()?;
    nothing_left(&before)?;
    cluster.down()?;
    nothing_left(&before)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd; run by `cargo xtask test` as root"]
async fn an_orderly_end_and_a_neighbour_that_stays() -> Result<()> {
    let before = Machine::look()?;
    let wishes = Wishes { nodes: 1, registry: false, ..Wishes::default() };
    let stays = Cluster::up(&wishes)?;
    let with_one = Machine::look()?;
    let goes = Cluster::up(&wishes)?;
    drop(goes);
    nothing_left(&with_one)?;
    let nodes = output(&mut stays.bowline(&["get", "nodes"])?)?;
    ensure!(nodes.contains("Ready") && !nodes.contains("NotReady"), "the neighbour: {nodes}");
    drop(stays);
    nothing_left(&before)
}

fn nothing_left(before: &Machine) -> Result<()> {
    let left = before.difference(&Machine::look()?);
    ensure!(left.is_empty(), "not as before: {left:#?}");
    Ok(())
}
