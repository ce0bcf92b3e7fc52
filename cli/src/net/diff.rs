//! `bowline net diff`: what differs between the API and a node's data plane.
//!
//! Guarantees: computed here, from the API and the node's pinned maps; the agent is not asked, so
//! that its mistakes show too, and it may be dead. What is only under way does not show: a
//! difference counts when a second look, a moment later, finds it as well.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bowline_agent::datapath::{ApiObjects, Difference, differences};
use bowline_agent::{CONDITION_FILE, NAMES_FILE};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;

use crate::output::{self, Format, Table};
use crate::verbs::client::{Connection, connect_file};

/// How long a change may be under way.
const SETTLE: Duration = Duration::from_millis(300);

/// Objects are fetched in pieces of this many.
const PAGE: u32 = 500;

/// What to compare.
pub(super) struct Sides {
    pub(super) kubeconfig: PathBuf,
    pub(super) node: String,
    pub(super) bpffs: PathBuf,
    /// The agent's own files.
    pub(super) run_dir: PathBuf,
}

/// Prints the differences; says whether there are none.
pub(super) async fn run(sides: &Sides, format: Format) -> anyhow::Result<bool> {
    let connection = connect_file(&sides.kubeconfig).await?;
    let mut found = look(&connection, sides).await?;
    if !found.is_empty() {
        tokio::time::sleep(SETTLE).await;
        let again: BTreeSet<Difference> = look(&connection, sides).await?.into_iter().collect();
        found.retain(|difference| again.contains(difference));
    }
    let printed = match format {
        Format::Table | Format::Wide if found.is_empty() => Ok(()),
        Format::Table | Format::Wide => table(&found).print().map_err(Into::into),
        Format::Json | Format::Yaml => output::document(&found, format),
    };
    output::unless_unread(printed)?;
    Ok(found.is_empty())
}

async fn look(connection: &Connection, sides: &Sides) -> anyhow::Result<Vec<Difference>> {
    let on_node = format!("spec.nodeName={}", sides.node);
    let objects = ApiObjects {
        services: list::<Service>(connection, None).await?,
        slices: list::<EndpointSlice>(connection, None).await?,
        nodes: list::<Node>(connection, None).await?,
        pods: list::<Pod>(connection, Some(&on_node)).await?,
    };
    let [names, condition] = [NAMES_FILE, CONDITION_FILE].map(|name| sides.run_dir.join(name));
    Ok(differences(&objects, &sides.node, &sides.bpffs, &names, &condition)?)
}

async fn list<K>(connection: &Connection, fields: Option<&str>) -> anyhow::Result<Vec<K>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api = Api::<K>::all(connection.client.clone());
    let mut params = ListParams::default().limit(PAGE);
    params.field_selector = fields.map(str::to_owned);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await.map_err(|error| connection.explain(error))?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

fn table(rows: &[Difference]) -> Table {
    let mut table = Table::new(["kind", "object", "difference", "api", "node"]);
    for row in rows {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
        let difference = row.difference.to_owned();
        let (api, node) = (side(&row.api), side(&row.node));
        table.row([row.kind.to_owned(), row.object.clone(), difference, api, node]);
    }
    table
}
