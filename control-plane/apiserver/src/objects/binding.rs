//! Binding a pod to a node: what the scheduler writes.

use super::{Caller, Objects, Part, Place, check_namespace, check_type, timestamp};
use crate::watch::Object;
use bowline_api::object;
use bowline_api::status::Status;
use serde_json::{Value, json};
use std::time::Duration;

impl Objects {
    /// Assigns the pod at `place` to the node that `binding` names.
    pub(crate) async fn bind(
        &self,
        caller: &mut Caller,
        place: &Place,
        binding: &Value,
    ) -> Result<(), Status> {
        check_type(binding, "v1", "Binding")?;
        check_namespace(place, binding)?;
        let target = &binding["target"];
        let node = target["name"].as_str().unwrap_or_default().to_owned();
        let kind = target["kind"].as_str().unwrap_or("Node");
        if node.is_empty() || kind != "Node" {
            return Err(Status::bad_request(
                "target: a binding must name a target of kind Node".to_owned(),
            ));
        }
        let said = object::name(binding);
        if !said.is_empty() && said != place.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let uid = object::uid(binding).to_owned();
        let annotations = object::annotations(binding).cloned().unwrap_or_default();
        self.catch_up().await?;
        // Status and spec change in one write, so this is no part of an ordinary update.
        let make = |current: &Object| {
            check(place, current, &uid)?;
            let mut value = current.value.clone();
            value["spec"]["nodeName"] = Value::from(node.as_str());
            for (key, annotation) in &annotations {
                value["metadata"]["annotations"][key] = annotation.clone();
            }
            set_scheduled(&mut value);
            Ok(value)
        };
        self.change(caller, place, Part::Binding, &make).await?;
        Ok(())
    }
}

fn check(place: &Place, current: &Object, uid: &str) -> Result<(), Status> {
    let (pod, name) = (&current.value, &place.name);
    let own = object::uid(pod);
    if !uid.is_empty() && uid != own {
        let cause =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(Status::conflict(place.resource, name, &cause));
    }
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    let cause = match pod["spec"]["nodeName"].as_str().unwrap_or_default() {
        _ if object::deletion_timestamp(pod).is_some() => {
            format!("pod {name} is being deleted, cannot be assigned to a host")
        }
        "" if gated => format!("pod {name} has non-empty .spec.schedulingGates"),
        "" => return Ok(()),
        node => format!("pod {name} is already assigned to node \"{node}\""),
    };
    Err(Status::conflict_on(place.resource, "binding", name, &cause))
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": timestamp(Duration::ZERO),
    });
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|condition| condition["type"] != "PodScheduled");
        list.push(condition);
    }
}
