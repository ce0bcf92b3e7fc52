//! The containers of a pod: what all have in common, and what each of the three lists asks for.
//!
//! Guarantees: problems come in the order of the lists, and of one container in the order in which
//! Kubernetes looks at its fields.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

use super::names::{label, port, port_name};
use super::{Errors, Path, environment, mounts, probes, requirements, security};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const RESTART_ACTIONS: &[&str] = &["Restart", "RestartAllContainers"];
const RESTART_RULES: usize = 20;
const EXIT_CODES: usize = 255;
const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
/// What a container that somebody adds to a running pod cannot have.
const NEVER_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];
const EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

pub(super) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The pod that a container is in, as far as the container depends on it.
pub(super) struct Surroundings<'a> {
    pub(super) spec: &'a Value,
    /// The volumes that are in order, by name.
    pub(super) volumes: HashMap<&'a str, &'a Value>,
    /// The names of the pod's resource claims.
    pub(super) claims: BTreeSet<&'a str>,
}

/// Calls `visit` with every container of a pod spec and its path.
pub(super) fn each(spec: &Value, path: &Path, mut visit: impl FnMut(&Value, &Path)) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            visit(container, &path.child(field).index(index));
        }
    }
}

/// Whether a container runs beside the others although it is started before them.
pub(super) fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

pub(super) fn containers(errors: &mut Errors, around: &Surroundings<'_>, path: &Path) {
    regular(errors, around, &path.child("containers"));
    initial(errors, around, &path.child("initContainers"));
    ephemeral(errors, around, &path.child("ephemeralContainers"));
}

fn regular(errors: &mut Errors, around: &Surroundings<'_>, path: &Path) {
    let all = list(around.spec, "containers");
    if all.is_empty() {
        errors.required(path, "");
    }
    let mut names = HashSet::new();
    for (index, container) in all.iter().enumerate() {
        let path = path.index(index);
        common(errors, container, around, &path);
        let name = text(container, "name");
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), &Value::from(name));
        }
        probes::probes(errors, container, around.spec, &path);
        restarts(errors, container, &path);
    }
    host_ports(errors, all.iter().enumerate(), path);
}

fn initial(errors: &mut Errors, around: &Surroundings<'_>, path: &Path) {
    let regular = list(around.spec, "containers").iter();
    let mut names: HashSet<&str> = regular.map(|container| text(container, "name")).collect();
    for (index, container) in list(around.spec, "initContainers").iter().enumerate() {
        let path_of_one = path.index(index);
        common(errors, container, around, &path_of_one);
        initial_restarts(errors, container, &path_of_one);
        let name = text(container, "name");
        if names.contains(name) {
            errors.duplicate(&path_of_one.child("name"), &Value::from(name));
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one after the other.
        host_ports(errors, std::iter::once((index, container)), path);
        if is_sidecar(container) {
            probes::probes(errors, container, around.spec, &path_of_one);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !container[field].is_null() {
                errors.forbidden(&path_of_one.child(field), ONLY_SIDECARS);
            }
        }
        for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
            if policy["restartPolicy"] == "RestartContainer" {
                let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                let path = path_of_one.child("resizePolicy").index(index).child("restartPolicy");
                errors.invalid(&path, &policy["restartPolicy"], why);
            }
        }
    }
}

fn ephemeral(errors: &mut Errors, around: &Surroundings<'_>, path: &Path) {
    let lists = ["containers", "initContainers"].into_iter();
    let targets: HashSet<&str> = lists
        .flat_map(|field| list(around.spec, field))
        .map(|container| text(container, "name"))
        .collect();
    let mut names = targets.clone();
    for (index, container) in list(around.spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        common(errors, container, around, &path);
        image_of_pod(errors, container, &path);
        let name = text(container, "name");
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), &Value::from(name));
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !targets.contains(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        for field in NEVER_EPHEMERAL.iter().filter(|field| is_set(&container[**field])) {
            errors.forbidden(&path.child(field), EPHEMERAL);
        }
        for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    let path = path.child("volumeMounts").index(index).child(field);
                    errors.forbidden(&path, EPHEMERAL);
                }
            }
        }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !Map::is_empty(map),
        _ => true,
    }
}

fn common(errors: &mut Errors, container: &Value, around: &Surroundings<'_>, path: &Path) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.complain(&path.child("name"), name, label(name));
    }
    if text(container, "image").is_empty() {
        errors.required(&path.child("image"), "");
    }
    let policy = "terminationMessagePolicy";
    errors.required_one_of(&path.child(policy), &container[policy], MESSAGE_POLICIES);
    ports(errors, container, path);
    environment::variables(errors, container, path);
    environment::sources(errors, container, path);
    mounts::mounts(errors, container, around, path);
    mounts::devices(errors, container, around, path);
    pull_policy(errors, &container["imagePullPolicy"], &path.child("imagePullPolicy"));
    let (resources, path_of_resources) = (&container["resources"], path.child("resources"));
    requirements::requirements(errors, resources, &around.claims, &path_of_resources);
    requirements::resize_policy(errors, container, around.spec, path);
    security::of_container(errors, container, around.spec, path);
}

pub(super) fn pull_policy(errors: &mut Errors, policy: &Value, path: &Path) {
    errors.required_one_of(path, policy, PULL_POLICIES);
}

/// Templates may have blanks around an image's name, for tools that fill it in; pods may not.
pub(super) fn image_of_pod(errors: &mut Errors, container: &Value, path: &Path) {
    let image = text(container, "image");
    if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.invalid_text(&path.child("image"), image, why);
    }
}

fn ports(errors: &mut Errors, container: &Value, path: &Path) {
    let mut names = HashSet::new();
    for (index, one) in list(container, "ports").iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = text(one, "name");
        let complaints = if name.is_empty() { Vec::new() } else { port_name(name) };
        if !name.is_empty() && complaints.is_empty() && !names.insert(name) {
            errors.duplicate(&path.child("name"), &one["name"]);
        }
        errors.complain(&path.child("name"), name, complaints);
        if one["containerPort"].as_i64().unwrap_or(0) == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            errors.within(&path.child("containerPort"), &one["containerPort"], 1, 65_535);
        }
        // Zero is none.
        errors.within(&path.child("hostPort"), &zero_as_null(&one["hostPort"]), 1, 65_535);
        errors.required_one_of(&path.child("protocol"), &one["protocol"], PROTOCOLS);
    }
}

fn zero_as_null(value: &Value) -> Value {
    if *value == 0 { Value::Null } else { value.clone() }
}

/// Two containers of a pod cannot have the same port of the host.
fn host_ports<'a>(
    errors: &mut Errors,
    containers: impl Iterator<Item = (usize, &'a Value)>,
    path: &Path,
) {
    let mut taken = HashSet::new();
    for (index, container) in containers {
        for (port_index, one) in list(container, "ports").iter().enumerate() {
            let Some(number) = one["hostPort"].as_i64().filter(|number| *number != 0) else {
                continue;
            };
            let key = format!("{}/{}/{number}", text(one, "protocol"), text(one, "hostIP"));
            let shown = Value::from(key.as_str());
            if !taken.insert(key) {
                let path = path.index(index).child("ports").index(port_index);
                errors.duplicate(&path.child("hostPort"), &shown);
            }
        }
    }
}

fn initial_restarts(errors: &mut Errors, container: &Value, path: &Path) {
    if container["restartPolicy"].is_null() {
        if !list(container, "restartPolicyRules").is_empty() {
            unruled(errors, path);
        }
        return;
    }
    restarts(errors, container, path);
}

fn unruled(errors: &mut Errors, path: &Path) {
    let why = "must specify restartPolicy when restart rules are used";
    errors.required(&path.child("restartPolicy"), why);
}

/// When a container alone is started again, whatever the pod's policy.
fn restarts(errors: &mut Errors, container: &Value, path: &Path) {
    let (policy, rules) = (&container["restartPolicy"], list(container, "restartPolicyRules"));
    if policy.is_null() && !rules.is_empty() {
        unruled(errors, path);
    }
    errors.one_of(&path.child("restartPolicy"), policy, RESTART_POLICIES);
    let path = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES {
        errors.too_many(&path, rules.len(), RESTART_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        if !RESTART_ACTIONS.contains(&text(rule, "action")) {
            let action = Value::from(text(rule, "action"));
            errors.unsupported(&path.child("action"), &action, RESTART_ACTIONS);
        }
        let (codes, path) = (&rule["exitCodes"], path.child("exitCodes"));
        if codes.is_null() {
            errors.required(&path, "must be specified");
            continue;
        }
        if !["In", "NotIn"].contains(&text(codes, "operator")) {
            let operator = Value::from(text(codes, "operator"));
            errors.unsupported(&path.child("operator"), &operator, &["In", "NotIn"]);
        }
        let count = list(codes, "values").len();
        if count > EXIT_CODES {
            errors.too_many(&path.child("values"), count, EXIT_CODES);
        }
    }
}

/// A port's number, or the name of one.
pub(super) fn port_or_name(errors: &mut Errors, value: &Value, path: &Path) {
    let complaints = match value {
        Value::String(name) => port_name(name),
        value => port(value.as_i64().unwrap_or(0)),
    };
    for why in complaints {
        errors.invalid(path, value, &why);
    }
}
