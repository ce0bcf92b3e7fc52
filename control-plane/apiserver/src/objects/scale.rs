//! The scale of an object: `autoscaling/v1` Scale as a view of its replicas.

use super::{Application, Caller, Objects, Part, Place};
use crate::watch::Object;
use bowline_api::object;
use bowline_api::resource::ScalePaths;
use bowline_api::status::Status;
use bowline_api::validation::FieldError;
use serde_json::{Value, json};
use std::sync::Arc;

const SCALE_VERSION: &str = "autoscaling/v1";

impl Objects {
    pub(crate) async fn scale(&self, place: &Place) -> Result<Arc<Object>, Status> {
        let paths = paths(place)?;
        let current = self.get(place).await?;
        Ok(view(place, paths, &current))
    }

    /// Writes the replicas of the scale that `make` makes of the current one.
    pub(crate) async fn change_scale(
        &self,
        caller: &mut Caller,
        place: &Place,
        make: &(dyn Fn(&Object) -> Result<Value, Status> + Sync),
    ) -> Result<Arc<Object>, Status> {
        let paths = paths(place)?;
        let updated = self
            .change(caller, place, Part::Main, &|current| {
                let scale = make(&view(place, paths, current))?;
                let replicas = replicas(place, &scale)?;
                let mut value = place.resource.shown(&current.value).into_owned();
                set(&mut value, paths.spec_replicas, Value::from(replicas));
                let version = object::resource_version(&scale).to_owned();
                object::set_metadata(&mut value, "resourceVersion", &version);
                Ok(value)
            })
            .await?;
        Ok(view(place, paths, &updated))
    }
}

impl Objects {
    /// Applies a scale: what is applied to the object is that it has so many replicas.
    pub(crate) async fn apply_scale(
        &self,
        caller: &mut Caller,
        place: &Place,
        scale: &Value,
        force: bool,
    ) -> Result<Arc<Object>, Status> {
        let paths = paths(place)?;
        let text = |field: &str| scale[field].as_str().unwrap_or_default();
        if (text("apiVersion"), text("kind")) != (SCALE_VERSION, "Scale") {
            return Err(Status::bad_request(format!(
                "invalid object type: {}, Kind={}",
                text("apiVersion"),
                text("kind")
            )));
        }
        let (resource, metadata) = (place.resource, &scale["metadata"]);
        let mut config = json!({
            "apiVersion": resource.api_version(), "kind": resource.kind, "metadata": metadata,
        });
        if !scale["spec"]["replicas"].is_null() {
            set(&mut config, paths.spec_replicas, Value::from(replicas(place, scale)?));
        }
        let application = Application { config: &config, force, may_create: None };
        let (updated, _) = self.apply(caller, place, Part::Main, &application).await?;
        Ok(view(place, paths, &updated))
    }
}

fn paths(place: &Place) -> Result<ScalePaths, Status> {
    place.resource.scale.ok_or_else(Status::unknown_path)
}

fn replicas(place: &Place, scale: &Value) -> Result<i64, Status> {
    let invalid = |detail: String| {
        let field = "spec.replicas".to_owned();
        let error = FieldError { field, reason: "FieldValueInvalid", detail };
        let mut status = Status::invalid(place.resource, &place.name, &[error]);
        status.details["kind"] = json!("Scale");
        status
    };
    match &scale["spec"]["replicas"] {
        Value::Null => Ok(0),
        value => match value.as_i64() {
            Some(replicas) if (0..=i64::from(i32::MAX)).contains(&replicas) => Ok(replicas),
            Some(replicas) => Err(invalid(format!(
                "Invalid value: {replicas}: must be greater than or equal to 0"
            ))),
            None => Err(Status::bad_request(format!("spec.replicas: {value} is not a number"))),
        },
    }
}

fn set(value: &mut Value, pointer: &str, new: Value) {
    let mut place = value;
    for segment in pointer.split('/').filter(|segment| !segment.is_empty()) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[segment];
    }
    *place = new;
}

fn view(place: &Place, paths: ScalePaths, object: &Object) -> Arc<Object> {
    let value = place.resource.shown(&object.value);
    let count = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let metadata = &value["metadata"];
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": SCALE_VERSION,
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": { "replicas": count(paths.spec_replicas) },
        "status": { "replicas": count(paths.status_replicas) },
    });
    let selector = value.pointer(paths.selector).map(selector_text).unwrap_or_default();
    if !selector.is_empty() {
        scale["status"]["selector"] = Value::from(selector);
    }
    Arc::new(Object::new(object.key.clone(), scale, object.revision))
}

/// A selector as a query parameter spells it. Plain maps and `matchLabels` read the same.
fn selector_text(selector: &Value) -> String {
    let structured = selector.get("matchLabels").is_some_and(Value::is_object)
        || selector.get("matchExpressions").is_some_and(Value::is_array);
    let labels = if structured { &selector["matchLabels"] } else { selector };
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    let expressions = selector["matchExpressions"].as_array();
    for expression in expressions.into_iter().flatten().filter(|_| structured) {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}
