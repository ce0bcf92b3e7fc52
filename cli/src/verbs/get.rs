//! `bowline get`: lists and watches objects.
//!
//! Guarantees: a watch goes on when the server ends it, as servers do after a while; it misses no
//! last state of an object that is there. A connection that breaks is an error.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use futures::{AsyncBufReadExt, TryStreamExt};
use serde_json::{Value, json};

use super::client::{Connection, Server, query};
use super::discovery::{Catalog, Resource, name_of};
use super::table::{ACCEPT, Columns, Style};
use super::{Scope, resolve, targets};
use crate::output::{self, Format};

const JSON: &str = "application/json";

/// The status of a version that is too old to be watched from.
const GONE: u16 = 410;
/// Between two watches, so that a server that ends each at once is not flooded.
const PAUSE: Duration = Duration::from_millis(100);

/// Show objects.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline get nodes -o wide
  bowline get pods -A
  bowline get pod/web-1 -o yaml
  bowline get pods -l app=web -w
  bowline get pods,services")]
pub(crate) struct Args {
    /// TYPE, TYPE NAME..., TYPE/NAME ... or TYPE,TYPE
    #[arg(required = true)]
    what: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// All namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(long, short = 'l', value_name = "LABELS")]
    selector: Option<String>,
    /// Only objects with these field values
    #[arg(long, value_name = "FIELDS")]
    field_selector: Option<String>,
    /// Form of the output
    #[arg(long, short)]
    output: Option<Output>,
    /// Go on showing changes
    #[arg(long, short)]
    watch: bool,
    /// Leave the header out
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
    Json,
    Yaml,
    Name,
}

impl Output {
    fn document(self) -> Option<Format> {
        match self {
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
            Self::Wide | Self::Name => None,
        }
    }
}

/// One path to read: an object, or a collection.
struct Read<'a> {
    resource: &'a Resource,
    name: Option<&'a str>,
    path: String,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let connection = args.server.connect().await?;
    let catalog = Catalog::read(&connection).await?;
    let targets = targets(&args.what)?;
    let resolved = resolve(&catalog, &targets)?;
    let namespace = args.scope.namespace(&connection);
    let mut reads = Vec::new();
    for (resource, names) in resolved {
        if names.is_empty() {
            let namespace = (!args.all_namespaces).then_some(namespace);
            reads.push(Read { resource, name: None, path: resource.collection(namespace) });
        }
        for name in names {
            if args.all_namespaces && resource.namespaced {
                bail!("a name and --all-namespaces do not go together: give --namespace");
            }
            let path = resource.object(namespace, name)?;
            reads.push(Read { resource, name: Some(name), path });
        }
    }
    if args.watch {
        let [read] = reads.as_slice() else { bail!("--watch needs one type or one object") };
        return watch(args, &connection, read, namespace).await;
    }
    match args.output {
        Some(Output::Json) => documents(args, &connection, &reads, Format::Json).await,
        Some(Output::Yaml) => documents(args, &connection, &reads, Format::Yaml).await,
        Some(Output::Name) => names(args, &connection, &reads).await,
        None | Some(Output::Wide) => tables(args, &connection, &reads, namespace).await,
    }
}

impl Args {
    /// The selectors as parameters; they are for collections.
    fn parameters(&self, read: &Read<'_>) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        if read.name.is_none() {
            parameters.extend(self.selector.clone().map(|it| ("labelSelector", it)));
            parameters.extend(self.field_selector.clone().map(|it| ("fieldSelector", it)));
        }
        parameters
    }

    fn url(&self, read: &Read<'_>) -> String {
        format!("{}{}", read.path, query(&self.parameters(read)))
    }

    fn style<'a>(&self, read: &Read<'_>, prefix: &'a str) -> Style<'a> {
        let namespaces = self.all_namespaces && read.resource.namespaced;
        Style { wide: self.output == Some(Output::Wide), namespaces, prefix }
    }
}

/// The objects of an answer: of a list its items, otherwise the object itself.
fn objects(answer: Value, resource: &Resource) -> Vec<Value> {
    let Some(items) = answer.get("items").and_then(Value::as_array).cloned() else {
        return vec![without_managers(answer)];
    };
    let named = |mut item: Value| {
        // Items of a list do not say what they are.
        item["apiVersion"] = json!(resource.api_version());
        item["kind"] = json!(resource.kind);
        without_managers(item)
    };
    items.into_iter().map(named).collect()
}

/// The object as people want to read it: who manages which field is longer than all the rest.
fn without_managers(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

async fn documents(
    args: &Args,
    connection: &Connection,
    reads: &[Read<'_>],
    format: Format,
) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for read in reads {
        let answer = connection.get(&args.url(read), JSON).await?;
        found.extend(objects(answer, read.resource));
    }
    match (reads, found.as_slice()) {
        ([Read { name: Some(_), .. }], [object]) => output::document(object, format),
        _ => {
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": found});
            output::document(&list, format)
        }
    }
}

async fn names(args: &Args, connection: &Connection, reads: &[Read<'_>]) -> anyhow::Result<()> {
    for read in reads {
        for object in objects(connection.get(&args.url(read), JSON).await?, read.resource) {
            output::line(&read.resource.label(name_of(&object)))?;
        }
    }
    Ok(())
}

async fn tables(
    args: &Args,
    connection: &Connection,
    reads: &[Read<'_>],
    namespace: &str,
) -> anyhow::Result<()> {
    // Several names of one type share a table; several types have one each.
    let types: std::collections::BTreeSet<&str> =
        reads.iter().map(|read| read.resource.plural.as_str()).collect();
    let mut printed = 0;
    let mut last_type = None;
    for read in reads {
        let prefix = if types.len() > 1 { read.resource.label("") } else { String::new() };
        let style = args.style(read, &prefix);
        let table = connection.get(&args.url(read), ACCEPT).await?;
        let rows = Columns::of(&table, style).rows(&table, style);
        if rows.is_empty() {
            continue;
        }
        let first_of_type = last_type.replace(&read.resource.plural) != Some(&read.resource.plural);
        if first_of_type && printed > 0 {
            output::line("")?;
        }
        output::text(&rows.render(first_of_type && !args.no_headers))?;
        printed += 1;
    }
    if printed == 0 {
        let everywhere = args.all_namespaces || reads.iter().all(|it| !it.resource.namespaced);
        let place = if everywhere { String::new() } else { format!(" in namespace {namespace}") };
        eprintln!("nothing found{place}");
    }
    Ok(())
}

/// Shows what is there, then every change, until interrupted.
async fn watch(
    args: &Args,
    connection: &Connection,
    read: &Read<'_>,
    namespace: &str,
) -> anyhow::Result<()> {
    let mut parameters = args.parameters(read);
    parameters.extend(read.name.map(|name| ("fieldSelector", format!("metadata.name={name}"))));
    let scope = if args.all_namespaces { None } else { Some(namespace) };
    let collection = read.resource.collection(scope);
    let url = |more: &[(&'static str, String)]| {
        format!("{collection}{}", query(&[parameters.as_slice(), more].concat()))
    };
    let mut screen = Screen::new(args, read);
    loop {
        let listed = connection.get(&url(&[]), screen.accept()).await?;
        let mut version = version_of(&listed).unwrap_or("0").to_owned();
        screen.show_list(listed)?;
        let mut ended = Ended::InTime;
        while ended == Ended::InTime {
            let url = url(&[
                ("watch", "true".to_owned()),
                ("allowWatchBookmarks", "true".to_owned()),
                ("resourceVersion", version.clone()),
            ]);
            ended = follow(connection, &url, &mut screen, &mut version).await?;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// As all do after a while: the next goes on from the last version.
    InTime,
    /// The server does not know any more what changed since that version.
    TooOld,
}

/// Shows changes until the watch ends; `version` is that of the last one.
async fn follow(
    connection: &Connection,
    url: &str,
    screen: &mut Screen<'_>,
    version: &mut String,
) -> anyhow::Result<Ended> {
    let stream = match connection.stream(url, screen.accept()).await {
        Err(failed) if failed.code == GONE => return Ok(Ended::TooOld),
        other => other?,
    };
    let mut lines = stream.lines();
    while let Some(line) = lines.try_next().await.context("the watch broke off")? {
        let event: Value = serde_json::from_str(&line).context("the watch sent no JSON")?;
        let object = &event["object"];
        match event["type"].as_str() {
            Some("BOOKMARK") => {}
            Some("ERROR") if object["code"] == GONE => return Ok(Ended::TooOld),
            Some("ERROR") => {
                bail!("the watch ended: {}", object["message"].as_str().unwrap_or("no reason"));
            }
            _ => screen.show(object, false)?,
        }
        if let Some(newer) = version_of(object) {
            newer.clone_into(version);
        }
    }
    Ok(Ended::InTime)
}

/// The version of an object or a list, or of the one row that a watch sends as a table.
fn version_of(object: &Value) -> Option<&str> {
    let places = [&object["metadata"], &object["rows"][0]["object"]["metadata"]];
    let versions = places.into_iter().filter_map(|place| place["resourceVersion"].as_str());
    versions.into_iter().find(|version| !version.is_empty())
}

/// What a watch has shown so far, which decides how the next rows look.
struct Screen<'a> {
    resource: &'a Resource,
    style: Style<'a>,
    output: Option<Output>,
    headers: bool,
    columns: Columns,
    widths: Vec<usize>,
}

impl<'a> Screen<'a> {
    fn new(args: &Args, read: &Read<'a>) -> Self {
        Self {
            resource: read.resource,
            style: args.style(read, ""),
            output: args.output,
            headers: !args.no_headers,
            columns: Columns::default(),
            widths: Vec::new(),
        }
    }

    fn is_table(&self) -> bool {
        matches!(self.output, None | Some(Output::Wide))
    }

    fn accept(&self) -> &'static str {
        if self.is_table() { ACCEPT } else { JSON }
    }

    fn show_list(&mut self, listed: Value) -> anyhow::Result<()> {
        if self.is_table() {
            let header = std::mem::take(&mut self.headers);
            return self.show(&listed, header);
        }
        objects(listed, self.resource).iter().try_for_each(|object| self.show(object, false))
    }

    /// Shows an object, or a table of objects.
    fn show(&mut self, object: &Value, header: bool) -> anyhow::Result<()> {
        if let Some(format) = self.output.and_then(Output::document) {
            return output::document(&without_managers(object.clone()), format);
        }
        if self.output == Some(Output::Name) {
            return Ok(output::line(&self.resource.label(name_of(object)))?);
        }
        if self.columns.is_empty() {
            self.columns = Columns::of(object, self.style);
        }
        let rows = self.columns.rows(object, self.style);
        Ok(output::text(&rows.render_on(header, &mut self.widths))?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        get: Args,
    }

    /// A server that gives these answers, a status and a body each, and what it was asked for.
    fn server(answers: &[(u16, Value)]) -> (Connection, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let paths = Arc::clone(&asked);
        let mut answers: VecDeque<(u16, Value)> = answers.iter().cloned().collect();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            paths.lock().unwrap().push(request.uri().to_string());
            let (code, body) = answers.pop_front().expect("asked once more");
            let body = kube::client::Body::from(format!("{body}\n").into_bytes());
            std::future::ready(http::Response::builder().status(code).body(body))
        });
        let client = kube::Client::new(service, "default");
        (Connection::of(client), asked)
    }

    #[tokio::test]
    async fn a_watch_that_the_server_ends_goes_on() {
        let table = |version: &str, row: &str| {
            let object = json!({"metadata": {"resourceVersion": row}});
            let rows = json!([{"cells": ["a"], "object": object}]);
            json!({"kind": "Table", "metadata": {"resourceVersion": version}, "rows": rows})
        };
        let event = |kind: &str, object: &Value| json!({"type": kind, "object": object});
        let status = |code: u16| json!({"kind": "Status", "code": code, "message": "enough"});
        let (connection, asked) = server(&[
            (200, table("5", "3")),
            (200, event("MODIFIED", &table("", "7"))),
            (200, event("BOOKMARK", &table("9", ""))),
            (200, event("ERROR", &status(GONE))),
            (200, table("20", "7")),
            (GONE, status(GONE)),
            (200, table("30", "7")),
            (200, event("ERROR", &status(500))),
        ]);
        let catalog = super::super::discovery::sample();
        let resource = catalog.find("pods").unwrap()[0];
        let path = resource.collection(Some("default"));
        let read = Read { resource, name: None, path: path.clone() };
        let args = Line::parse_from(["get", "pods", "-w", "-l", "app=x"]).get;
        let error = watch(&args, &connection, &read, "default").await.unwrap_err().to_string();
        assert_eq!(error, "the watch ended: enough");
        let list = format!("{path}?labelSelector=app%3Dx");
        let since = |version: u8| {
            format!("{list}&watch=true&allowWatchBookmarks=true&resourceVersion={version}")
        };
        let expected =
            [&list, &since(5), &since(7), &since(9), &list, &since(20), &list, &since(30)];
        assert_eq!(asked.lock().unwrap().iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn items_of_a_list_say_what_they_are() {
        let catalog = super::super::discovery::sample();
        let resource = catalog.find("deploy").unwrap()[0];
        let list = json!({"kind": "DeploymentList", "items": [{"metadata": {"name": "x"}}]});
        let found = objects(list, resource);
        assert_eq!(found[0]["kind"], "Deployment");
        assert_eq!(found[0]["apiVersion"], "apps/v1");
        let single = objects(json!({"kind": "Deployment"}), resource);
        assert_eq!(single.len(), 1);
    }
}
