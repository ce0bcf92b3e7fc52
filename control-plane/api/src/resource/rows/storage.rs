//! Volumes, the claims to them, and what storage drivers say of themselves.

use k8s_openapi::api::{core, storage};

use super::{BASE, add_schema};
use crate::resource::{Resource, decode::decode};
use crate::{defaults, table, validation};

pub(super) const PERSISTENT_VOLUME: Resource = Resource {
    kind: "PersistentVolume",
    list_kind: "PersistentVolumeList",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    namespaced: false,
    status: true,
    shows_deleted: true,
    columns: table::PERSISTENT_VOLUME,
    cells: table::persistent_volume,
    schema: "io.k8s.api.core.v1.PersistentVolume",
    decode: decode::<core::v1::PersistentVolume>,
    apply_defaults: defaults::persistent_volume,
    validate: validation::persistent_volume,
    add_schema: add_schema::<core::v1::PersistentVolume>,
    ..BASE
};

pub(super) const PERSISTENT_VOLUME_CLAIM: Resource = Resource {
    kind: "PersistentVolumeClaim",
    list_kind: "PersistentVolumeClaimList",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    status: true,
    shows_deleted: true,
    columns: table::PERSISTENT_VOLUME_CLAIM,
    cells: table::persistent_volume_claim,
    schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
    decode: decode::<core::v1::PersistentVolumeClaim>,
    initialize: defaults::initialize_persistent_volume_claim,
    carry_over: defaults::carry_over_persistent_volume_claim,
    apply_defaults: defaults::persistent_volume_claim,
    validate: validation::persistent_volume_claim,
    add_schema: add_schema::<core::v1::PersistentVolumeClaim>,
    ..BASE
};

pub(super) const STORAGE_CLASS: Resource = Resource {
    group: "storage.k8s.io",
    kind: "StorageClass",
    list_kind: "StorageClassList",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    namespaced: false,
    shows_deleted: true,
    columns: table::STORAGE_CLASS,
    cells: table::storage_class,
    schema: "io.k8s.api.storage.v1.StorageClass",
    decode: decode::<storage::v1::StorageClass>,
    apply_defaults: defaults::storage_class,
    validate: validation::storage_class,
    add_schema: add_schema::<storage::v1::StorageClass>,
    ..BASE
};

pub(super) const VOLUME_ATTACHMENT: Resource = Resource {
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    list_kind: "VolumeAttachmentList",
    plural: "volumeattachments",
    singular: "volumeattachment",
    namespaced: false,
    status: true,
    shows_deleted: true,
    columns: table::VOLUME_ATTACHMENT,
    cells: table::volume_attachment,
    schema: "io.k8s.api.storage.v1.VolumeAttachment",
    decode: decode::<storage::v1::VolumeAttachment>,
    apply_defaults: defaults::volume_attachment,
    validate: validation::volume_attachment,
    add_schema: add_schema::<storage::v1::VolumeAttachment>,
    ..BASE
};

pub(super) const CSI_DRIVER: Resource = Resource {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    list_kind: "CSIDriverList",
    plural: "csidrivers",
    singular: "csidriver",
    namespaced: false,
    generation: true,
    shows_deleted: true,
    columns: table::CSI_DRIVER,
    cells: table::csi_driver,
    schema: "io.k8s.api.storage.v1.CSIDriver",
    decode: decode::<storage::v1::CSIDriver>,
    apply_defaults: defaults::csi_driver,
    validate: validation::csi_driver,
    add_schema: add_schema::<storage::v1::CSIDriver>,
    ..BASE
};

pub(super) const CSI_NODE: Resource = Resource {
    group: "storage.k8s.io",
    kind: "CSINode",
    list_kind: "CSINodeList",
    plural: "csinodes",
    singular: "csinode",
    namespaced: false,
    shows_deleted: true,
    columns: table::CSI_NODE,
    cells: table::csi_node,
    schema: "io.k8s.api.storage.v1.CSINode",
    decode: decode::<storage::v1::CSINode>,
    validate: validation::csi_node,
    add_schema: add_schema::<storage::v1::CSINode>,
    ..BASE
};

pub(super) const CSI_STORAGE_CAPACITY: Resource = Resource {
    group: "storage.k8s.io",
    kind: "CSIStorageCapacity",
    list_kind: "CSIStorageCapacityList",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    columns: table::CSI_STORAGE_CAPACITY,
    cells: table::csi_storage_capacity,
    schema: "io.k8s.api.storage.v1.CSIStorageCapacity",
    decode: decode::<storage::v1::CSIStorageCapacity>,
    validate: validation::csi_storage_capacity,
    add_schema: add_schema::<storage::v1::CSIStorageCapacity>,
    ..BASE
};
