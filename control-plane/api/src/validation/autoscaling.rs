//! Horizontal pod autoscalers.

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, metadata};
use super::names::{label, path_segment};
use super::resource_names::container_resource_name;
use super::workload::counts;
use super::{Errors, FieldError, Path};
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

/// The types of metrics, each with the field that describes it, in the order they are looked at.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const PERIOD_SECONDS: i64 = 1800;
const WINDOW_SECONDS: i64 = 3600;

pub(crate) fn horizontal_pod_autoscaler(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    replicas(&mut errors, spec, old, &path);
    target(&mut errors, &spec["scaleTargetRef"], old, &path.child("scaleTargetRef"));
    // What was let in once may stay.
    let lenient = old.is_some_and(|old| {
        let mut objects = list(&old["spec"], "metrics").iter().map(|metric| &metric["object"]);
        objects.any(|one| api_version(&one["describedObject"], true).is_err())
    });
    let path_of_metrics = path.child("metrics");
    for (index, metric) in list(spec, "metrics").iter().enumerate() {
        self::metric(&mut errors, metric, lenient, &path_of_metrics.index(index));
    }
    let outside = |metric: &Value| metric["type"] == "Object" || metric["type"] == "External";
    if spec["minReplicas"] == 0 && !list(spec, "metrics").iter().any(outside) {
        let why = "must specify at least one Object or External metric to support scaling to \
                   zero replicas";
        errors.forbidden(&path_of_metrics, why);
    }
    for field in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][field];
        if rules.is_object() {
            scaling_rules(&mut errors, rules, &path.child("behavior").child(field));
        }
    }
    if old.is_some() {
        let fields = ["currentReplicas", "desiredReplicas"];
        counts(&mut errors, &new["status"], &Path::root("status"), &fields);
    }
    errors.into_vec()
}

fn replicas(errors: &mut Errors, spec: &Value, old: Option<&Value>, path: &Path) {
    let (least, most) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or(0));
    // Scaling to zero is switched off, but for who has it already.
    let bound = if old.is_some_and(|old| old["spec"]["minReplicas"] == 0) { 0 } else { 1 };
    if least.is_some_and(|least| least < bound) {
        let why = format!("must be greater than or equal to {bound}");
        errors.invalid(&path.child("minReplicas"), &spec["minReplicas"], &why);
    }
    let path = path.child("maxReplicas");
    if most < 1 {
        errors.invalid(&path, &Value::from(most), "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        let why = "must be greater than or equal to `minReplicas`";
        errors.invalid(&path, &Value::from(most), why);
    }
}

/// What is to be scaled. A kind that did not change is not looked up again.
fn target(errors: &mut Errors, target: &Value, old: Option<&Value>, path: &Path) {
    reference(errors, target, path);
    let before = old.map(|old| &old["spec"]["scaleTargetRef"]);
    let same = |before: &Value| {
        ["apiVersion", "kind"].iter().all(|field| before[*field] == target[*field])
    };
    // Of the core group, only replication controllers can be scaled.
    let core = target["kind"] == "ReplicationController";
    if !before.is_some_and(same)
        && let Err(why) = api_version(target, core)
    {
        errors.invalid_text(&path.child("apiVersion"), text(target, "apiVersion"), &why);
    }
}

fn reference(errors: &mut Errors, reference: &Value, path: &Path) {
    for field in ["kind", "name"] {
        let (value, path) = (text(reference, field), path.child(field));
        if value.is_empty() {
            errors.required(&path, "");
        } else {
            errors.complain(&path, value, path_segment(value));
        }
    }
}

fn api_version(reference: &Value, core: bool) -> Result<(), String> {
    let version = text(reference, "apiVersion");
    let group = match version.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            return Err(format!("unexpected GroupVersion string: {version}"));
        }
        Some((group, _)) => group,
        None => "",
    };
    if group.is_empty() && !core {
        return Err("apiVersion must specify API group".to_owned());
    }
    Ok(())
}

fn metric(errors: &mut Errors, metric: &Value, lenient: bool, path: &Path) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    let expected = SOURCES.iter().find(|(own, _)| *own == kind).map(|(_, field)| *field);
    let present =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric[*field].is_object());
    let present: Vec<&str> = present.collect();
    if let Some(field) = present.first() {
        source(errors, &metric[*field], field, lenient, &path.child(field));
    }
    match expected {
        None => errors.unsupported(&path.child("type"), &Value::from(kind), TYPES),
        Some(field) if !present.contains(&field) => {
            let why = "must populate information for the given metric source";
            errors.required(&path.child(field), why);
        }
        Some(_) => {}
    }
    if present.len() > 1 {
        for field in present.iter().filter(|field| Some(**field) != expected) {
            errors.forbidden(&path.child(field), "must populate the given metric source only");
        }
    }
}

fn source(errors: &mut Errors, source: &Value, field: &str, lenient: bool, path: &Path) {
    let described = path.child("describedObject");
    match field {
        "object" => {
            reference(errors, &source["describedObject"], &described);
            if let (false, Err(why)) = (lenient, api_version(&source["describedObject"], true)) {
                let version = text(&source["describedObject"], "apiVersion");
                errors.invalid_text(&described.child("apiVersion"), version, &why);
            }
            identifier(errors, &source["metric"], &path.child("metric"));
        }
        "external" | "pods" => identifier(errors, &source["metric"], &path.child("metric")),
        _ => named_resource(errors, source, field == "containerResource", path),
    }
    let (target, path) = (&source["target"], path.child("target"));
    metric_target(errors, target, &path);
    let set = |field: &str| !target[field].is_null();
    let average = path.child("averageValue");
    match field {
        "object" if !set("value") && !set("averageValue") => {
            errors.required(&average, "must set either a target value or averageValue");
        }
        "external" => match (set("value"), set("averageValue")) {
            (false, false) => errors.required(
                &average,
                "must set either a target value for metric or a per-pod target",
            ),
            (true, true) => errors.forbidden(
                &path.child("value"),
                "may not set both a target value for metric and a per-pod target",
            ),
            _ => {}
        },
        "pods" if !set("averageValue") => {
            errors.required(&average, "must specify a positive target averageValue");
        }
        "resource" | "containerResource" => {
            match (set("averageUtilization"), set("averageValue")) {
                (false, false) => errors.required(
                    &path.child("averageUtilization"),
                    "must set either a target raw value or a target utilization",
                ),
                (true, true) => errors.forbidden(
                    &average,
                    "may not set both a target raw value and a target utilization",
                ),
                _ => {}
            }
        }
        _ => {}
    }
}

fn identifier(errors: &mut Errors, metric: &Value, path: &Path) {
    let (name, path) = (text(metric, "name"), path.child("name"));
    if name.is_empty() {
        errors.required(&path, "must specify a metric name");
    } else {
        errors.complain(&path, name, path_segment(name));
    }
}

fn named_resource(errors: &mut Errors, source: &Value, of_container: bool, path: &Path) {
    let name = text(source, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "must specify a resource name");
    } else if of_container {
        container_resource_name(errors, name, &path.child("name"));
    }
    if of_container {
        let (container, path) = (text(source, "container"), path.child("container"));
        if container.is_empty() {
            errors.required(&path, "must specify a container");
        } else {
            errors.complain(&path, container, label(container));
        }
    }
}

fn metric_target(errors: &mut Errors, target: &Value, path: &Path) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.invalid_text(&path.child("type"), kind, why);
    }
    let positive = |amount: Quantity| !amount.is_negative() && !amount.is_zero();
    for field in ["value", "averageValue"] {
        if !target[field].is_null() && !parse_quantity(&target[field]).is_ok_and(positive) {
            errors.invalid(&path.child(field), &target[field], "must be positive");
        }
    }
    let utilization = &target["averageUtilization"];
    if utilization.as_i64().is_some_and(|percent| percent < 1) {
        errors.invalid(&path.child("averageUtilization"), utilization, "must be greater than 0");
    }
}

fn scaling_rules(errors: &mut Errors, rules: &Value, path: &Path) {
    let (window, window_path) =
        (&rules["stabilizationWindowSeconds"], path.child("stabilizationWindowSeconds"));
    match window.as_i64() {
        Some(..0) => {
            errors.invalid(&window_path, window, "must be greater than or equal to zero");
        }
        Some(seconds) if seconds > WINDOW_SECONDS => {
            let why = format!("must be less than or equal to {WINDOW_SECONDS}");
            errors.invalid(&window_path, window, &why);
        }
        _ => {}
    }
    let supported = &["Disabled", "Max", "Min"];
    errors.one_of(&path.child("selectPolicy"), &rules["selectPolicy"], supported);
    let (policies, policies_path) = (list(rules, "policies"), path.child("policies"));
    if policies.is_empty() {
        errors.required(&policies_path, "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        scaling_policy(errors, policy, &policies_path.index(index));
    }
    let tolerance = &rules["tolerance"];
    if parse_quantity(tolerance).is_ok_and(Quantity::is_negative) {
        let why = "must be greater than or equal to 0";
        errors.invalid(&path.child("tolerance"), tolerance, why);
    }
}

fn scaling_policy(errors: &mut Errors, policy: &Value, path: &Path) {
    let kind = Value::from(text(policy, "type"));
    errors.one_of(&path.child("type"), &kind, &["Percent", "Pods"]);
    for field in ["value", "periodSeconds"] {
        let number = policy[field].as_i64().unwrap_or(0);
        if number <= 0 {
            let why = "must be greater than zero";
            errors.invalid(&path.child(field), &Value::from(number), why);
        }
    }
    let period = &policy["periodSeconds"];
    if period.as_i64().is_some_and(|seconds| seconds > PERIOD_SECONDS) {
        let why = format!("must be less than or equal to {PERIOD_SECONDS}");
        errors.invalid(&path.child("periodSeconds"), period, &why);
    }
}
