//! Volumes of a pod spec.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{list, text};
use super::names::label;
use super::{Errors, Path};

/// Checks the volumes and returns their names.
pub(super) fn volumes<'a>(errors: &mut Errors, spec: &'a Value, path: &Path) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.child("volumes").index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.complain(&path.child("name"), name, label(name));
            if !names.insert(name) {
                errors.duplicate(&path.child("name"), &volume["name"]);
            }
        }
        source(errors, volume, &path);
    }
    names
}

fn source(errors: &mut Errors, volume: &Value, path: &Path) {
    let map = volume.as_object().into_iter().flatten();
    let sources = map.filter(|(field, value)| *field != "name" && !value.is_null());
    let mut count = 0;
    for (field, source) in sources {
        count += 1;
        let path = path.child(field);
        if count > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        let required = match field.as_str() {
            "hostPath" => "path",
            "configMap" => "name",
            "secret" => "secretName",
            "persistentVolumeClaim" => "claimName",
            _ => continue,
        };
        if text(source, required).is_empty() {
            errors.required(&path.child(required), "");
        }
        for (index, item) in list(source, "items").iter().enumerate() {
            item_path(errors, item, &path.child("items").index(index));
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn item_path(errors: &mut Errors, item: &Value, path: &Path) {
    if text(item, "key").is_empty() {
        errors.required(&path.child("key"), "");
    }
    let target = text(item, "path");
    if target.is_empty() {
        errors.required(&path.child("path"), "");
    } else if target.starts_with('/') {
        errors.invalid_text(&path.child("path"), target, "must be a relative path");
    } else if target.split('/').any(|part| part == "..") {
        errors.invalid_text(&path.child("path"), target, "must not contain '..'");
    }
}
