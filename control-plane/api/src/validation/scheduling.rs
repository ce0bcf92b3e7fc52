//! Priority classes and runtime classes.

use std::collections::HashSet;

use serde_json::Value;

use super::containers::{list, text};
use super::metadata::{SUBDOMAIN, labels, metadata};
use super::names::label;
use super::pod::overhead;
use super::tolerations::tolerations;
use super::{Errors, FieldError, Path};
use crate::object;

const SYSTEM_PREFIX: &str = "system-";
/// The priority classes of the system, and their values.
pub const SYSTEM_PRIORITY_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
/// What is above is the system's.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

pub(crate) fn priority_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let policy = Path::root("preemptionPolicy");
    if let Some(old) = old {
        if new["value"] != old["value"] {
            errors.forbidden(&Path::root("value"), "may not be changed in an update.");
        }
        errors.immutable(&policy, &new["preemptionPolicy"], &old["preemptionPolicy"]);
        return errors.into_vec();
    }
    let value = new["value"].as_i64().unwrap_or(0);
    if object::name(new).starts_with(SYSTEM_PREFIX) {
        if let Err(why) = known_system_class(new, value) {
            let why = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use \
                 only. error: {why}"
            );
            errors.forbidden(&Path::root("metadata").child("name"), &why);
        }
    } else if value > HIGHEST_PRIORITY {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        errors.forbidden(&Path::root("value"), &why);
    }
    if new["preemptionPolicy"] == "" {
        errors.required(&policy, "");
    } else {
        errors.one_of(&policy, &new["preemptionPolicy"], &["PreemptLowerPriority", "Never"]);
    }
    errors.into_vec()
}

fn known_system_class(class: &Value, value: i64) -> Result<(), String> {
    let name = object::name(class);
    match SYSTEM_PRIORITY_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Err(format!("{name} is not a known system priority class")),
        Some((_, own)) if *own != value => {
            Err(format!("value of {name} PriorityClass must be {own}"))
        }
        Some(_) if class["globalDefault"] == true => {
            Err(format!("globalDefault of {name} PriorityClass must be false"))
        }
        Some(_) => Ok(()),
    }
}

pub(crate) fn runtime_class(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata(&mut errors, new, old, false, SUBDOMAIN);
    let path = Path::root("handler");
    if let Some(old) = old {
        errors.immutable(&path, &new["handler"], &old["handler"]);
        return errors.into_vec();
    }
    let handler = text(new, "handler");
    errors.complain(&path, handler, label(handler));
    overhead(&mut errors, &new["overhead"]["podFixed"], &Path::root("overhead"));
    let (scheduling, path) = (&new["scheduling"], Path::root("scheduling"));
    labels(&mut errors, &scheduling["nodeSelector"], &path.child("nodeSelector"));
    // Kubernetes names the field twice where a toleration is wrong by itself.
    let path = path.child("tolerations");
    tolerations(&mut errors, scheduling, &path);
    let mut seen = HashSet::new();
    for (index, one) in list(scheduling, "tolerations").iter().enumerate() {
        if !seen.insert(["key", "operator", "value", "effect"].map(|field| text(one, field))) {
            errors.duplicate(&path.index(index), one);
        }
    }
    errors.into_vec()
}
