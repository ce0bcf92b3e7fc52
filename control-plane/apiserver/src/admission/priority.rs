//! Priority classes: what its class makes of a new pod, and that two are not the default.
//!
//! Guarantees: the default is looked for among all classes when one of them changes, not for each
//! pod.

use super::Taken;
use crate::objects::Place;
use crate::watch::{Cache, Caches, Filter, Object};
use bowline_api::object;
use bowline_api::resource::find;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::{Arc, PoisonError};
use tokio::sync::Mutex;

/// Of a pod without a class.
const NO_PRIORITY: i64 = 0;
const PREEMPTS: &str = "PreemptLowerPriority";

fn classes(caches: &Caches) -> Option<&Cache> {
    Some(caches.of(find("scheduling.k8s.io", "v1", "priorityclasses")?))
}

/// The class of pods that name none: of several, which old stores may have, the lowest.
fn default_of(classes: &Cache) -> Option<Arc<Object>> {
    let all = classes.list(&Filter::default(), None, None).objects;
    let defaults = all.into_iter().filter(|class| class.value["globalDefault"] == true);
    defaults.min_by_key(|class| class.value["value"].as_i64())
}

/// The class that is the default.
#[derive(Default)]
pub(super) struct DefaultClass {
    /// Held by who makes a class the default, until that is visible.
    taking: Arc<Mutex<()>>,
    found: std::sync::Mutex<Found>,
}

/// What was the default when the classes were as they were in an edition.
#[derive(Default)]
struct Found {
    edition: Option<u64>,
    class: Option<Arc<Object>>,
}

impl DefaultClass {
    fn current(&self, classes: &Cache) -> Option<Arc<Object>> {
        // Before the classes are read: what changes meanwhile is looked for once more.
        let edition = Some(classes.edition());
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.edition != edition {
            *found = Found { edition, class: default_of(classes) };
        }
        found.class.clone()
    }

    /// Gives a new pod what its class says.
    pub(super) fn resolve(
        &self,
        caches: &Caches,
        place: &Place,
        pod: &mut Value,
    ) -> Result<(), Status> {
        let Some(classes) = classes(caches) else { return Ok(()) };
        let refused = |pod: &Value, cause: String| {
            Err(Status::forbidden(place.resource, object::name(pod), &cause))
        };
        let named = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
        let class = match named {
            "" => self.current(classes),
            named => match classes.get(named) {
                None => {
                    return refused(pod, format!("no PriorityClass with name {named} was found"));
                }
                found => found,
            },
        };
        let of = |field: &str| class.as_ref().map_or(&Value::Null, |class| &class.value[field]);
        let priority = of("value").as_i64().unwrap_or(NO_PRIORITY);
        let policy = of("preemptionPolicy").as_str().unwrap_or(PREEMPTS).to_owned();
        let said = &pod["spec"];
        if let Some(said) = said["priority"].as_i64().filter(|said| *said != priority) {
            let cause = format!(
                "the integer value of priority ({said}) must not be provided in pod spec; priority \
                 admission controller computed {priority} from the given PriorityClass name"
            );
            return refused(pod, cause);
        }
        if let Some(said) = said["preemptionPolicy"].as_str().filter(|said| *said != policy) {
            let cause = format!(
                "the string value of PreemptionPolicy ({said}) must not be provided in pod spec; \
                 priority admission controller computed {policy} from the given PriorityClass name"
            );
            return refused(pod, cause);
        }
        let spec = &mut pod["spec"];
        if let Some(class) = class {
            spec["priorityClassName"] = Value::from(class.key.as_str());
        }
        spec["priority"] = Value::from(priority);
        spec["preemptionPolicy"] = Value::from(policy);
        Ok(())
    }

    /// Refuses a class that would be the default beside another.
    pub(super) async fn take(
        &self,
        caches: &Caches,
        place: &Place,
        class: &Value,
    ) -> Result<Option<Taken>, Status> {
        if class["globalDefault"] != true {
            return Ok(None);
        }
        let taken = self.taking.clone().lock_owned().await;
        let other = classes(caches).and_then(default_of).filter(|other| other.key != place.key());
        let Some(other) = other else { return Ok(Some(Box::new(taken))) };
        let name = &other.key;
        let cause = format!(
            "PriorityClass {name} is already marked as default. Only one default can exist"
        );
        Err(Status::forbidden(place.resource, object::name(class), &cause))
    }
}
