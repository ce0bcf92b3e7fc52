//! Volumes, storage drivers, quotas, networking and reviews.

use crate::resource::find;

const NETWORKING: &str = "networking.k8s.io";
const STORAGE: &str = "storage.k8s.io";

/// Group, kind, plural and short names; whether it is namespaced, has a status, has a generation.
type Row<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], [bool; 3]);

#[test]
fn rows_say_what_clients_know() {
    let table: [Row<'_>; 14] = [
        ("", "LimitRange", "limitranges", &["limits"], [true, false, false]),
        ("", "ResourceQuota", "resourcequotas", &["quota"], [true, true, false]),
        ("", "PersistentVolume", "persistentvolumes", &["pv"], [false, true, false]),
        ("", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], [true, true, false]),
        (NETWORKING, "Ingress", "ingresses", &["ing"], [true, true, true]),
        (NETWORKING, "IngressClass", "ingressclasses", &[], [false, false, true]),
        (NETWORKING, "NetworkPolicy", "networkpolicies", &["netpol"], [true, false, true]),
        (NETWORKING, "IPAddress", "ipaddresses", &["ip"], [false, false, false]),
        (NETWORKING, "ServiceCIDR", "servicecidrs", &[], [false, true, false]),
        (STORAGE, "StorageClass", "storageclasses", &["sc"], [false, false, false]),
        (STORAGE, "VolumeAttachment", "volumeattachments", &[], [false, true, false]),
        (STORAGE, "CSIDriver", "csidrivers", &[], [false, false, true]),
        (STORAGE, "CSINode", "csinodes", &[], [false, false, false]),
        (STORAGE, "CSIStorageCapacity", "csistoragecapacities", &[], [true, false, false]),
    ];
    for (group, kind, plural, short_names, flags) in table {
        let row = find(group, "v1", plural).unwrap();
        assert_eq!((row.kind, row.singular), (kind, kind.to_lowercase().as_str()));
        assert_eq!(row.short_names, short_names, "{kind}");
        assert_eq!([row.namespaced, row.status, row.generation], flags, "{kind}");
        let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap() };
        assert_eq!(row.schema, format!("io.k8s.api.{package}.v1.{kind}"));
        assert!(row.categories.is_empty() && row.scale.is_none(), "{kind}");
        assert_eq!(row.verbs.len(), 8, "{kind}");
    }
}

#[test]
fn reviews_are_created_and_not_stored() {
    let (who, may) = ("authentication.k8s.io", "authorization.k8s.io");
    let table = [
        (who, "SelfSubjectReview", false),
        (who, "TokenReview", false),
        (may, "LocalSubjectAccessReview", true),
        (may, "SelfSubjectAccessReview", false),
        (may, "SelfSubjectRulesReview", false),
        (may, "SubjectAccessReview", false),
    ];
    for (group, kind, namespaced) in table {
        let singular = kind.to_lowercase();
        let row = find(group, "v1", &format!("{singular}s")).unwrap();
        assert_eq!((row.kind, row.singular), (kind, singular.as_str()));
        assert_eq!((row.namespaced, row.stored, row.status), (namespaced, false, false), "{kind}");
        assert_eq!(row.verbs, ["create"], "{kind}");
        let package = group.split('.').next().unwrap();
        assert_eq!(row.schema, format!("io.k8s.api.{package}.v1.{kind}"));
    }
}
