//! `bowline delete`: deletes objects and waits until they are gone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply::Address;
use super::client::{Body, Connection, Server, query};
use super::discovery::{Catalog, Resource, name_of};
use super::manifest::{self, Document};
use super::{Scope, resolve, targets};
use crate::output;

const JSON: &str = "application/json";

/// Between two looks at an object that is going.
const LOOK: Duration = Duration::from_millis(50);

/// Delete objects, and wait until they are gone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline delete pod web-1
  bowline delete deploy/web service/web
  bowline delete -f web.yaml
  bowline delete pods -l app=web --wait=false")]
pub(crate) struct Args {
    /// TYPE NAME..., TYPE/NAME ..., or TYPE with --selector or --all
    #[arg(conflicts_with = "filename")]
    what: Vec<String>,
    /// Delete what is in manifests
    #[arg(long, short = 'f', value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    scope: Scope,
    /// Objects with these labels
    #[arg(long, short = 'l', value_name = "LABELS", conflicts_with_all = ["all", "filename"])]
    selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds that containers get to end by themselves [default: the pod's]
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Do not fail for objects that are not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    #[command(flatten)]
    server: Server,
}

/// An object to delete.
struct Doomed {
    label: String,
    path: String,
    uid: Option<String>,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    if args.what.is_empty() && args.filename.is_empty() {
        bail!("say what to delete: a type and a name such as `pod web-1`, or -f FILE");
    }
    let connection = args.server.connect().await?;
    let catalog = Catalog::read(&connection).await?;
    let mut doomed = if args.filename.is_empty() {
        from_words(args, &connection, &catalog).await?
    } else {
        let documents = manifest::read(&args.filename)?;
        from_manifests(&documents, &catalog, &args.scope, &connection.namespace)?
    };
    if doomed.is_empty() {
        eprintln!("nothing found to delete");
    }
    let (mut failed, mut said) = (Vec::new(), Ok(()));
    for object in &mut doomed {
        match delete(args, &connection, object).await {
            Ok(true) => said = said.and(output::line(&format!("{} deleted", object.label))),
            Ok(false) => {}
            Err(error) => failed.push(format!("{}: {error:#}", object.label)),
        }
    }
    if args.wait {
        let deadline = Instant::now() + Duration::from_secs(args.timeout);
        for object in doomed.iter().filter(|object| object.uid.is_some()) {
            if let Err(error) = wait_until_gone(&connection, object, deadline).await {
                failed.push(format!("{error:#}"));
            }
        }
    }
    if failed.is_empty() { Ok(said?) } else { bail!("{}", failed.join("; ")) }
}

async fn from_words(
    args: &Args,
    connection: &Connection,
    catalog: &Catalog,
) -> anyhow::Result<Vec<Doomed>> {
    let namespace = args.scope.namespace(connection);
    let targets = targets(&args.what)?;
    let mut doomed = Vec::new();
    for (resource, names) in resolve(catalog, &targets)? {
        let many = args.all || args.selector.is_some();
        match (names.is_empty(), many) {
            (true, false) => bail!("say which {}: a name, --selector or --all", resource.plural),
            (false, true) => bail!("names do not go together with --selector and --all"),
            (false, false) => {
                for name in names {
                    doomed.push(at(resource, namespace, name)?);
                }
            }
            (true, true) => {
                let selector = args.selector.clone().map(|it| ("labelSelector", it));
                let selector: Vec<_> = selector.into_iter().collect();
                let path = format!("{}{}", resource.collection(Some(namespace)), query(&selector));
                let list = connection.get(&path, JSON).await?;
                for item in list["items"].as_array().into_iter().flatten() {
                    doomed.push(at(resource, namespace, name_of(item))?);
                }
            }
        }
    }
    Ok(doomed)
}

/// All of them or none: what one manifest leaves open is said before anything is deleted.
fn from_manifests(
    documents: &[Document],
    catalog: &Catalog,
    scope: &Scope,
    default: &str,
) -> anyhow::Result<Vec<Doomed>> {
    let doomed = documents.iter().map(|document| {
        let address = Address::of(document, catalog, scope, default);
        let address = address.with_context(|| document.source.clone())?;
        at(address.resource, &address.namespace, &address.name)
    });
    doomed.collect()
}

fn at(resource: &Resource, namespace: &str, name: &str) -> anyhow::Result<Doomed> {
    let (label, path) = (resource.label(name), resource.object(namespace, name)?);
    Ok(Doomed { label, path, uid: None })
}

/// Asks for the deletion; `false` when the object was not there and that is fine.
async fn delete(args: &Args, connection: &Connection, object: &mut Doomed) -> anyhow::Result<bool> {
    let mut options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
    });
    if let Some(seconds) = args.grace_period {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    let body = Body { kind: JSON, value: &options };
    match connection.write("DELETE", &object.path, Some(body)).await {
        Ok(answer) => {
            object.uid = Some(uid_of(&answer));
            Ok(true)
        }
        Err(failed) if failed.code == 404 && args.ignore_not_found => Ok(false),
        Err(failed) => Err(failed.error),
    }
}

/// The uid in an answer to DELETE: the object itself, or a Status with details.
fn uid_of(answer: &Value) -> String {
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
    uid.unwrap_or_default().to_owned()
}

async fn wait_until_gone(
    connection: &Connection,
    object: &Doomed,
    deadline: Instant,
) -> anyhow::Result<()> {
    loop {
        let Some(live) = connection.get_if_there(&object.path).await? else { return Ok(()) };
        let known = object.uid.as_deref().filter(|uid| !uid.is_empty());
        if known.is_some_and(|uid| live["metadata"]["uid"] != uid) {
            // Another object of the same name has taken its place.
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{} is still there: wait longer with --timeout, or see `describe`", object.label);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path that a manifest of a pod with this metadata leads to.
    fn path(metadata: &Value, namespace: Option<&str>) -> Result<String, String> {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
        let (api_version, kind) = ("v1".to_owned(), "Pod".to_owned());
        let document = Document { source: "x.yaml".to_owned(), api_version, kind, object };
        let scope = Scope { namespace: namespace.map(str::to_owned) };
        from_manifests(&[document], &super::super::discovery::sample(), &scope, "default")
            .map(|doomed| doomed[0].path.clone())
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn manifests_say_which_one_and_where() {
        for (metadata, namespace, expected) in [
            (json!({"name": "x"}), None, "/api/v1/namespaces/default/pods/x"),
            (json!({"name": "x"}), Some("ns"), "/api/v1/namespaces/ns/pods/x"),
            (json!({"name": "x", "namespace": "ns"}), None, "/api/v1/namespaces/ns/pods/x"),
            (json!({"name": "x", "namespace": ""}), None, "/api/v1/namespaces/default/pods/x"),
        ] {
            assert_eq!(path(&metadata, namespace), Ok(expected.to_owned()), "{metadata}");
        }
        for (metadata, expected) in [
            (json!({"generateName": "x-"}), "x.yaml: a Pod without metadata.name"),
            (json!({"name": "x", "namespace": "prod"}), "namespace `prod`, the command line `ns`"),
        ] {
            let error = path(&metadata, Some("ns")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn answers_to_delete_have_two_shapes() {
        assert_eq!(uid_of(&json!({"kind": "Pod", "metadata": {"uid": "u"}})), "u");
        assert_eq!(uid_of(&json!({"kind": "Status", "details": {"uid": "v"}})), "v");
        assert_eq!(uid_of(&json!({})), "");
    }
}
