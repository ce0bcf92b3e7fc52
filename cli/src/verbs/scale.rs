//! `bowline scale`: sets how many replicas something has.

use anyhow::bail;
use serde_json::json;

use super::client::{Body, Server};
use super::discovery::Catalog;
use super::{Scope, resolve, targets};
use crate::output;

/// Set the number of replicas.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline scale deploy/web --replicas 6
  bowline scale rc web --replicas 0")]
pub(crate) struct Args {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true)]
    what: Vec<String>,
    /// How many
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..), allow_negative_numbers = true)]
    replicas: i32,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let connection = args.server.connect().await?;
    let catalog = Catalog::read(&connection).await?;
    let namespace = args.scope.namespace(&connection);
    let targets = targets(&args.what)?;
    let patch = json!({"spec": {"replicas": args.replicas}});
    let mut said = Ok(());
    for (resource, names) in resolve(&catalog, &targets)? {
        if !resource.has_scale {
            bail!("{} have no scale", resource.plural);
        }
        if names.is_empty() {
            bail!("say which of the {}: give a name", resource.plural);
        }
        for name in names {
            let path = format!("{}/scale", resource.object(namespace, name)?);
            let body = Body { kind: "application/merge-patch+json", value: &patch };
            connection.write("PATCH", &path, Some(body)).await?;
            said = said.and(output::line(&format!("{} scaled", resource.label(name))));
        }
    }
    Ok(said?)
}
