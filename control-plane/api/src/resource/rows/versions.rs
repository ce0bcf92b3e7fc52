//! The rows of versions that are served beside the one that is stored. What a row does not say is
//! that of the stored version.

use k8s_openapi::api::{autoscaling, events};

use super::{add_schema, workloads};
use crate::convert::{autoscaler, event};
use crate::resource::decode::decode;
use crate::resource::{Conversion, Resource, fields};
use crate::{defaults, validation};

/// Stored as an event of the core group.
pub(super) const EVENT: Resource = Resource {
    group: "events.k8s.io",
    schema: "io.k8s.api.events.v1.Event",
    conversion: Some(Conversion {
        stored: ("", "v1"),
        from_stored: event::from_stored,
        to_stored: event::to_stored,
    }),
    decode: decode::<events::v1::Event>,
    validate: validation::reported_event,
    fields: fields::reported_event,
    add_schema: add_schema::<events::v1::Event>,
    ..super::EVENT
};

pub(super) const HORIZONTAL_POD_AUTOSCALER: Resource = Resource {
    version: "v1",
    schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    conversion: Some(Conversion {
        stored: ("autoscaling", "v2"),
        from_stored: autoscaler::from_stored,
        to_stored: autoscaler::to_stored,
    }),
    decode: decode::<autoscaling::v1::HorizontalPodAutoscaler>,
    apply_defaults: defaults::cpu_autoscaler,
    add_schema: add_schema::<autoscaling::v1::HorizontalPodAutoscaler>,
    ..workloads::HORIZONTAL_POD_AUTOSCALER
};
