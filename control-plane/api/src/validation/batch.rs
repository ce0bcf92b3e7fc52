//! Jobs and cron jobs.

use serde_json::{Map, Value};

use super::containers::{list, text};
use super::job_policies::{pod_failure_policy, success_policy};
use super::job_status;
use super::metadata::{SUBDOMAIN, label_selector, metadata};
use super::names::{label, subdomain};
use super::workload::{counts, pod_template, selected_labels};
use super::{Errors, FieldError, Path};
use crate::defaults::{CONTROLLER_UID_LABELS, JOB_NAME_LABELS};
use crate::object;
use crate::schedule;
use crate::selector::LabelSelector;

const COMPLETION_MODES: &[&str] = &["NonIndexed", "Indexed"];
/// So that the lists of indexes in an indexed job's status stay short.
const INDEXED_LIMIT: i64 = 100_000;
/// Where each index counts its own failures and there are more indexes than the limit.
const MANY_INDEXES_LIMIT: i64 = 10_000;
const MANAGED_BY_LENGTH: usize = 63;
/// A job's name has 63 characters, 11 of which are a dash and the time.
const CRON_JOB_NAME_LENGTH: usize = 52;
const PATH_FORM: &str =
    "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";

pub(super) fn is_indexed(spec: &Value) -> bool {
    spec["completionMode"] == "Indexed"
}

pub(crate) fn job(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    generated_selector(&mut errors, new, old);
    job_spec(&mut errors, spec, &path);
    if spec["selector"].is_null() {
        errors.required(&path.child("selector"), "");
    } else {
        label_selector(&mut errors, &spec["selector"], &path.child("selector"));
    }
    if let Ok(selector) = LabelSelector::from_label_selector(&spec["selector"]) {
        selected_labels(&mut errors, &spec["template"], &selector, &path.child("template"));
    }
    // Pods are called after the job and their index, and their hosts after them.
    if let (true, Some(count @ 1..)) = (is_indexed(spec), spec["completions"].as_i64()) {
        let host = format!("{}-{}", object::name(new), count - 1);
        if !label(&host).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {host}");
            let path = Path::root("metadata").child("name");
            errors.invalid_text(&path, object::name(new), &why);
        }
    }
    if let Some(old) = old {
        update(&mut errors, spec, old, &path);
        if new["status"] != old["status"] {
            job_status::update(&mut errors, new, old);
        }
    }
    errors.into_vec()
}

/// The selector and labels that the server makes must be there, and no others.
fn generated_selector(errors: &mut Errors, job: &Value, old: Option<&Value>) {
    let spec = &job["spec"];
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return;
    }
    let (name, uid) = (object::name(job), object::uid(job));
    if uid.is_empty() {
        errors.required(&Path::root("metadata").child("uid"), "");
    }
    // Jobs from before the labels had a prefix have only those without.
    let prefixed = old.is_none_or(|old| {
        let labels = &old["spec"]["template"]["metadata"]["labels"];
        [JOB_NAME_LABELS[1], CONTROLLER_UID_LABELS[1]].iter().all(|key| labels.get(key).is_some())
    });
    let count = if prefixed { 2 } else { 1 };
    let path = Path::root("spec").child("template").child("metadata").child("labels");
    let labels = &spec["template"]["metadata"]["labels"];
    let pairs = (0..count)
        .flat_map(|index| [(CONTROLLER_UID_LABELS[index], uid), (JOB_NAME_LABELS[index], name)]);
    for (key, value) in pairs.clone() {
        let why = format!("must be '{value}'");
        match labels[key].as_str() {
            None => errors.required(&path.key(key), &why),
            Some(found) if found != value => errors.invalid(&path.key(key), labels, &why),
            Some(_) => {}
        }
    }
    if let Ok(selector) = LabelSelector::from_label_selector(&spec["selector"])
        && !selector.matches(|key| pairs.clone().find(|(own, _)| *own == key).map(|(_, v)| v))
    {
        let path = Path::root("spec").child("selector");
        errors.invalid(&path, &spec["selector"], "`selector` not auto-generated");
    }
}

/// What jobs and the templates of jobs share.
fn job_spec(errors: &mut Errors, spec: &Value, path: &Path) {
    let fields = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    counts(errors, spec, path, &fields);
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        let why = "when maxFailedIndexes is specified";
        errors.required(&path.child("backoffLimitPerIndex"), why);
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        managed_by(errors, manager, &path.child("managedBy"));
    }
    errors.one_of(&path.child("completionMode"), &spec["completionMode"], COMPLETION_MODES);
    if is_indexed(spec) {
        indexed(errors, spec, path);
    } else if matches!(text(spec, "completionMode"), "" | "NonIndexed") {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if !spec[field].is_null() {
                let why = "requires indexed completion mode";
                errors.invalid(&path.child(field), &spec[field], why);
            }
        }
    }
    pod_failure_policy(errors, spec, path);
    success_policy(errors, spec, path);
    let replacement = &spec["podReplacementPolicy"];
    let supported: &[&str] = match spec["podFailurePolicy"].is_null() {
        true => &["Failed", "TerminatingOrFailed"],
        false => &["Failed"],
    };
    errors.one_of(&path.child("podReplacementPolicy"), replacement, supported);
    pod_template(errors, &spec["template"], &path.child("template"));
    restart_policy(errors, spec, path);
}

/// `example.com/name`.
fn managed_by(errors: &mut Errors, manager: &str, path: &Path) {
    if manager.is_empty() {
        errors.required(path, "");
        return;
    }
    match manager.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) {
        None => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.invalid_text(path, manager, why);
        }
        Some((host, rest)) => {
            errors.complain(path, host, subdomain(host));
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !rest.bytes().all(fits) {
                errors.invalid_text(path, rest, PATH_FORM);
            }
        }
    }
    if manager.len() > MANAGED_BY_LENGTH {
        errors.too_long(path, MANAGED_BY_LENGTH);
    }
}

fn indexed(errors: &mut Errors, spec: &Value, path: &Path) {
    let number = |field: &str| spec[field].as_i64();
    let mut at_most = |field: &str, limit: i64, why: &str| {
        if number(field).is_some_and(|number| number > limit) {
            errors.invalid(&path.child(field), &spec[field], why);
        }
    };
    let limit = format!("must be less than or equal to {INDEXED_LIMIT}");
    let why = format!("{limit} when completion mode is Indexed");
    at_most("parallelism", INDEXED_LIMIT, &why);
    if let Some(completions) = number("completions") {
        let why = "must be less than or equal to completions";
        at_most("maxFailedIndexes", completions, why);
    }
    at_most("maxFailedIndexes", INDEXED_LIMIT, &limit);
    let many = number("completions").is_some_and(|completions| completions > INDEXED_LIMIT)
        && number("backoffLimitPerIndex").is_some();
    if many {
        let why = format!(
            "must be less than or equal to {MANY_INDEXES_LIMIT} when completions are above \
             {INDEXED_LIMIT} and used with backoff limit per index"
        );
        at_most("parallelism", MANY_INDEXES_LIMIT, &why);
        at_most("maxFailedIndexes", MANY_INDEXES_LIMIT, &why);
        if number("maxFailedIndexes").is_none() {
            let why = format!("must be specified when completions is above {INDEXED_LIMIT}");
            errors.required(&path.child("maxFailedIndexes"), &why);
        }
    }
    if number("completions").is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
}

/// The pods of a job end; one that is always started again never does.
fn restart_policy(errors: &mut Errors, spec: &Value, path: &Path) {
    let path = path.child("template").child("spec").child("restartPolicy");
    let policy = &spec["template"]["spec"]["restartPolicy"];
    match policy.as_str().unwrap_or_default() {
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if !spec["podFailurePolicy"].is_null() => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(&path, policy, why);
        }
        _ => errors.one_of(&path, policy, &["OnFailure", "Never"]),
    }
}

fn update(errors: &mut Errors, spec: &Value, old: &Value, path: &Path) {
    let before = &old["spec"];
    let completions = &spec["completions"];
    if !is_indexed(spec) {
        errors.immutable(&path.child("completions"), completions, &before["completions"]);
    } else if *completions != before["completions"]
        && !completions.is_null()
        && *completions != spec["parallelism"]
    {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&path.child("completions"), completions, why);
    }
    errors.immutable(&path.child("selector"), &spec["selector"], &before["selector"]);
    template_update(errors, spec, old, path);
    for field in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        errors.immutable(&path.child(field), &spec[field], &before[field]);
    }
}

/// While a job is suspended and none of its pods runs, a queue may say where its pods shall run
/// and what they get.
fn template_update(errors: &mut Errors, spec: &Value, old: &Value, path: &Path) {
    let (template, status) = (&spec["template"], &old["status"]);
    let mut before = old["spec"]["template"].clone();
    let idle = (status["startTime"].is_null() || object::is_true(old, "Suspended"))
        && status["active"].as_i64().unwrap_or(0) == 0;
    let mut path = path.child("template");
    if old["spec"]["suspend"] == true && idle && before.is_object() && before["spec"].is_object() {
        path = path.child("spec");
        for field in ["labels", "annotations"] {
            copy(&mut before, &["metadata", field], &template["metadata"][field]);
        }
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            copy(&mut before, &["spec", field], &template["spec"][field]);
        }
        let affinity =
            with_node_affinity(&before["spec"]["affinity"], &template["spec"]["affinity"]);
        copy(&mut before, &["spec", "affinity"], &affinity);
        for field in ["containers", "initContainers"] {
            let containers = before["spec"].get_mut(field).and_then(Value::as_array_mut);
            take_resources(containers.map_or(&mut [], Vec::as_mut_slice), template, field);
        }
    }
    if before != *template {
        errors.invalid(&path, template, "field is immutable");
    }
}

/// Sets a field of an object within `target`, or removes it.
fn copy(target: &mut Value, [parent, field]: &[&str; 2], value: &Value) {
    if value.is_null() && target[*parent].is_null() {
        return;
    }
    let parent = object::child_mut(target, parent);
    if value.is_null() {
        parent.remove(*field);
    } else {
        parent.insert((*field).to_owned(), value.clone());
    }
}

/// The old affinity with the new one's wishes about nodes.
fn with_node_affinity(old: &Value, new: &Value) -> Value {
    let mut affinity: Map<String, Value> = old.as_object().cloned().unwrap_or_default();
    match new.get("nodeAffinity") {
        Some(wishes) => affinity.insert("nodeAffinity".to_owned(), wishes.clone()),
        None => affinity.remove("nodeAffinity"),
    };
    if affinity.is_empty() && new.is_null() { Value::Null } else { Value::Object(affinity) }
}

fn take_resources(containers: &mut [Value], template: &Value, field: &str) {
    let new = list(&template["spec"], field);
    if containers.len() != new.len() {
        return;
    }
    for (old, new) in containers.iter_mut().zip(new) {
        if old["name"] == new["name"] {
            object::copy(old, new, "resources");
        }
    }
}

pub(crate) fn cron_job(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    if old.is_none() && object::name(new).len() > CRON_JOB_NAME_LENGTH {
        let why = format!("must be no more than {CRON_JOB_NAME_LENGTH} bytes");
        errors.invalid_text(&Path::root("metadata").child("name"), object::name(new), &why);
    }
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let before = old.map(|old| &old["spec"]);
    schedule(&mut errors, spec, before, &path.child("schedule"));
    let fields =
        ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    counts(&mut errors, spec, &path, &fields);
    if let Some(zone) = spec["timeZone"].as_str()
        && before.is_none_or(|before| before["timeZone"] != spec["timeZone"])
    {
        time_zone(&mut errors, zone, &path.child("timeZone"));
    }
    if text(spec, "concurrencyPolicy").is_empty() {
        errors.required(&path.child("concurrencyPolicy"), "");
    } else {
        let supported = &["Allow", "Forbid", "Replace"];
        errors.one_of(&path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], supported);
    }
    let (spec, path) = (&spec["jobTemplate"]["spec"], path.child("jobTemplate").child("spec"));
    job_spec(&mut errors, spec, &path);
    if !spec["selector"].is_null() {
        let why = "`selector` will be auto-generated";
        errors.invalid(&path.child("selector"), &spec["selector"], why);
    }
    if spec["manualSelector"] == true {
        let supported = &["nil", "false"];
        errors.unsupported(&path.child("manualSelector"), &spec["manualSelector"], supported);
    }
    errors.into_vec()
}

fn schedule(errors: &mut Errors, spec: &Value, before: Option<&Value>, path: &Path) {
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        errors.required(path, "");
        return;
    }
    if let Err(why) = schedule::parse(schedule) {
        errors.invalid_text(path, schedule, &why);
    }
    // A zone in the schedule never was meant to work; who has one may keep it.
    let kept = before.is_some_and(|before| text(before, "schedule").contains("TZ"));
    if schedule.contains("TZ") {
        if !kept {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid_text(path, schedule, why);
        } else if !spec["timeZone"].is_null() {
            let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errors.invalid_text(path, schedule, why);
        }
    }
}

/// The form of a zone's name. Whether there is such a zone is not known here.
fn time_zone(errors: &mut Errors, zone: &str, path: &Path) {
    let fits = |part: &str| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b".-_+".contains(&b);
        let form = (1..=14).contains(&part.len()) && part.bytes().all(letter);
        form && !matches!(part, "." | "..") && !part.starts_with('-')
    };
    if zone.is_empty() {
        errors.invalid_text(path, zone, "timeZone must be nil or non-empty string");
    } else if !zone.split('/').all(fits) {
        errors.invalid_text(path, zone, &format!("unknown time zone {zone}"));
    } else if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in \
                   https://www.iana.org/time-zones";
        errors.invalid_text(path, zone, why);
    }
}
