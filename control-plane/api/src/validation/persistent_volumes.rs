//! Persistent volumes, and their specs inside volume attachments.

use serde_json::{Map, Value};

use super::containers::{list, text};
use super::equality::same;
use super::metadata::{SUBDOMAIN, metadata};
use super::names::subdomain;
use super::node_selector::node_selector;
use super::volume_sources::{SOURCES, volume_source};
use super::{Errors, FieldError, Path};
use crate::object;
use crate::schema::parse_quantity;

const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const ONE_POD: &str = "ReadWriteOncePod";
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
pub(super) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const INLINE: &str = "may not be specified in the context of inline volumes";

pub(crate) fn persistent_volume(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let (spec, path) = (&new["spec"], Path::root("spec"));
    access_modes(&mut errors, spec, &path, "");
    capacity(&mut errors, spec, &path);
    let policy = &spec["persistentVolumeReclaimPolicy"];
    errors.one_of(&path.child("persistentVolumeReclaimPolicy"), policy, RECLAIM_POLICIES);
    if !spec["nodeAffinity"].is_null() {
        node_affinity(&mut errors, &spec["nodeAffinity"], &path.child("nodeAffinity"));
    }
    volume_source(&mut errors, spec, &path, object::name(new));
    recycled_root(&mut errors, spec, &path);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        errors.complain(&path.child("storageClassName"), class, subdomain(class));
    }
    errors.one_of(&path.child("volumeMode"), &spec["volumeMode"], VOLUME_MODES);
    attributes_class(&mut errors, spec, &path);
    if let Some(old) = old {
        update(&mut errors, spec, &old["spec"], &path);
    }
    errors.into_vec()
}

/// Checks the spec of a volume that has no object of its own.
pub(super) fn inline_volume(errors: &mut Errors, spec: &Value, path: &Path) {
    for field in ["claimRef", "capacity"] {
        if !(spec[field].is_null() || spec[field].as_object().is_some_and(Map::is_empty)) {
            errors.forbidden(&path.child(field), INLINE);
        }
    }
    if spec["csi"].is_null() {
        let why = "has to be specified in the context of inline volumes";
        errors.required(&path.child("csi"), why);
    }
    access_modes(errors, spec, path, "");
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if !policy.is_empty() && policy != "Retain" {
        let why = "may only be Retain in the context of inline volumes";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), why);
    }
    if !spec["nodeAffinity"].is_null() {
        errors.forbidden(&path.child("nodeAffinity"), INLINE);
    }
    volume_source(errors, spec, path, "");
    recycled_root(errors, spec, path);
    if !text(spec, "storageClassName").is_empty() {
        errors.forbidden(&path.child("storageClassName"), INLINE);
    }
    let mode = &spec["volumeMode"];
    if !mode.is_null() && mode != "Filesystem" {
        let why = "may not specify volumeMode other than Filesystem in the context of inline \
                   volumes";
        errors.forbidden(&path.child("volumeMode"), why);
    }
}

/// Checks the access modes of a volume or a claim; `why` says that there must be some.
pub(super) fn access_modes(errors: &mut Errors, spec: &Value, path: &Path, why: &str) {
    let modes = list(spec, "accessModes");
    let path = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&path, why);
    }
    for mode in modes {
        errors.one_of(&path, mode, ACCESS_MODES);
    }
    let known = |mode: &Value| mode.as_str().is_some_and(|mode| ACCESS_MODES.contains(&mode));
    let one_pod = modes.iter().any(|mode| mode == ONE_POD);
    if one_pod && modes.iter().any(|mode| mode != ONE_POD && known(mode)) {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(errors: &mut Errors, spec: &Value, path: &Path) {
    let capacity = &spec["capacity"];
    let amounts = capacity.as_object();
    let path = path.child("capacity");
    if amounts.is_none_or(Map::is_empty) {
        errors.required(&path, "");
    }
    if capacity.get("storage").is_none() || amounts.is_none_or(|amounts| amounts.len() > 1) {
        errors.unsupported(&path, capacity, &["storage"]);
    }
    for (name, amount) in amounts.into_iter().flatten() {
        let Ok(amount) = parse_quantity(amount) else { continue };
        let path = path.key(name);
        if amount.is_negative() {
            let why = "must be a valid resource quantity";
            errors.invalid(&path, &Value::from(amount.units()), why);
        }
        if amount.is_negative() || amount.is_zero() {
            errors.invalid_text(&path, &amount.to_string(), "must be greater than zero");
        }
    }
}

fn node_affinity(errors: &mut Errors, affinity: &Value, path: &Path) {
    let path = path.child("required");
    if affinity["required"].is_null() {
        errors.required(&path, "must specify required node constraints");
    } else {
        node_selector(errors, &affinity["required"], &path);
    }
}

/// Nobody wants a node's whole disk wiped.
fn recycled_root(errors: &mut Errors, spec: &Value, path: &Path) {
    let host = text(&spec["hostPath"], "path");
    let root = host.starts_with('/') && host.split('/').all(|part| matches!(part, "" | "."));
    if root && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), why);
    }
}

fn attributes_class(errors: &mut Errors, spec: &Value, path: &Path) {
    let Some(class) = spec["volumeAttributesClassName"].as_str() else { return };
    let path_of_class = path.child("volumeAttributesClassName");
    if class.is_empty() {
        errors.required(&path_of_class, "an empty string is disallowed");
    } else {
        errors.complain(&path_of_class, class, subdomain(class));
    }
    if spec["csi"].is_null() {
        let why = "has to be specified when using volumeAttributesClassName";
        errors.required(&path.child("csi"), why);
    }
}

/// What storage a volume is never changes.
fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    let source = |spec: &Value| -> Map<String, Value> {
        let present = SOURCES.iter().filter(|(field, _)| !spec[*field].is_null());
        present.map(|(field, _)| ((*field).to_owned(), spec[*field].clone())).collect()
    };
    let (mut now, before) = (source(new), source(old));
    // The one that may be set later on.
    if old["csi"]["controllerExpandSecretRef"].is_null()
        && old["csi"].is_object()
        && let Some(csi) = now.get_mut("csi").and_then(Value::as_object_mut)
    {
        csi.remove("controllerExpandSecretRef");
    }
    if !same(&Value::Object(now), &Value::Object(before)) {
        let why = "spec.persistentvolumesource is immutable after creation";
        errors.forbidden(&path.child("persistentvolumesource"), why);
    }
    errors.immutable(&Path::root("volumeMode"), &new["volumeMode"], &old["volumeMode"]);
    if !old["nodeAffinity"].is_null() && !same(&new["nodeAffinity"], &old["nodeAffinity"]) {
        let path = Path::root("nodeAffinity");
        errors.invalid(&path, &new["nodeAffinity"], "field is immutable");
    }
    let field = "volumeAttributesClassName";
    if !old[field].is_null() && new[field].is_null() {
        errors.forbidden(&path.child(field), "update from non-nil value to nil is forbidden");
    }
}
