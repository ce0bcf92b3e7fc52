//! `meta.k8s.io/v1` tables: what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::Resource;

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

/// One row.
pub fn row(resource: &Resource, object: &Value, now: Timestamp, include: IncludeObject) -> Value {
    let _ = include;
    json!({ "cells": (resource.cells)(object, now), "object": object })
}

/// A `Table` of rows made by [`row`]. `list_metadata` is the list's `metadata`. Watch events after
/// the first may leave the column definitions out.
pub fn table(resource: &Resource, list_metadata: Value, rows: Vec<Value>, columns: bool) -> Value {
    let _ = (resource, columns);
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata, "rows": rows })
}
