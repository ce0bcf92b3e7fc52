//! The columns and cells of daemon sets, stateful sets, jobs, templates, and of what steers how
//! many pods run and where.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::cells::selector;
use super::columns::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, boolean, number as integer, text};
use super::format::{
    age, containers, containers_at, human_duration, labels, list, name, number, since, text_or,
    timestamp,
};

pub(crate) const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired", "How many nodes should run the pod."),
    integer("Current", "How many of those nodes have the pod."),
    integer("Ready", "How many of those nodes have a pod that is ready."),
    integer("Up-to-date", "How many of those nodes have a pod of the newest template."),
    integer("Available", "How many of those nodes have a pod that has been ready for long enough."),
    text("Node Selector", "The labels of the nodes that get the pod."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const STATEFUL_SET: &[Column] =
    &[NAME, text("Ready", "How many of the wanted pods are ready."), AGE, CONTAINERS, IMAGES];

pub(crate) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    text("Controller", "Whose template it keeps."),
    text("Revision", "Which version of the template it is."),
    AGE,
];

pub(crate) const JOB: &[Column] = &[
    NAME,
    text("Status", "What has become of the job."),
    text("Completions", "How many of the wanted pods have succeeded."),
    text("Duration", "How long the job took, or has been at it."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "When jobs are made."),
    text("Timezone", "The time zone of the schedule."),
    boolean("Suspend", "Whether no jobs are made for now."),
    integer("Active", "How many of its jobs are running."),
    text("Last Schedule", "The time since a job was made."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const POD_TEMPLATE: &[Column] = &[
    NAME,
    Column { priority: 0, ..CONTAINERS },
    Column { priority: 0, ..IMAGES },
    text("Pod Labels", "The labels of the template."),
];

pub(crate) const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text("Min Available", "How many pods must stay available."),
    text("Max Unavailable", "How many pods may be unavailable."),
    integer("Allowed Disruptions", "How many pods may be evicted now."),
    AGE,
];

pub(crate) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", "What is scaled."),
    text("Targets", "What is measured, and what it should be."),
    text("MinPods", "How many pods there are at least."),
    text("MaxPods", "How many pods there are at most."),
    text("Replicas", "How many pods there are."),
    AGE,
];

pub(crate) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    integer("Value", "The priority of the class's pods."),
    boolean("Global-Default", "Whether pods without a class get this one."),
    AGE,
    text("PreemptionPolicy", "Whether its pods may take the place of others."),
];

pub(crate) const RUNTIME_CLASS: &[Column] =
    &[NAME, text("Handler", "What the container runtime calls it."), AGE];

pub(crate) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |field: &str| Value::from(number(object, &format!("/status/{field}")));
    vec![
        name(object),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        Value::from(labels(&object["spec"]["template"]["spec"]["nodeSelector"])),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        Value::from(selector(&object["spec"]["selector"])),
    ]
}

pub(crate) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = number(object, "/status/readyReplicas");
    vec![
        name(object),
        Value::from(format!("{ready}/{}", number(object, "/spec/replicas"))),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
    ]
}

pub(crate) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut owners = list(object, "/metadata/ownerReferences").iter();
    let controller = owners.find(|owner| owner["controller"] == true).map(|owner| {
        let group =
            text_or(owner, "/apiVersion", "").split_once('/').map_or("", |(group, _)| group);
        let kind = text_or(owner, "/kind", "");
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        format!("{}/{}", qualified.to_lowercase(), text_or(owner, "/name", ""))
    });
    vec![
        name(object),
        Value::from(controller.unwrap_or_else(|| "<none>".to_owned())),
        Value::from(number(object, "/revision")),
        age(object, now),
    ]
}

pub(crate) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(job_status(object)),
        Value::from(job_completions(object)),
        Value::from(job_duration(object, now)),
        age(object, now),
        containers(object, "name"),
        containers(object, "image"),
        Value::from(selector(&object["spec"]["selector"])),
    ]
}

fn job_status(object: &Value) -> &'static str {
    let is = |kind: &str| crate::object::is_true(object, kind);
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if crate::object::deletion_timestamp(object).is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

fn job_completions(object: &Value) -> String {
    let done = number(object, "/status/succeeded");
    match object["spec"]["completions"].as_i64() {
        Some(wanted) => format!("{done}/{wanted}"),
        // Any of its pods may be the one that succeeds.
        None => match number(object, "/spec/parallelism") {
            pods @ 2.. => format!("{done}/1 of {pods}"),
            _ => format!("{done}/1"),
        },
    }
}

fn job_duration(object: &Value, now: Timestamp) -> String {
    let time = |field: &str| timestamp(&object["status"][field]);
    let Some(start) = time("startTime") else { return String::new() };
    human_duration(time("completionTime").unwrap_or(now).duration_since(start))
}

pub(crate) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let last = match &object["status"]["lastScheduleTime"] {
        Value::Null => "<none>".to_owned(),
        time => since(time, now),
    };
    let suspended = match object["spec"]["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let template = "/spec/jobTemplate/spec/template/spec/containers";
    vec![
        name(object),
        Value::from(text_or(object, "/spec/schedule", "")),
        Value::from(text_or(object, "/spec/timeZone", "<none>")),
        Value::from(suspended),
        Value::from(list(object, "/status/active").len()),
        Value::from(last),
        age(object, now),
        containers_at(object, template, "name"),
        containers_at(object, template, "image"),
        Value::from(selector(&object["spec"]["jobTemplate"]["spec"]["selector"])),
    ]
}

pub(crate) fn pod_template(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        containers_at(object, "/template/spec/containers", "name"),
        containers_at(object, "/template/spec/containers", "image"),
        Value::from(labels(&object["template"]["metadata"]["labels"])),
    ]
}

pub(crate) fn pod_disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let amount = |field: &str| match &object["spec"][field] {
        Value::Null => Value::from("N/A"),
        Value::String(percent) => Value::from(percent.as_str()),
        count => Value::from(count.to_string()),
    };
    vec![
        name(object),
        amount("minAvailable"),
        amount("maxUnavailable"),
        Value::from(number(object, "/status/disruptionsAllowed")),
        age(object, now),
    ]
}

pub(crate) fn horizontal_pod_autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = "/spec/scaleTargetRef";
    let part = |field: &str| text_or(object, &format!("{target}/{field}"), "").to_owned();
    let least = object["spec"]["minReplicas"].as_i64();
    vec![
        name(object),
        Value::from(format!("{}/{}", part("kind"), part("name"))),
        Value::from(metrics(object)),
        Value::from(least.map_or("<unset>".to_owned(), |count| count.to_string())),
        Value::from(number(object, "/spec/maxReplicas")),
        Value::from(number(object, "/status/currentReplicas")),
        age(object, now),
    ]
}

/// How many metrics a cell lists before it only counts.
const LISTED_METRICS: usize = 2;

fn metrics(object: &Value) -> String {
    let statuses = list(object, "/status/currentMetrics");
    let wanted = list(object, "/spec/metrics").iter().enumerate();
    let all: Vec<String> = wanted
        .map(|(index, metric)| self::metric(metric, statuses.get(index).unwrap_or(&Value::Null)))
        .collect();
    match all.len() {
        0 => "<none>".to_owned(),
        count if count > LISTED_METRICS => {
            let listed = all[..LISTED_METRICS].join(", ");
            format!("{listed} + {} more...", count - LISTED_METRICS)
        }
        _ => all.join(", "),
    }
}

/// What a metric is and what it should be: `cpu: 40%/80%`.
fn metric(metric: &Value, status: &Value) -> String {
    let (field, named) = match text_or(metric, "/type", "") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let (source, current) = (&metric[field], &status[field]["current"]);
    let shown = |values: &Value, field: &str, missing: &str| {
        let percent = if field == "averageUtilization" { "%" } else { "" };
        match &values[field] {
            Value::Null => missing.to_owned(),
            Value::String(text) => text.clone(),
            number => format!("{number}{percent}"),
        }
    };
    let average = !source["target"]["averageValue"].is_null();
    let value = match (average, named) {
        (true, _) => "averageValue",
        (false, true) => "averageUtilization",
        (false, false) => "value",
    };
    let missing = if named { "<auto>" } else { "0" };
    let now = shown(current, value, "<unknown>");
    let wanted = shown(&source["target"], value, missing);
    let unit = if average && matches!(field, "external" | "object") { " (avg)" } else { "" };
    let label = if named { format!("{}: ", text_or(source, "/name", "")) } else { String::new() };
    format!("{label}{now}/{wanted}{unit}")
}

pub(crate) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(number(object, "/value")),
        Value::from(object["globalDefault"] == true),
        age(object, now),
        Value::from(text_or(object, "/preemptionPolicy", "")),
    ]
}

pub(crate) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), Value::from(text_or(object, "/handler", "")), age(object, now)]
}
