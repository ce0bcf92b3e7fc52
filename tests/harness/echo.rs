//! A cluster with echo servers, their service and a client: the stage of the scenarios in which
//! something is broken.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;

use crate::cluster::{Cluster, Wishes};
use crate::node::Node;
use crate::place::Place;

const PATIENCE: Duration = Duration::from_secs(90);

/// The cluster and what runs in it.
pub struct EchoStage {
    pub cluster: Cluster,
    pub client: Pod,
    pub servers: Vec<Pod>,
}

impl EchoStage {
    /// Make it, and wait until maps and API agree.
    pub async fn up(wishes: &Wishes) -> Result<Self> {
        let cluster = Cluster::up(wishes)?;
        let ready = async {
            let api = cluster.api().await?;
            cluster.apply("echo.yaml")?;
            cluster.apply("client.yaml")?;
            let servers = api.ready_pods("app=echo", 2, PATIENCE).await?;
            api.endpoints("echo", 2, PATIENCE).await?;
            let clients = api.ready_pods("app=client", 1, PATIENCE).await?;
            cluster.agrees(PATIENCE).await?;
            Ok((servers, clients.into_iter().next().context("no client")?))
        };
        let ready: Result<_> = ready.await;
        let (servers, client) = ready.map_err(|error| cluster.with_logs(error))?;
        Ok(Self { cluster, client, servers })
    }

    /// The service, HTTP.
    pub fn service() -> SocketAddr {
        SocketAddr::from(([10, 9, 8, 9], 80))
    }

    /// The node that the client runs on.
    pub fn node(&self) -> Result<&Node> {
        self.cluster.node(&crate::api::node_of(&self.client))
    }

    /// Inside the client.
    pub fn place(&self) -> Result<Place> {
        self.cluster.pod_place(&self.client)
    }
}
