//! The rows of the kinds that run pods, and of what steers how many of them run and where.

use k8s_openapi::api::{apps, autoscaling, batch, core, node, policy, scheduling};

use super::{BASE, SCALE, add_schema};
use crate::resource::Resource;
use crate::resource::decode::decode;
use crate::resource::fields;
use crate::{defaults, table, validation};

pub(super) const DAEMON_SET: Resource = Resource {
    group: "apps",
    kind: "DaemonSet",
    list_kind: "DaemonSetList",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    status: true,
    generation: true,
    columns: table::DAEMON_SET,
    cells: table::daemon_set,
    schema: "io.k8s.api.apps.v1.DaemonSet",
    decode: decode::<apps::v1::DaemonSet>,
    initialize: defaults::initialize_daemon_set,
    carry_over: defaults::carry_over_daemon_set,
    apply_defaults: defaults::daemon_set,
    validate: validation::daemon_set,
    add_schema: add_schema::<apps::v1::DaemonSet>,
    ..BASE
};

pub(super) const STATEFUL_SET: Resource = Resource {
    group: "apps",
    kind: "StatefulSet",
    list_kind: "StatefulSetList",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    status: true,
    generation: true,
    scale: SCALE,
    columns: table::STATEFUL_SET,
    cells: table::stateful_set,
    schema: "io.k8s.api.apps.v1.StatefulSet",
    decode: decode::<apps::v1::StatefulSet>,
    apply_defaults: defaults::stateful_set,
    validate: validation::stateful_set,
    add_schema: add_schema::<apps::v1::StatefulSet>,
    ..BASE
};

pub(super) const CONTROLLER_REVISION: Resource = Resource {
    group: "apps",
    kind: "ControllerRevision",
    list_kind: "ControllerRevisionList",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    columns: table::CONTROLLER_REVISION,
    cells: table::controller_revision,
    schema: "io.k8s.api.apps.v1.ControllerRevision",
    decode: decode::<apps::v1::ControllerRevision>,
    apply_defaults: defaults::controller_revision,
    validate: validation::controller_revision,
    add_schema: add_schema::<apps::v1::ControllerRevision>,
    ..BASE
};

pub(super) const JOB: Resource = Resource {
    group: "batch",
    kind: "Job",
    list_kind: "JobList",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    status: true,
    generation: true,
    columns: table::JOB,
    cells: table::job,
    schema: "io.k8s.api.batch.v1.Job",
    decode: decode::<batch::v1::Job>,
    initialize: defaults::initialize_job,
    apply_defaults: defaults::job,
    validate: validation::job,
    fields: fields::job,
    add_schema: add_schema::<batch::v1::Job>,
    ..BASE
};

pub(super) const CRON_JOB: Resource = Resource {
    group: "batch",
    kind: "CronJob",
    list_kind: "CronJobList",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    status: true,
    generation: true,
    columns: table::CRON_JOB,
    cells: table::cron_job,
    schema: "io.k8s.api.batch.v1.CronJob",
    decode: decode::<batch::v1::CronJob>,
    apply_defaults: defaults::cron_job,
    validate: validation::cron_job,
    add_schema: add_schema::<batch::v1::CronJob>,
    ..BASE
};

pub(super) const POD_TEMPLATE: Resource = Resource {
    kind: "PodTemplate",
    list_kind: "PodTemplateList",
    plural: "podtemplates",
    singular: "podtemplate",
    generation: true,
    shows_deleted: true,
    columns: table::POD_TEMPLATE,
    cells: table::pod_template,
    schema: "io.k8s.api.core.v1.PodTemplate",
    decode: decode::<core::v1::PodTemplate>,
    apply_defaults: defaults::pod_template,
    validate: validation::pod_template,
    add_schema: add_schema::<core::v1::PodTemplate>,
    ..BASE
};

pub(super) const POD_DISRUPTION_BUDGET: Resource = Resource {
    group: "policy",
    kind: "PodDisruptionBudget",
    list_kind: "PodDisruptionBudgetList",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    status: true,
    generation: true,
    columns: table::POD_DISRUPTION_BUDGET,
    cells: table::pod_disruption_budget,
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    decode: decode::<policy::v1::PodDisruptionBudget>,
    apply_defaults: defaults::pod_disruption_budget,
    validate: validation::pod_disruption_budget,
    add_schema: add_schema::<policy::v1::PodDisruptionBudget>,
    ..BASE
};

/// Its spec changes without its generation, as in Kubernetes.
pub(super) const HORIZONTAL_POD_AUTOSCALER: Resource = Resource {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    list_kind: "HorizontalPodAutoscalerList",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    status: true,
    columns: table::HORIZONTAL_POD_AUTOSCALER,
    cells: table::horizontal_pod_autoscaler,
    schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    decode: decode::<autoscaling::v2::HorizontalPodAutoscaler>,
    apply_defaults: defaults::horizontal_pod_autoscaler,
    validate: validation::horizontal_pod_autoscaler,
    add_schema: add_schema::<autoscaling::v2::HorizontalPodAutoscaler>,
    ..BASE
};

pub(super) const PRIORITY_CLASS: Resource = Resource {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    list_kind: "PriorityClassList",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    columns: table::PRIORITY_CLASS,
    cells: table::priority_class,
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    decode: decode::<scheduling::v1::PriorityClass>,
    initialize: defaults::initialize_priority_class,
    apply_defaults: defaults::priority_class,
    validate: validation::priority_class,
    add_schema: add_schema::<scheduling::v1::PriorityClass>,
    ..BASE
};

pub(super) const RUNTIME_CLASS: Resource = Resource {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    list_kind: "RuntimeClassList",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    columns: table::RUNTIME_CLASS,
    cells: table::runtime_class,
    schema: "io.k8s.api.node.v1.RuntimeClass",
    decode: decode::<node::v1::RuntimeClass>,
    validate: validation::runtime_class,
    add_schema: add_schema::<node::v1::RuntimeClass>,
    ..BASE
};
