//! `meta.k8s.io/v1` tables: what `kubectl get` prints.
//!
//! Guarantees: cells are what Kubernetes prints for the kind, wide columns included; time is an
//! argument. Does not: filter columns; a client hides those with a priority above its own.

mod cells;
mod columns;
mod format;
mod networking;
mod pod;
mod quota;
mod storage;
mod workloads;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::resource::Resource;

pub(crate) use cells::{
    config_map, deployment, endpoint_slice, endpoints, event, lease, namespace, node, replica_set,
    replication_controller, secret, service, service_account,
};
pub(crate) use columns::{
    CONFIG_MAP, DEPLOYMENT, ENDPOINT_SLICE, ENDPOINTS, EVENT, LEASE, NAMESPACE, NODE, POD,
    REPLICA_SET, REPLICATION_CONTROLLER, SECRET, SERVICE, SERVICE_ACCOUNT,
};
pub(crate) use networking::{
    INGRESS, INGRESS_CLASS, IP_ADDRESS, NETWORK_POLICY, SERVICE_CIDR, ingress, ingress_class,
    ip_address, network_policy, service_cidr,
};
pub(crate) use pod::pod;
pub(crate) use quota::{LIMIT_RANGE, RESOURCE_QUOTA, limit_range, resource_quota};
pub(crate) use storage::{
    CSI_DRIVER, CSI_NODE, CSI_STORAGE_CAPACITY, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM,
    STORAGE_CLASS, VOLUME_ATTACHMENT, csi_driver, csi_node, csi_storage_capacity,
    persistent_volume, persistent_volume_claim, storage_class, volume_attachment,
};
pub(crate) use workloads::{
    CONTROLLER_REVISION, CRON_JOB, DAEMON_SET, HORIZONTAL_POD_AUTOSCALER, JOB,
    POD_DISRUPTION_BUDGET, POD_TEMPLATE, PRIORITY_CLASS, RUNTIME_CLASS, STATEFUL_SET,
    controller_revision, cron_job, daemon_set, horizontal_pod_autoscaler, job,
    pod_disruption_budget, pod_template, priority_class, runtime_class, stateful_set,
};

/// The definition of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// The JSON type: `string`, `integer`, `boolean`.
    pub kind: &'static str,
    /// `name` for the column that identifies the object.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

/// What each row carries beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    /// A `PartialObjectMetadata`.
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// Of the query parameter; empty is the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

pub(crate) fn no_cells(_: &Value, _: Timestamp) -> Vec<Value> {
    Vec::new()
}

/// One row, of an object as it is stored.
pub fn row(resource: &Resource, object: &Value, now: Timestamp, include: IncludeObject) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array((resource.cells)(object, now)));
    let included = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => resource.shown(object).into_owned(),
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"],
        }),
    };
    if resource.kind == "Pod" {
        pod::row_conditions(object, &mut row);
    }
    row.insert("object".to_owned(), included);
    Value::Object(row)
}

/// A `Table` of rows made by [`row`]. `list_metadata` is the list's `metadata`. Watch events after
/// the first may leave the column definitions out.
pub fn table(resource: &Resource, list_metadata: Value, rows: Vec<Value>, columns: bool) -> Value {
    let definitions: Vec<Value> =
        if columns { resource.columns.iter().map(definition).collect() } else { Vec::new() };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

#[cfg(test)]
mod tests;
