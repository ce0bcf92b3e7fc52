//! `bowline get`: lists and watches objects.

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
        return vec![answer];
    };
    let named = |mut item: Value| {
        // Items of a list do not say what they are.
        item["apiVersion"] = json!(resource.api_version());
        item["kind"] = json!(resource.kind);
        item
    };
    items.into_iter().map(named).collect()
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
            output::line(&read.resource.label(name_of(&object)));
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
            output::line("");
        }
        output::text(&rows.render(first_of_type && !args.no_headers));
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
    let mut screen = Screen::new(args, read);

    let url = format!("{collection}{}", query(&parameters));
    let listed = connection.get(&url, screen.accept()).await?;
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    screen.show_list(listed)?;

    parameters.extend([("watch", "true".to_owned()), ("resourceVersion", version)]);
    let url = format!("{collection}{}", query(&parameters));
    let mut lines = connection.stream(&url, screen.accept()).await?.lines();
    while let Some(line) = lines.try_next().await.context("the watch broke off")? {
        let event: Value = serde_json::from_str(&line).context("the watch sent no JSON")?;
        let object = &event["object"];
        match event["type"].as_str() {
            Some("BOOKMARK") => {}
            Some("ERROR") => {
                bail!("the watch ended: {}", object["message"].as_str().unwrap_or("no reason"));
            }
            _ => screen.show(object, false)?,
        }
    }
    Ok(())
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
            return self.show(&listed, self.headers);
        }
        objects(listed, self.resource).iter().try_for_each(|object| self.show(object, false))
    }

    /// Shows an object, or a table of objects.
    fn show(&mut self, object: &Value, header: bool) -> anyhow::Result<()> {
        if let Some(format) = self.output.and_then(Output::document) {
            return output::document(object, format);
        }
        if self.output == Some(Output::Name) {
            output::line(&self.resource.label(name_of(object)));
            return Ok(());
        }
        if self.columns.is_empty() {
            self.columns = Columns::of(object, self.style);
        }
        let rows = self.columns.rows(object, self.style);
        output::text(&rows.render_on(header, &mut self.widths));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
