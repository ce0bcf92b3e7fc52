//! Volumes of a pod spec.
//!
//! Guarantees: each volume has one source, and that is complete.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::claims::claim_spec;
use super::containers::{list, pull_policy, text};
use super::equality::says_nothing;
use super::metadata::{annotations, labels};
use super::names::{label, subdomain};
use super::paths::descending;
use super::projected::{downward_files, file_mode, key_to_path, projected};
use super::volume_sources::{
    INITIATOR_LENGTH, LUN, csi_driver_name, is_iscsi_name, storage, within,
};
use super::{Errors, Path};
use crate::object;
use crate::quantity::Quantity;
use crate::schema::parse_quantity;

/// The sources in the order in which they are looked at, with the fields that they cannot do
/// without.
const SOURCES: &[(&str, &[&str])] = &[
    ("emptyDir", &[]),
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("quobyte", &["volume"]),
    ("downwardAPI", &[]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &["volumeName"]),
    ("projected", &[]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
    ("ephemeral", &["volumeClaimTemplate"]),
    ("image", &["reference"]),
];

/// Checks the volumes and returns those that are in order by their names. `pod` is the pod, if the
/// spec is one's.
pub(super) fn volumes<'a>(
    errors: &mut Errors,
    spec: &'a Value,
    pod: Option<&Value>,
    path: &Path,
) -> HashMap<&'a str, &'a Value> {
    let pod_name = pod.map(object::name).filter(|name| !name.is_empty());
    let all = list(spec, "volumes");
    let claims: HashSet<String> = all
        .iter()
        .filter(|volume| !volume["ephemeral"].is_null())
        .filter_map(|volume| Some(format!("{}-{}", pod_name?, text(volume, "name"))))
        .collect();
    let mut sound = HashMap::new();
    for (index, volume) in all.iter().enumerate() {
        let path = path.child("volumes").index(index);
        let before = errors.len();
        source(errors, volume, pod_name, &path);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.complain(&path.child("name"), name, label(name));
        }
        if sound.contains_key(name) {
            errors.duplicate(&path.child("name"), &Value::from(name));
        }
        if errors.len() == before {
            sound.insert(name, volume);
        }
        let claim = text(&volume["persistentVolumeClaim"], "claimName");
        if claims.contains(claim) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            let path = path.child("persistentVolumeClaim").child("claimName");
            errors.invalid_text(&path, claim, why);
        }
    }
    sound
}

fn source(errors: &mut Errors, volume: &Value, pod_name: Option<&str>, path: &Path) {
    let mut found = false;
    for (field, required) in SOURCES.iter().filter(|(field, _)| !volume[*field].is_null()) {
        if found {
            errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        let source = &volume[*field];
        // Clients know this one's problems under another name.
        let shown = if *field == "gcePersistentDisk" { "persistentDisk" } else { field };
        let path_of_source = path.child(shown);
        for missing in required.iter().filter(|one| says_nothing(&source[**one])) {
            errors.required(&path_of_source.child(missing), "");
        }
        match *field {
            "iscsi" => iscsi(errors, volume, path),
            "ephemeral" => {
                ephemeral(errors, source, &path_of_source);
                claim_name(errors, text(volume, "name"), pod_name, path);
            }
            field => details(errors, field, source, &path_of_source),
        }
    }
    if !found {
        errors.required(path, "must specify a volume type");
    }
}

fn details(errors: &mut Errors, field: &str, source: &Value, path: &Path) {
    match field {
        "emptyDir" => {
            let limit = parse_quantity(&source["sizeLimit"]);
            if limit.is_ok_and(Quantity::is_negative) {
                let why = "SizeLimit field must be a valid resource quantity";
                errors.forbidden(&path.child("sizeLimit"), why);
            }
        }
        "gitRepo" => descending(errors, text(source, "directory"), &path.child("directory")),
        "secret" | "configMap" => {
            file_mode(errors, &source["defaultMode"], &path.child("defaultMode"));
            for (index, item) in list(source, "items").iter().enumerate() {
                key_to_path(errors, item, &path.child("items").index(index));
            }
        }
        "downwardAPI" => {
            file_mode(errors, &source["defaultMode"], &path.child("defaultMode"));
            downward_files(errors, source, path);
        }
        "projected" => projected(errors, source, path),
        "csi" => csi(errors, source, path),
        "image" => pull_policy(errors, &source["pullPolicy"], &path.child("pullPolicy")),
        "persistentVolumeClaim" => {}
        field => {
            storage(errors, field, source, path);
            let secret = &source["secretRef"];
            let needs_name = matches!(field, "cinder" | "storageos") && !secret.is_null();
            if needs_name && text(secret, "name").is_empty() {
                errors.required(&path.child("secretRef").child("name"), "");
            }
        }
    }
}

fn iscsi(errors: &mut Errors, volume: &Value, path: &Path) {
    let (source, path_of_source) = (&volume["iscsi"], path.child("iscsi"));
    let mut named = |field: &str, shown: &str| {
        let name = text(source, field);
        if name.is_empty() || is_iscsi_name(name) {
            return;
        }
        let known = ["iqn", "eui", "naa"].iter().any(|start| name.starts_with(start));
        let why = if known {
            "must be valid format"
        } else {
            "must be valid format starting with iqn, eui, or naa"
        };
        errors.invalid_text(&path_of_source.child(shown), name, why);
    };
    named("iqn", "iqn");
    named("initiatorName", "initiatorname");
    within(errors, &source["lun"], &path_of_source.child("lun"), (0, 255), LUN);
    let authenticates = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if authenticates && source["secretRef"].is_null() {
        errors.required(&path_of_source.child("secretRef"), "");
    }
    let name = text(volume, "name");
    let length = name.len() + 1 + text(source, "targetPortal").len();
    if !source["initiatorName"].is_null() && length > INITIATOR_LENGTH {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
                   characters if iscsi.initiatorName is specified.";
        errors.invalid_text(&path.child("name"), name, why);
    }
}

fn csi(errors: &mut Errors, source: &Value, path: &Path) {
    csi_driver_name(errors, text(source, "driver"), &path.child("driver"));
    let secret = &source["nodePublishSecretRef"];
    if secret.is_null() {
        return;
    }
    let name = text(secret, "name");
    if name.is_empty() {
        errors.required(&path.child("nodePublishSecretRef").child("name"), "");
    } else {
        errors.complain(&path.child("name"), name, subdomain(name));
    }
}

/// A claim that lives as long as the pod.
fn ephemeral(errors: &mut Errors, source: &Value, path: &Path) {
    let (template, path) = (&source["volumeClaimTemplate"], path.child("volumeClaimTemplate"));
    if template.is_null() {
        return;
    }
    let (metadata, path_of_metadata) = (&template["metadata"], path.child("metadata"));
    annotations(errors, &metadata["annotations"], &path_of_metadata.child("annotations"));
    labels(errors, &metadata["labels"], &path_of_metadata.child("labels"));
    for (field, value) in metadata.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "annotations" | "labels") && !says_nothing(value) {
            errors.forbidden(&path_of_metadata.child(field), "cannot be set");
        }
    }
    claim_spec(errors, &template["spec"], &path.child("spec"));
}

/// The claim is called after the pod and the volume.
fn claim_name(errors: &mut Errors, volume: &str, pod_name: Option<&str>, path: &Path) {
    let Some(pod_name) = pod_name.filter(|_| !volume.is_empty()) else { return };
    let name = format!("{pod_name}-{volume}");
    for why in subdomain(&name) {
        let why = format!("PVC name {name:?}: {why}");
        errors.invalid_text(&path.child("name"), volume, &why);
    }
}
