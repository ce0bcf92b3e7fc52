//! Limit ranges: what the containers of a new pod ask for when they do not say, and what pods and
//! claims may ask for.
//!
//! Guarantees: what is admitted keeps to every limit range of its namespace. A pod is looked at
//! when it is made and when it is resized; a claim with each of its updates.
//! What is on its way out may change as it likes.

use crate::objects::Place;
use crate::watch::{Caches, Filter, Object};
use bowline_api::amounts::{self, Amounts};
use bowline_api::object;
use bowline_api::quantity::Quantity;
use bowline_api::resource::find;
use bowline_api::status::Status;
use serde_json::{Map, Value, json};
use std::sync::Arc;

const CONTAINER: &str = "Container";
const POD: &str = "Pod";
const CLAIM: &str = "PersistentVolumeClaim";
/// Where a pod tells what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn ranges(caches: &Caches, place: &Place) -> Vec<Arc<Object>> {
    let Some(resource) = find("", "v1", "limitranges") else { return Vec::new() };
    let filter = Filter { namespace: place.namespace.clone(), ..Filter::default() };
    caches.of(resource).list(&filter, None, None).objects
}

/// The items of a limit range that are of a type.
fn items<'a>(range: &'a Object, of: &'a str) -> impl Iterator<Item = &'a Value> {
    let items = range.value["spec"]["limits"].as_array().into_iter().flatten();
    items.filter(move |item| item["type"] == of)
}

/// Fills in what the containers of a new pod leave out. The answer is whether there was anything.
pub(super) fn fill(caches: &Caches, place: &Place, pod: &mut Value) -> bool {
    let mut filled = false;
    for range in ranges(caches, place) {
        let (mut requests, mut limits) = (Map::new(), Map::new());
        for item in items(&range, CONTAINER) {
            for (from, into) in [("defaultRequest", &mut requests), ("default", &mut limits)] {
                into.extend(item[from].as_object().cloned().unwrap_or_default());
            }
        }
        let mut told = Vec::new();
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                told.extend(fill_container(container, what, &requests, &limits));
            }
        }
        if !told.is_empty() {
            let told = format!("LimitRanger plugin set: {}", told.join("; "));
            pod["metadata"]["annotations"][ANNOTATION] = Value::from(told);
            filled = true;
        }
    }
    filled
}

/// What was filled in, in words.
fn fill_container(
    container: &mut Value,
    what: &str,
    requests: &Map<String, Value>,
    limits: &Map<String, Value>,
) -> Vec<String> {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    let mut told = Vec::new();
    for (field, word, defaults) in [("requests", "request", requests), ("limits", "limit", limits)]
    {
        let missing = |amounts: &Value, key: &str| amounts.get(key).is_none();
        let amounts = &container["resources"][field];
        let set: Vec<&String> = defaults.keys().filter(|key| missing(amounts, key)).collect();
        if set.is_empty() {
            continue;
        }
        let words: Vec<&str> = set.iter().map(|key| key.as_str()).collect();
        told.push(format!("{} {word} for {what} {name}", words.join(", ")));
        let amounts = &mut container["resources"][field];
        if !amounts.is_object() {
            *amounts = json!({});
        }
        for key in set {
            amounts[key.as_str()] = defaults[key].clone();
        }
    }
    told
}

/// Holds a valid pod or claim against the limit ranges of its namespace.
pub(super) fn check(
    caches: &Caches,
    place: &Place,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if old.is_some_and(|old| object::deletion_timestamp(old).is_some()) {
        return Ok(());
    }
    for range in ranges(caches, place) {
        let found = match place.resource.plural {
            "pods" => pod_problems(&range, new),
            _ => claim_problems(&range, new),
        };
        let mut problems: Vec<String> = Vec::new();
        for problem in found {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        let cause = match problems.as_slice() {
            [] => continue,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        return Err(Status::forbidden(place.resource, object::name(new), &cause));
    }
    Ok(())
}

fn pod_problems(range: &Object, pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut problems = Vec::new();
    for item in items(range, CONTAINER) {
        let lists = [&spec["containers"], &spec["initContainers"]];
        for container in lists.into_iter().filter_map(Value::as_array).flatten() {
            let asked = |field: &str| amounts::read(&container["resources"][field]);
            let (requests, limits) = (asked("requests"), asked("limits"));
            problems.extend(Asked { of: CONTAINER, requests, limits }.problems(item));
        }
    }
    for item in items(range, POD) {
        let requests = amounts::of_pod(spec, "requests");
        let limits = amounts::of_pod(spec, "limits");
        problems.extend(Asked { of: POD, requests, limits }.problems(item));
    }
    problems
}

fn claim_problems(range: &Object, claim: &Value) -> Vec<String> {
    let requests = amounts::read(&claim["spec"]["resources"]["requests"]);
    let asked = Asked { of: CLAIM, requests, limits: Amounts::new() };
    let mut problems = Vec::new();
    for item in items(range, CLAIM) {
        let (min, max) = (amounts::read(&item["min"]), amounts::read(&item["max"]));
        problems.extend(min.iter().filter_map(|(name, least)| asked.below(name, *least)));
        problems.extend(max.iter().filter_map(|(name, most)| asked.requests_above(name, *most)));
    }
    problems
}

/// What is asked for of each resource, and by which kind of thing.
struct Asked {
    of: &'static str,
    requests: Amounts,
    limits: Amounts,
}

impl Asked {
    fn problems(&self, item: &Value) -> Vec<String> {
        type Check = fn(&Asked, &str, Quantity) -> Option<String>;
        let checks: [(&str, Check); 3] = [
            ("min", Self::below),
            ("max", Self::above),
            ("maxLimitRequestRatio", Self::too_far_apart),
        ];
        let mut problems = Vec::new();
        for (bound, check) in checks {
            let bounds = amounts::read(&item[bound]).into_iter();
            problems.extend(bounds.filter_map(|(name, enforced)| check(self, &name, enforced)));
        }
        problems
    }

    fn below(&self, name: &str, least: Quantity) -> Option<String> {
        let head = format!("minimum {name} usage per {} is {least}", self.of);
        let Some(request) = self.requests.get(name) else {
            return Some(format!("{head}.  No request is specified"));
        };
        if *request < least {
            return Some(format!("{head}, but request is {request}"));
        }
        let limit = self.limits.get(name).filter(|limit| **limit < least)?;
        Some(format!("{head}, but limit is {limit}"))
    }

    fn above(&self, name: &str, most: Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {most}", self.of);
        let Some(limit) = self.limits.get(name) else {
            return Some(format!("{head}.  No limit is specified"));
        };
        if *limit > most {
            return Some(format!("{head}, but limit is {limit}"));
        }
        let request = self.requests.get(name).filter(|request| **request > most)?;
        Some(format!("{head}, but request is {request}"))
    }

    /// Of what has no limits.
    fn requests_above(&self, name: &str, most: Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {most}", self.of);
        match self.requests.get(name) {
            None => Some(format!("{head}.  No request is specified")),
            Some(request) if *request > most => Some(format!("{head}, but request is {request}")),
            Some(_) => None,
        }
    }

    fn too_far_apart(&self, name: &str, most: Quantity) -> Option<String> {
        let head = format!("{name} max limit to request ratio per {} is {most}", self.of);
        let given = |amounts: &Amounts| amounts.get(name).copied().filter(|one| !one.is_zero());
        let Some(request) = given(&self.requests) else {
            return Some(format!("{head}, but no request is specified or request is 0"));
        };
        let Some(limit) = given(&self.limits) else {
            return Some(format!("{head}, but no limit is specified or limit is 0"));
        };
        // Thousandths where they fit, as small amounts would be rounded up to one.
        let fine = [request, limit, most].iter().all(|one| one.units() <= i64::MAX / 1000);
        let number = |amount: Quantity| {
            let whole = if fine { amount.millis() } else { amount.units() };
            whole as f64
        };
        let ratio = number(limit) / number(request);
        let allowed = if fine { number(most) / 1000.0 } else { number(most) };
        (ratio > allowed).then(|| format!("{head}, but provided ratio is {ratio:.6}"))
    }
}
