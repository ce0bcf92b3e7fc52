//! Storage classes, volume attachments, and what storage drivers say of themselves.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::containers::{list, text};
use super::equality::same;
use super::metadata::{SUBDOMAIN, label_selector, metadata};
use super::names::{qualified_name, subdomain};
use super::persistent_volumes::inline_volume;
use super::volume_sources::csi_driver_name;
use super::{Errors, FieldError, Path};
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

const PARAMETERS: usize = 512;
const PARAMETERS_SIZE: usize = 256 * 1024;
const METADATA_SIZE: usize = 256 * 1024;
const ERROR_SIZE: usize = 1024;
const NODE_ID_LENGTH: usize = 256;
const TOKEN_SECONDS: i64 = 600;
const IMMUTABLE: &str = "field is immutable";

pub(crate) fn storage_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let provisioner = text(new, "provisioner");
    let path = Path::root("provisioner");
    if provisioner.is_empty() {
        errors.required(&path, "");
    } else {
        errors.complain(&path, provisioner, qualified_name(&provisioner.to_lowercase()));
    }
    parameters(&mut errors, &new["parameters"]);
    for (field, choices) in [
        ("reclaimPolicy", &["Delete", "Retain"]),
        ("volumeBindingMode", &["Immediate", "WaitForFirstConsumer"]),
    ] {
        errors.one_of(&Path::root(field), &new[field], choices);
    }
    topologies(&mut errors, list(new, "allowedTopologies"));
    if let Some(old) = old {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
            let both_empty = (new[field].is_null() || empty(&new[field]))
                && (old[field].is_null() || empty(&old[field]));
            if new[field] != old[field] && !both_empty {
                errors.forbidden(&Path::root(field), &format!("updates to {field} are forbidden."));
            }
        }
        let field = "volumeBindingMode";
        errors.immutable(&Path::root(field), &new[field], &old[field]);
    }
    errors.into_vec()
}

fn parameters(errors: &mut Errors, parameters: &Value) {
    let path = Path::root("parameters");
    let Some(map) = parameters.as_object() else { return };
    if map.len() > PARAMETERS {
        errors.too_long(&path, PARAMETERS);
        return;
    }
    if map.contains_key("") {
        errors.invalid_text(&path, "", "field can not be empty.");
    }
    let size: usize = map.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > PARAMETERS_SIZE {
        errors.too_long(&path, PARAMETERS_SIZE);
    }
}

fn topologies(errors: &mut Errors, terms: &[Value]) {
    let mut seen: Vec<HashMap<&str, HashSet<&str>>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let path = Path::root("allowedTopologies").index(index).child("matchLabelExpressions");
        let expressions = list(term, "matchLabelExpressions");
        if expressions.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let mut allowed = HashMap::new();
        for (index, one) in expressions.iter().enumerate() {
            let path = path.index(index);
            let key = text(one, "key");
            let values = distinct(errors, list(one, "values"), &path.child("values"));
            errors.complain(&path.child("key"), key, qualified_name(key));
            if allowed.insert(key, values).is_some() {
                errors.duplicate(&path.child("key"), &one["key"]);
            }
        }
        if seen.contains(&allowed) {
            errors.duplicate(&path, &Value::from(""));
        }
        seen.push(allowed);
    }
}

fn distinct<'a>(errors: &mut Errors, values: &'a [Value], path: &Path) -> HashSet<&'a str> {
    let mut all = HashSet::new();
    if values.is_empty() {
        errors.required(path, "");
    }
    for (index, value) in values.iter().enumerate() {
        if !all.insert(value.as_str().unwrap_or_default()) {
            errors.duplicate(&path.index(index), value);
        }
    }
    all
}

pub(crate) fn volume_attachment(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let attacher = text(spec, "attacher");
    if attacher.is_empty() {
        errors.required(&path.child("attacher"), "");
    }
    attached_volume(&mut errors, &spec["source"], &path.child("source"));
    let node = text(spec, "nodeName");
    errors.complain(&path.child("nodeName"), node, subdomain(node));
    attachment_status(&mut errors, &new["status"], &Path::root("status"));
    match old {
        // Attachments from before these rules could not go away if an update had to keep them.
        None => {
            if !attacher.is_empty() {
                csi_driver_name(&mut errors, attacher, &path.child("attacher"));
            }
            let volume = text(&spec["source"], "persistentVolumeName");
            if !volume.is_empty() {
                let path = path.child("source").child("persistentVolumeName");
                errors.complain(&path, volume, subdomain(volume));
            }
        }
        Some(old) if !same(spec, &old["spec"]) => errors.invalid(&path, spec, IMMUTABLE),
        Some(_) => {}
    }
    errors.into_vec()
}

fn attached_volume(errors: &mut Errors, source: &Value, path: &Path) {
    let (inline, name) = (&source["inlineVolumeSpec"], &source["persistentVolumeName"]);
    let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_null(), name.is_null()) {
        (true, true) => errors.required(path, why),
        (false, false) => errors.forbidden(path, why),
        (true, false) if name == "" => {
            let why = "must specify non empty persistentVolumeName";
            errors.required(&path.child("persistentVolumeName"), why);
        }
        (true, false) => {}
        (false, true) => inline_volume(errors, inline, &path.child("inlineVolumeSpec")),
    }
}

fn attachment_status(errors: &mut Errors, status: &Value, path: &Path) {
    let facts = status["attachmentMetadata"].as_object().into_iter().flatten();
    let size: usize = facts.map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > METADATA_SIZE {
        errors.too_long(&path.child("attachmentMetadata"), METADATA_SIZE);
    }
    for field in ["attachError", "detachError"] {
        let (error, path) = (&status[field], path.child(field));
        if text(error, "message").len() > ERROR_SIZE {
            errors.too_long(&path.child("message"), ERROR_SIZE);
        }
        if error["errorCode"].as_i64().is_some_and(|code| code < 0) {
            let why = "must be between 0 and 2147483647, inclusive";
            errors.invalid(&path.child("errorCode"), &error["errorCode"], why);
        }
    }
}

pub(crate) fn csi_driver(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    let policies = &["File", "None", "ReadWriteOnceWithFSType"];
    errors.one_of(&path.child("fsGroupPolicy"), &spec["fsGroupPolicy"], policies);
    token_requests(&mut errors, spec, &path);
    for mode in list(spec, "volumeLifecycleModes") {
        let path = path.child("volumeLifecycleModes");
        errors.one_of(&path, mode, &["Persistent", "Ephemeral"]);
    }
    let period = &spec["nodeAllocatableUpdatePeriodSeconds"];
    if period.as_i64().is_some_and(|seconds| seconds < 10) {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&path, period, "must be greater than or equal to 10 seconds");
    }
    let in_secrets = &spec["serviceAccountTokenInSecrets"];
    if !in_secrets.is_null() && list(spec, "tokenRequests").is_empty() {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets, why);
    }
    if let Some(old) = old {
        // Clients know the first one's problems under this name.
        for (field, shown) in [
            ("attachRequired", "attachedRequired"),
            ("volumeLifecycleModes", "volumeLifecycleModes"),
        ] {
            errors.immutable(&path.child(shown), &spec[field], &old["spec"][field]);
        }
    }
    errors.into_vec()
}

fn token_requests(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut audiences = HashSet::new();
    for (index, request) in list(spec, "tokenRequests").iter().enumerate() {
        let path = path.child("tokenRequests").index(index);
        let audience = text(request, "audience");
        if !audiences.insert(audience) {
            errors.duplicate(&path.child("audience"), &Value::from(audience));
            continue;
        }
        let expiry = &request["expirationSeconds"];
        let why = match expiry.as_i64() {
            Some(seconds) if seconds < TOKEN_SECONDS => {
                "may not specify a duration less than 10 minutes"
            }
            Some(seconds) if seconds > 1 << 32 => {
                "may not specify a duration larger than 2^32 seconds"
            }
            _ => continue,
        };
        errors.invalid(&path.child("expirationSeconds"), expiry, why);
    }
}

pub(crate) fn csi_node(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let path = Path::root("spec").child("drivers");
    let drivers = list(&new["spec"], "drivers");
    let mut names = HashSet::new();
    for (index, driver) in drivers.iter().enumerate() {
        let path = path.index(index);
        let name = text(driver, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        csi_driver_name(&mut errors, name, &path.child("name"));
        node_driver(&mut errors, driver, &path);
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), &driver["name"]);
        }
    }
    // How many volumes fit may change; a driver that says another thing of itself is a new one.
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        if let Some(map) = driver.as_object_mut() {
            map.remove("allocatable");
        }
        driver
    };
    for before in list(old.map_or(&Value::Null, |old| &old["spec"]), "drivers") {
        for now in drivers.iter().filter(|now| now["name"] == before["name"]) {
            if !same(&fixed(now), &fixed(before)) {
                errors.invalid(&path, &fixed(now), IMMUTABLE);
            }
        }
    }
    errors.into_vec()
}

fn node_driver(errors: &mut Errors, driver: &Value, path: &Path) {
    let id = text(driver, "nodeID");
    if id.is_empty() {
        errors.required(&path.child("nodeID"), "");
    } else if id.len() > NODE_ID_LENGTH {
        let why = format!("must be {NODE_ID_LENGTH} characters or less");
        errors.invalid_text(&path.child("nodeID"), id, &why);
    }
    let count = &driver["allocatable"]["count"];
    errors.non_negative(&path.child("allocatable").child("count"), count);
    let mut keys = HashSet::new();
    for key in list(driver, "topologyKeys").iter().filter_map(Value::as_str) {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !keys.insert(key) {
            errors.duplicate(path, &Value::from(key));
        }
        errors.complain(path, key, qualified_name(key));
    }
}

pub(crate) fn csi_storage_capacity(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, true, SUBDOMAIN);
    let path = Path::root("nodeTopology");
    label_selector(&mut errors, &new["nodeTopology"], &path);
    let class = text(new, "storageClassName");
    errors.complain(&Path::root("storageClassName"), class, subdomain(class));
    let capacity = parse_quantity(&new["capacity"]).ok();
    if let Some(amount) = capacity.filter(|amount: &Quantity| amount.is_negative()) {
        let why = "must be greater than or equal to 0";
        errors.invalid_text(&Path::root("capacity"), &amount.to_string(), why);
    }
    // They are the question that the capacity answers.
    if let Some(old) = old {
        if !same(&new["nodeTopology"], &old["nodeTopology"]) {
            errors.invalid(&path, &new["nodeTopology"], IMMUTABLE);
        }
        let field = "storageClassName";
        errors.immutable(&Path::root(field), &new[field], &old[field]);
    }
    errors.into_vec()
}
