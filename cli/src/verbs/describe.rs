//! `bowline describe`: everything about an object that helps to understand it.
//!
//! Works for every kind: what is known of the kind (containers of a pod, conditions) comes as a
//! table, the rest as YAML, then the events.

use anyhow::bail;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::client::{Connection, Server, query};
use super::discovery::{Catalog, Resource, name_of};
use super::{Scope, resolve, targets};
use crate::output::{self, Table};

const JSON: &str = "application/json";

/// Annotations that repeat what is shown anyhow.
const BORING_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Width of the names in front of simple facts.
const NAME_WIDTH: usize = 16;

/// Show everything about objects, with their events.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  bowline describe pod web-1
  bowline describe node/node1
  bowline describe deployments -n shop")]
pub(crate) struct Args {
    /// TYPE, TYPE NAME... or TYPE/NAME ...
    #[arg(required = true)]
    what: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Only objects with these labels
    #[arg(long, short = 'l', value_name = "LABELS")]
    selector: Option<String>,
    #[command(flatten)]
    server: Server,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let connection = args.server.connect().await?;
    let catalog = Catalog::read(&connection).await?;
    let namespace = args.scope.namespace(&connection);
    let targets = targets(&args.what)?;
    let mut found = Vec::new();
    for (resource, names) in resolve(&catalog, &targets)? {
        if names.is_empty() {
            let selector = args.selector.clone().map(|it| ("labelSelector", it));
            let selector: Vec<_> = selector.into_iter().collect();
            let path = format!("{}{}", resource.collection(Some(namespace)), query(&selector));
            let mut list = connection.get(&path, JSON).await?;
            let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            found.extend(items.into_iter().map(|item| (resource, item)));
        }
        for name in names {
            let object = connection.get(&resource.object(namespace, name)?, JSON).await?;
            found.push((resource, object));
        }
    }
    if found.is_empty() {
        bail!("nothing found to describe");
    }
    for (index, (resource, object)) in found.iter().enumerate() {
        if index > 0 {
            output::line("\n")?;
        }
        let events = events(&connection, object).await?;
        output::text(&describe(resource, object, &events, Timestamp::now())?)?;
    }
    Ok(())
}

/// The events about an object, oldest first.
async fn events(connection: &Connection, object: &Value) -> anyhow::Result<Vec<Value>> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str();
    let scope = namespace.map_or_else(String::new, |it| format!("/namespaces/{it}"));
    let selector = [("fieldSelector", format!("involvedObject.uid={uid}"))];
    let path = format!("/api/v1{scope}/events{}", query(&selector));
    let mut list = connection.get(&path, JSON).await?;
    let mut events = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    events.sort_by_key(|event| last_seen(event).map(str::to_owned));
    Ok(events)
}

fn last_seen(event: &Value) -> Option<&str> {
    let times =
        [&event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
    times.into_iter().find_map(Value::as_str)
}

fn describe(
    resource: &Resource,
    object: &Value,
    events: &[Value],
    now: Timestamp,
) -> anyhow::Result<String> {
    let mut text = header(resource, object, now);
    if resource.kind == "Pod" {
        text.push_str(&section("Containers", &containers(object)));
    }
    let mut rest = object.as_object().cloned().unwrap_or_default();
    for shown in ["apiVersion", "kind", "metadata"] {
        rest.remove(shown);
    }
    let conditions = take_conditions(&mut rest);
    hide_values_of_secrets(resource, &mut rest);
    for (field, value) in &rest {
        if !is_empty(value) {
            let body = indent(&output::yaml(value)?);
            text.push_str(&format!("\n{}:\n{body}", capitalized(field)));
        }
    }
    text.push_str(&section("Conditions", &conditions));
    let events = event_table(events, now);
    if events.is_empty() {
        text.push_str("\nEvents:  none\n");
    }
    text.push_str(&section("Events", &events));
    Ok(text)
}

fn header(resource: &Resource, object: &Value, now: Timestamp) -> String {
    let metadata = &object["metadata"];
    let mut lines = Lines::default();
    lines.fact("Name", name_of(object));
    if let Some(namespace) = metadata["namespace"].as_str() {
        lines.fact("Namespace", namespace);
    }
    lines.fact("Kind", &format!("{} ({})", resource.kind, resource.api_version()));
    lines.pairs("Labels", &metadata["labels"]);
    lines.pairs("Annotations", &metadata["annotations"]);
    if let Some(created) = metadata["creationTimestamp"].as_str() {
        lines.fact("Created", &format!("{created} ({} ago)", age(created, now)));
    }
    if let Some(deleted) = metadata["deletionTimestamp"].as_str() {
        lines.fact("Terminating", &format!("since {deleted}"));
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        let (kind, name) = (owner["kind"].as_str(), owner["name"].as_str());
        lines.fact("Owner", &format!("{}/{}", kind.unwrap_or("?"), name.unwrap_or("?")));
    }
    lines.fact("UID", metadata["uid"].as_str().unwrap_or_default());
    lines.0
}

/// Lines of `Name:   value`.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn fact(&mut self, name: &str, value: &str) {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        self.0.push_str(format!("{name:NAME_WIDTH$}{value}").trim_end());
        self.0.push('\n');
    }

    fn pairs(&mut self, name: &str, map: &Value) {
        let pairs = map.as_object().into_iter().flatten();
        let mut name = name;
        for (key, value) in pairs.filter(|(key, _)| *key != BORING_ANNOTATION) {
            self.fact(name, &format!("{key}={}", plain(value)));
            name = "";
        }
    }
}

fn containers(pod: &Value) -> Table {
    let mut table = Table::new(["name", "image", "state", "ready", "restarts", "last state"]);
    for (specs, statuses) in
        [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")]
    {
        let statuses = pod["status"][statuses].as_array().cloned().unwrap_or_default();
        for container in pod["spec"][specs].as_array().into_iter().flatten() {
            let status = statuses.iter().find(|status| status["name"] == container["name"]);
            let status = status.unwrap_or(&Value::Null);
            table.row([
                plain(&container["name"]),
                plain(&container["image"]),
                state(&status["state"]),
                plain(&status["ready"]),
                plain(&status["restartCount"]),
                state(&status["lastState"]),
            ]);
        }
    }
    table
}

/// `Running`, `CrashLoopBackOff: back-off 10s ...`, `Error (exit code 1)`.
fn state(state: &Value) -> String {
    let Some((name, detail)) = state.as_object().and_then(|it| it.iter().next()) else {
        return String::new();
    };
    let reason = detail["reason"].as_str().map_or_else(|| capitalized(name), str::to_owned);
    match (detail["exitCode"].as_i64(), detail["message"].as_str()) {
        (Some(code), _) => format!("{reason} (exit code {code})"),
        (None, Some(message)) => format!("{reason}: {message}"),
        (None, None) => reason,
    }
}

fn take_conditions(rest: &mut Map<String, Value>) -> Table {
    let mut table = Table::new(["type", "status", "reason", "message"]);
    let status = rest.get_mut("status").and_then(Value::as_object_mut);
    let conditions = status.and_then(|status| status.remove("conditions")).unwrap_or_default();
    for condition in conditions.as_array().into_iter().flatten() {
        table.row(["type", "status", "reason", "message"].map(|field| plain(&condition[field])));
    }
    table
}

/// A secret's values are not for the screen: their sizes are enough.
fn hide_values_of_secrets(resource: &Resource, rest: &mut Map<String, Value>) {
    if resource.kind != "Secret" {
        return;
    }
    for field in ["data", "stringData"] {
        for value in rest.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
            let length = value.1.as_str().map_or(0, str::len);
            *value.1 = Value::String(format!("{length} characters"));
        }
    }
}

fn event_table(events: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["last seen", "type", "reason", "from", "message"]);
    for event in events {
        let from = [&event["source"]["component"], &event["reportingComponent"]];
        let from = from.into_iter().map(plain).find(|text| !text.is_empty()).unwrap_or_default();
        let count = event["count"].as_i64().filter(|&count| count > 1);
        let times = count.map_or_else(String::new, |count| format!(" (x{count})"));
        table.row([
            format!("{}{times}", last_seen(event).map_or_else(String::new, |it| age(it, now))),
            plain(&event["type"]),
            plain(&event["reason"]),
            from,
            plain(&event["message"]).trim_end().replace('\n', "; "),
        ]);
    }
    table
}

fn section(title: &str, table: &Table) -> String {
    if table.is_empty() {
        return String::new();
    }
    format!("\n{title}:\n{}", indent(&table.render(true)))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// How long ago a time was: `5s`, `3m10s`, `4h`, `12d`.
pub(crate) fn age(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return "?".to_owned() };
    let seconds = now.as_second().saturating_sub(time.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages() {
        let now: Timestamp = "2030-01-01T12:00:00Z".parse().unwrap();
        for (time, expected) in [
            ("2030-01-01T11:59:55Z", "5s"),
            ("2030-01-01T11:56:50Z", "3m10s"),
            ("2030-01-01T11:00:00Z", "60m"),
            ("2030-01-01T08:00:00Z", "4h"),
            ("2029-12-20T12:00:00Z", "12d"),
            ("2030-01-01T12:00:09Z", "0s"),
            ("yesterday", "?"),
        ] {
            assert_eq!(age(time, now), expected, "{time}");
        }
    }

    #[test]
    fn states() {
        for (value, expected) in [
            (json!({"running": {"startedAt": "x"}}), "Running"),
            (json!({"terminated": {"reason": "Error", "exitCode": 1}}), "Error (exit code 1)"),
            (
                json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}),
                "ErrImagePull: no such image",
            ),
            (json!(null), ""),
        ] {
            assert_eq!(state(&value), expected);
        }
    }

    #[test]
    fn a_pod_is_described() {
        let catalog = super::super::discovery::sample();
        let pod = json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u", "labels": {"a": "1", "b": "2"},
                "annotations": {BORING_ANNOTATION: "{}"},
                "creationTimestamp": "2030-01-01T11:59:55Z",
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1"}],
            },
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [
                    {"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}},
                ],
            },
        });
        let event = json!({
            "type": "Warning", "reason": "BackOff", "message": "again", "count": 3,
            "lastTimestamp": "2030-01-01T11:59:00Z", "source": {"component": "agent"},
        });
        let now: Timestamp = "2030-01-01T12:00:00Z".parse().unwrap();
        let resource = catalog.find("pod").unwrap()[0];
        let text = describe(resource, &pod, &[event], now).unwrap();
        for part in [
            "Name:           web\nNamespace:      shop\n",
            "Labels:         a=1\n                b=2\n",
            "(5s ago)",
            "Owner:          ReplicaSet/web-1",
            "\nConditions:\n  TYPE    STATUS   REASON   MESSAGE\n  Ready   True\n",
            "60s (x3)    Warning   BackOff   agent   again",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains(BORING_ANNOTATION));
    }
}
