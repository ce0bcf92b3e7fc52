//! What a namespace may use, and what its objects ask for when they do not say.

use k8s_openapi::api::core;

use super::{BASE, add_schema};
use crate::resource::{Resource, decode::decode};
use crate::{defaults, table, validation};

pub(super) const RESOURCE_QUOTA: Resource = Resource {
    kind: "ResourceQuota",
    list_kind: "ResourceQuotaList",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    status: true,
    shows_deleted: true,
    columns: table::RESOURCE_QUOTA,
    cells: table::resource_quota,
    schema: "io.k8s.api.core.v1.ResourceQuota",
    decode: decode::<core::v1::ResourceQuota>,
    apply_defaults: defaults::resource_quota,
    validate: validation::resource_quota,
    add_schema: add_schema::<core::v1::ResourceQuota>,
    ..BASE
};

pub(super) const LIMIT_RANGE: Resource = Resource {
    kind: "LimitRange",
    list_kind: "LimitRangeList",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    columns: table::LIMIT_RANGE,
    cells: table::limit_range,
    schema: "io.k8s.api.core.v1.LimitRange",
    decode: decode::<core::v1::LimitRange>,
    initialize: defaults::initialize_limit_range,
    apply_defaults: defaults::limit_range,
    validate: validation::limit_range,
    add_schema: add_schema::<core::v1::LimitRange>,
    ..BASE
};
