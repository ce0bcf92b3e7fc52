//! `bowline apply`: makes objects be what manifests say.
//!
//! Guarantees: the annotation with the last applied manifest is the one that kubectl uses, so both
//! can be used on the same object. A change is sent with the version that it was computed from; a
//! conflict is computed again, a bounded number of times. All objects are applied, whether or not
//! the others were and whether or not somebody reads that.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::client::{Body, Connection, Server, query};
use super::discovery::{Catalog, Resource, name_of};
use super::manifest::{self, Document};
use super::{Scope, merge};
use crate::output;

/// Where the last applied manifest is kept.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const MAX_CONFLICTS: usize = 5;

/// Make objects be what manifests say.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline apply -f web.yaml
  bowline apply -f manifests/ -n shop
  cat web.yaml | bowline apply -f -")]
pub(crate) struct Args {
    /// Manifest, directory of manifests, or `-` for standard input; may be repeated
    #[arg(long, short = 'f', required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let documents = manifest::read(&args.filename)?;
    let connection = args.server.connect().await?;
    let catalog = Catalog::read(&connection).await?;
    let (mut failed, mut said) = (Vec::new(), Ok(()));
    for document in documents {
        let source = document.source.clone();
        match apply(args, &connection, &catalog, document).await {
            Ok(line) => said = said.and(output::line(&line)),
            Err(error) => failed.push(format!("{source}: {error:#}")),
        }
    }
    if failed.is_empty() { Ok(said?) } else { bail!("{}", failed.join("; ")) }
}

/// Where a document's object is.
pub(super) struct Address<'a> {
    pub(super) resource: &'a Resource,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl<'a> Address<'a> {
    pub(super) fn of(
        document: &Document,
        catalog: &'a Catalog,
        scope: &Scope,
        default: &str,
    ) -> anyhow::Result<Self> {
        let resource = catalog.find_kind(&document.api_version, &document.kind)?;
        let name = name_of(&document.object);
        if name.is_empty() {
            bail!("a {} without metadata.name: which one is not said", document.kind);
        }
        let own = document.object["metadata"]["namespace"].as_str().filter(|it| !it.is_empty());
        if let (Some(own), Some(asked)) = (own, scope.namespace.as_deref())
            && own != asked
            && resource.namespaced
        {
            bail!("the manifest says namespace `{own}`, the command line `{asked}`");
        }
        let namespace = own.or(scope.namespace.as_deref()).unwrap_or(default).to_owned();
        Ok(Self { resource, namespace, name: name.to_owned() })
    }
}

async fn apply(
    args: &Args,
    connection: &Connection,
    catalog: &Catalog,
    document: Document,
) -> anyhow::Result<String> {
    let address = Address::of(&document, catalog, &args.scope, &connection.namespace)?;
    let mut wanted = document.object;
    if address.resource.namespaced {
        wanted["metadata"]["namespace"] = json!(address.namespace);
    }
    annotate(&mut wanted);
    let label = address.resource.label(&address.name);
    let path = address.resource.object(&address.namespace, &address.name)?;
    let strict = query(&[("fieldValidation", "Strict".to_owned())]);
    for _ in 0..MAX_CONFLICTS {
        let Some(live) = connection.get_if_there(&path).await? else {
            let collection = address.resource.collection(Some(&address.namespace));
            let body = Body { kind: JSON, value: &wanted };
            match connection.write("POST", &format!("{collection}{strict}"), Some(body)).await {
                Ok(_) => return Ok(format!("{label} created")),
                Err(failed) if failed.code == 409 => continue,
                Err(failed) => return Err(failed.error),
            }
        };
        let Some(patch) = patch(&wanted, &live)? else { return Ok(format!("{label} unchanged")) };
        let body = Body { kind: MERGE_PATCH, value: &patch };
        match connection.write("PATCH", &format!("{path}{strict}"), Some(body)).await {
            Ok(_) => return Ok(format!("{label} configured")),
            Err(failed) if failed.code == 409 => continue,
            Err(failed) => return Err(failed.error),
        }
    }
    bail!("{label} changes all the time: try again")
}

/// Puts the manifest itself into its annotation.
fn annotate(wanted: &mut Value) {
    if let Some(annotations) = wanted["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    if wanted["metadata"]["annotations"].is_null() {
        wanted["metadata"]["annotations"] = json!({});
    }
    let text = format!("{wanted}\n");
    wanted["metadata"]["annotations"][LAST_APPLIED] = json!(text);
}

/// The patch that the live object needs; `None` when it needs none.
fn patch(wanted: &Value, live: &Value) -> anyhow::Result<Option<Value>> {
    let last = match live["metadata"]["annotations"][LAST_APPLIED].as_str() {
        Some(text) => serde_json::from_str(text)
            .with_context(|| format!("annotation {LAST_APPLIED} of the object is damaged"))?,
        None => Value::Null,
    };
    let merged = merge::three_way(&last, wanted, live);
    let patch = merge::difference(live, &merged).map(|mut patch| {
        // Makes the server refuse the patch when the object has changed since.
        patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        patch
    });
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(manifest: &Value) -> Value {
        let mut wanted = manifest.clone();
        annotate(&mut wanted);
        wanted
    }

    fn stored(applied: &Value) -> Value {
        let mut live = applied.clone();
        live["metadata"]["resourceVersion"] = json!("7");
        live["metadata"]["uid"] = json!("u");
        live["spec"]["filled"] = json!("in");
        live
    }

    #[test]
    fn the_same_again_needs_no_patch() {
        let manifest = json!({"metadata": {"name": "x"}, "spec": {"replicas": 2}});
        let wanted = applied(&manifest);
        assert_eq!(patch(&wanted, &stored(&wanted)).unwrap(), None);
    }

    #[test]
    fn a_patch_holds_what_changed_and_the_version() {
        let first = json!({"metadata": {"name": "x"}, "spec": {"replicas": 2, "paused": true}});
        let second = json!({"metadata": {"name": "x"}, "spec": {"replicas": 3}});
        let live = stored(&applied(&first));
        let patch = patch(&applied(&second), &live).unwrap().unwrap();
        assert_eq!(patch["spec"], json!({"replicas": 3, "paused": null}));
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert!(patch["metadata"]["annotations"][LAST_APPLIED].is_string());
        assert_eq!(patch["metadata"].get("uid"), None);
    }

    #[test]
    fn objects_that_others_made_are_taken_over() {
        let live = json!({"metadata": {"name": "x", "resourceVersion": "1"}, "spec": {"a": 1}});
        let manifest = json!({"metadata": {"name": "x"}, "spec": {"b": 2}});
        let patch = patch(&applied(&manifest), &live).unwrap().unwrap();
        assert_eq!(patch["spec"], json!({"b": 2}));
    }
}
