//! Every kind that the server announces, with every verb that it announces for it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use bowline_api::resource::RESOURCES;

/// Where the objects of the test are: nothing else is in there.
const NAMESPACE: &str = "zoo";
/// Without it what a replication controller owns is orphaned, which a controller does.
const BACKGROUND: &str = "propagationPolicy=Background";

/// A kind with an object that has no more than it must.
struct Sample {
    kind: &'static str,
    api_version: &'static str,
    object: Value,
    /// A field of the status with two values, where there is `/status`.
    status: Option<(&'static str, Value, Value)>,
    names: [&'static str; 3],
}

fn sample(api_version: &'static str, kind: &'static str, object: Value) -> Sample {
    Sample { kind, api_version, object, status: None, names: ["one", "two", "three"] }
}

impl Sample {
    fn with_status(self, field: &'static str, first: Value, second: Value) -> Self {
        Self { status: Some((field, first, second)), ..self }
    }

    fn with_names(self, names: [&'static str; 3]) -> Self {
        Self { names, ..self }
    }

    fn named(&self, name: &str) -> Value {
        let mut object = self.object.clone();
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!(self.kind);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["labels"] = json!({ "app": name });
        object
    }
}

fn samples() -> Vec<Sample> {
    let containers = json!({ "containers": [{ "name": "c", "image": "registry/image:1" }] });
    let template = json!({ "metadata": { "labels": { "app": "zoo" } }, "spec": containers });
    let labels = json!({ "matchLabels": { "app": "zoo" } });
    let set = json!({ "spec": { "selector": labels, "template": template } });
    let controller =
        json!({ "spec": { "selector": { "app": "zoo" }, "template": set["spec"]["template"] } });
    let involved = json!({ "involvedObject": { "kind": "Pod", "namespace": NAMESPACE } });
    let reported = json!({
        "regarding": { "kind": "Pod", "namespace": NAMESPACE },
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "zoo.example/keeper",
        "reportingInstance": "one", "action": "Fed", "reason": "Hungry", "type": "Normal",
    });
    let condition = |status: &str| json!([{ "type": "Odd", "status": status }]);
    let ingress = |ip: &str| json!({ "ingress": [{ "ip": ip }] });
    vec![
        sample("v1", "Namespace", json!({})).with_status(
            "conditions",
            condition("True"),
            condition("False"),
        ),
        sample("v1", "Node", json!({})).with_status(
            "conditions",
            condition("True"),
            condition("False"),
        ),
        sample("v1", "Pod", json!({ "spec": containers })).with_status(
            "phase",
            json!("Running"),
            json!("Succeeded"),
        ),
        sample("v1", "ReplicationController", controller).with_status(
            "replicas",
            json!(1),
            json!(2),
        ),
        sample("apps/v1", "ReplicaSet", set.clone()).with_status("replicas", json!(1), json!(2)),
        sample("apps/v1", "Deployment", set).with_status("replicas", json!(1), json!(2)),
        sample(
            "v1",
            "Service",
            json!({ "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } }),
        )
        .with_status("loadBalancer", ingress("192.0.2.1"), ingress("192.0.2.2")),
        sample("v1", "Endpoints", json!({})),
        sample(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({ "addressType": "IPv4", "endpoints": [] }),
        ),
        sample("v1", "ConfigMap", json!({})),
        sample("v1", "Secret", json!({})),
        sample("v1", "ServiceAccount", json!({})),
        sample("v1", "Event", involved),
        sample("events.k8s.io/v1", "Event", reported),
        sample("coordination.k8s.io/v1", "Lease", json!({})),
    ]
    .into_iter()
    .chain(networking_samples())
    .chain(storage_samples())
    .collect()
}

fn networking_samples() -> Vec<Sample> {
    let of = |kind, object| sample("networking.k8s.io/v1", kind, object);
    let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let parent = json!({ "resource": "services", "namespace": NAMESPACE, "name": "web" });
    let ingress = |ip: &str| json!({ "ingress": [{ "ip": ip }] });
    let condition = |status: &str| {
        json!([{ "type": "Odd", "status": status, "reason": "Odd", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }])
    };
    vec![
        of("Ingress", json!({ "spec": { "defaultBackend": backend } })).with_status(
            "loadBalancer",
            ingress("192.0.2.1"),
            ingress("192.0.2.2"),
        ),
        of("IngressClass", json!({ "spec": { "controller": "zoo.example/ingress" } })),
        of("NetworkPolicy", json!({ "spec": { "podSelector": {} } })),
        of("IPAddress", json!({ "spec": { "parentRef": parent } })).with_names([
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
        ]),
        of("ServiceCIDR", json!({ "spec": { "cidrs": ["192.0.2.0/24"] } })).with_status(
            "conditions",
            condition("True"),
            condition("False"),
        ),
    ]
}

/// Volumes and what belongs to them, and what a namespace may have of them.
fn storage_samples() -> Vec<Sample> {
    let of = |kind, object| sample("storage.k8s.io/v1", kind, object);
    let modes = json!(["ReadWriteOnce"]);
    let size = json!({ "storage": "1Gi" });
    let volume = json!({ "capacity": size, "accessModes": modes, "hostPath": { "path": "/data" } });
    let claim = json!({ "accessModes": modes, "resources": { "requests": size } });
    let attachment = json!({
        "attacher": "zoo.example", "nodeName": "n", "source": { "persistentVolumeName": "one" },
    });
    let pods = |count: &str| json!({ "pods": count });
    vec![
        sample("v1", "LimitRange", json!({ "spec": { "limits": [] } })),
        sample("v1", "ResourceQuota", json!({ "spec": { "hard": { "pods": "1" } } })).with_status(
            "used",
            pods("1"),
            pods("2"),
        ),
        sample("v1", "PersistentVolume", json!({ "spec": volume })).with_status(
            "phase",
            json!("Bound"),
            json!("Released"),
        ),
        sample("v1", "PersistentVolumeClaim", json!({ "spec": claim })).with_status(
            "phase",
            json!("Bound"),
            json!("Lost"),
        ),
        of("StorageClass", json!({ "provisioner": "zoo.example" })),
        of("VolumeAttachment", json!({ "spec": attachment })).with_status(
            "attachmentMetadata",
            json!({ "device": "1" }),
            json!({ "device": "2" }),
        ),
        of("CSIDriver", json!({ "spec": {} })),
        of("CSINode", json!({ "spec": { "drivers": [] } })),
        of("CSIStorageCapacity", json!({ "storageClassName": "fast" })),
    ]
}

/// Those of the kinds that run pods, and of what steers how many of them run and where.
fn workload_samples() -> Vec<Sample> {
    let pod = |restart: &str| {
        json!({ "containers": [{ "name": "c", "image": "registry/image:1" }],
            "restartPolicy": restart })
    };
    let template = json!({ "metadata": { "labels": { "app": "zoo" } }, "spec": pod("Always") });
    let labels = json!({ "matchLabels": { "app": "zoo" } });
    let set = json!({ "spec": { "selector": labels, "template": template } });
    let job = json!({ "spec": { "template": { "spec": pod("Never") } } });
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" });
    let (first, second) = (json!("2026-01-01T00:00:00Z"), json!("2026-01-01T00:01:00Z"));
    let counted =
        |sample: Sample, field: &'static str| sample.with_status(field, json!(1), json!(2));
    let autoscaler = json!({ "spec": { "scaleTargetRef": target, "maxReplicas": 2 } });
    vec![
        sample("v1", "PodTemplate", json!({ "template": { "spec": pod("Always") } })),
        counted(sample("apps/v1", "DaemonSet", set.clone()), "numberReady"),
        counted(sample("apps/v1", "StatefulSet", set), "replicas"),
        sample("apps/v1", "ControllerRevision", json!({ "data": { "any": 1 }, "revision": 1 })),
        counted(sample("batch/v1", "Job", job.clone()), "active"),
        sample(
            "batch/v1",
            "CronJob",
            json!({ "spec": { "schedule": "@hourly", "jobTemplate": job } }),
        )
        .with_status("lastScheduleTime", first, second),
        counted(
            sample("policy/v1", "PodDisruptionBudget", json!({ "spec": { "minAvailable": 1 } })),
            "disruptionsAllowed",
        ),
        counted(
            sample("autoscaling/v2", "HorizontalPodAutoscaler", autoscaler.clone()),
            "currentReplicas",
        ),
        counted(sample("autoscaling/v1", "HorizontalPodAutoscaler", autoscaler), "currentReplicas"),
        sample("scheduling.k8s.io/v1", "PriorityClass", json!({ "value": 5 })),
        sample("node.k8s.io/v1", "RuntimeClass", json!({ "handler": "runc" })),
    ]
}

/// What is posted, answered and not stored.
fn reviews() -> Vec<Sample> {
    let of = |kind, spec| sample("authorization.k8s.io/v1", kind, json!({ "spec": spec }));
    let pods = json!({ "verb": "list", "resource": "pods", "namespace": NAMESPACE });
    let of_somebody = json!({ "user": "somebody", "resourceAttributes": pods });
    vec![
        sample("authentication.k8s.io/v1", "SelfSubjectReview", json!({})),
        sample("authentication.k8s.io/v1", "TokenReview", json!({ "spec": { "token": "x" } })),
        of("LocalSubjectAccessReview", of_somebody.clone()),
        of("SelfSubjectAccessReview", json!({ "resourceAttributes": pods })),
        of("SelfSubjectRulesReview", json!({ "namespace": NAMESPACE })),
        of("SubjectAccessReview", of_somebody),
    ]
}

/// A kind as discovery shows it.
struct Announced {
    /// Of its objects in the namespace of the test, or of all its objects.
    path: String,
    verbs: BTreeSet<String>,
    subresources: BTreeSet<String>,
}

/// What discovery announces, by group version and kind.
async fn announced(server: &Server) -> BTreeMap<(String, String), Announced> {
    let groups = call("GET", "/apis").send(server).await.expect(200);
    let groups = groups["groups"].as_array().unwrap().iter();
    let groups = groups.flat_map(|group| group["versions"].as_array().unwrap().clone());
    let mut roots = vec!["/api/v1".to_owned()];
    roots.extend(groups.map(|it| format!("/apis/{}", it["groupVersion"].as_str().unwrap())));
    let mut all: BTreeMap<(String, String), Announced> = BTreeMap::new();
    for root in roots {
        let list = call("GET", &root).send(server).await.expect(200);
        let version = list["groupVersion"].as_str().unwrap();
        let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
        for resource in list["resources"].as_array().unwrap() {
            let (name, kind) =
                (resource["name"].as_str().unwrap(), resource["kind"].as_str().unwrap());
            if let Some((parent, subresource)) = name.split_once('/') {
                let key = (version.to_owned(), kinds[parent].to_owned());
                all.get_mut(&key).unwrap().subresources.insert(subresource.to_owned());
                continue;
            }
            kinds.insert(name, kind);
            let inside = if resource["namespaced"] == true {
                format!("/namespaces/{NAMESPACE}")
            } else {
                String::new()
            };
            let verbs = resource["verbs"].as_array().unwrap().iter();
            let verbs = verbs.map(|verb| verb.as_str().unwrap().to_owned()).collect();
            let path = format!("{root}{inside}/{name}");
            let one = Announced { path, verbs, subresources: BTreeSet::new() };
            assert!(all.insert((version.to_owned(), kind.to_owned()), one).is_none(), "{kind}");
        }
    }
    all
}

#[tokio::test]
async fn every_kind_takes_every_verb() {
    let server = server().await;
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    call("POST", "/api/v1/namespaces").json(&namespace).send(&server).await.expect(201);
    let mut samples = samples();
    samples.extend(workload_samples());
    let reviews = reviews();
    let announced = announced(&server).await;

    let names = |api_version: &str, kind: &str| (api_version.to_owned(), kind.to_owned());
    let all = samples.iter().chain(&reviews);
    let tried: BTreeSet<_> = all.map(|it| names(it.api_version, it.kind)).collect();
    // Has a test of its own.
    let tried: BTreeSet<_> = tried.into_iter().chain([names("v1", "Binding")]).collect();
    let table: BTreeSet<_> = RESOURCES.iter().map(|it| names(&it.api_version(), it.kind)).collect();
    assert_eq!(tried, table, "the table of this test is not the server's");
    assert_eq!(tried, announced.keys().cloned().collect(), "discovery announces other kinds");
    assert_eq!((samples.len(), reviews.len()), (40, 6));

    for sample in &samples {
        // Shown when it fails.
        println!("{} {}", sample.api_version, sample.kind);
        let kind = &announced[&names(sample.api_version, sample.kind)];
        let mut known: BTreeSet<&str> =
            ["create", "delete", "get", "list", "patch", "update", "watch"].into();
        if kind.verbs.contains("deletecollection") {
            known.insert("deletecollection");
        }
        assert_eq!(kind.verbs.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
        // Pods have an account, which the collection of accounts must not have.
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        let is_pod = sample.kind == "Pod";
        if is_pod {
            let account = json!({ "metadata": { "name": "default" } });
            call("POST", &accounts).json(&account).send(&server).await.expect(201);
        }
        one_object(&server, sample, kind).await;
        collection(&server, sample, kind).await;
        if is_pod {
            let account = format!("{accounts}/default");
            call("DELETE", &account).send(&server).await.expect(200);
        }
    }
    for review in &reviews {
        println!("{} {}", review.api_version, review.kind);
        answered(&server, review, &announced[&names(review.api_version, review.kind)]).await;
    }
}

/// A review is answered, and there is nothing to be had of it afterwards.
async fn answered(server: &Server, review: &Sample, kind: &Announced) {
    assert_eq!(kind.verbs, ["create".to_owned()].into());
    assert!(kind.subresources.is_empty());
    let mut asked = review.object.clone();
    asked["apiVersion"] = json!(review.api_version);
    asked["kind"] = json!(review.kind);
    for query in ["", "?dryRun=All"] {
        let path = format!("{}{query}", kind.path);
        let answer = call("POST", &path).json(&asked).send(server).await.expect(201);
        let types = (&answer["apiVersion"], &answer["kind"]);
        assert_eq!(types, (&asked["apiVersion"], &asked["kind"]));
        assert!(answer["status"].is_object(), "{answer}");
        for field in ["name", "uid", "resourceVersion"] {
            assert_eq!(answer["metadata"][field], Value::Null, "{answer}");
        }
    }
    let named = format!("{}/one", kind.path);
    let watched = format!("{}?watch=true", kind.path);
    for (method, path) in [
        ("GET", &kind.path),
        ("GET", &watched),
        ("GET", &named),
        ("POST", &named),
        ("PUT", &named),
        ("PATCH", &named),
        ("DELETE", &named),
        ("DELETE", &kind.path),
    ] {
        let refused = call(method, path).json(&asked).send(server).await;
        assert_eq!(refused.failure(), (405, "MethodNotAllowed"), "{method} {path}");
    }
}

/// From `create` to `delete`, with a watch that sees it.
async fn one_object(server: &Server, sample: &Sample, kind: &Announced) {
    // Other namespaces are there from the start.
    let name = sample.names[0];
    let own = format!("{}?fieldSelector=metadata.name%3D{name}", kind.path);
    let mut events = call("GET", &format!("{own}&watch=true")).stream(server).await;
    let created = call("POST", &kind.path).json(&sample.named(name)).send(server).await.expect(201);
    let added = events.next().await.unwrap();
    assert_eq!((&added["type"], &added["object"]), (&json!("ADDED"), &created));
    assert_eq!(
        (&created["apiVersion"], &created["kind"]),
        (&json!(sample.api_version), &json!(sample.kind))
    );
    let path = format!("{}/{name}", kind.path);
    assert_eq!(call("GET", &path).send(server).await.expect(200), created);
    let list = call("GET", &own).send(server).await.expect(200);
    assert_eq!(list["kind"], format!("{}List", sample.kind));
    assert_eq!(list["items"][0]["metadata"], created["metadata"]);

    let mut changed = created.clone();
    changed["metadata"]["labels"]["put"] = json!("1");
    let updated = call("PUT", &path).json(&changed).send(server).await.expect(200);
    assert_eq!(updated["metadata"]["labels"], changed["metadata"]["labels"]);
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    patches(server, &path).await;

    assert_eq!(kind.subresources.contains("status"), sample.status.is_some());
    if let Some(values) = &sample.status {
        status(server, &path, values).await;
    }
    if kind.subresources.contains("scale") {
        scale(server, &path).await;
    }

    let deleted = call("DELETE", &format!("{path}?{BACKGROUND}")).send(server).await.expect(200);
    if sample.kind == "Namespace" {
        // Its controller takes the finalizer away once nothing is in it.
        let mut done = deleted;
        done["spec"]["finalizers"] = json!([]);
        call("PUT", &format!("{path}/finalize")).json(&done).send(server).await.expect(200);
    }
    assert_eq!(call("GET", &path).send(server).await.failure(), (404, "NotFound"));
    loop {
        let (event, of) = events.brief().await;
        assert_eq!(of, name);
        if event == "DELETED" {
            break;
        }
        assert_eq!(event, "MODIFIED");
    }
}

async fn patches(server: &Server, path: &str) {
    let label = |name: &str| json!({ "metadata": { "labels": { name: "1" } } });
    let operation = json!([{ "op": "add", "path": "/metadata/labels/json", "value": "1" }]);
    for (name, patch) in [
        ("merge", label("merge")),
        ("strategic-merge", label("strategic-merge")),
        ("json", operation),
    ] {
        let patched = call("PATCH", path)
            .header("content-type", &format!("application/{name}-patch+json"))
            .json(&patch);
        let patched = patched.send(server).await.expect(200);
        assert_eq!(patched["metadata"]["labels"][name], "1", "{name}");
        assert_eq!(patched["metadata"]["labels"]["put"], "1", "{name}");
        assert_eq!(call("GET", path).send(server).await.expect(200), patched, "{name}");
    }
}

/// It is written apart from the rest, by update and by patch.
async fn status(server: &Server, path: &str, (field, first, second): &(&str, Value, Value)) {
    let own = format!("{path}/status");
    let mut object = call("GET", &own).send(server).await.expect(200);
    object["status"][field] = first.clone();
    let ignored = call("PUT", path).json(&object).send(server).await.expect(200);
    assert_ne!(ignored["status"][field], *first);
    object["metadata"]["resourceVersion"] = ignored["metadata"]["resourceVersion"].clone();
    let updated = call("PUT", &own).json(&object).send(server).await.expect(200);
    assert_eq!(updated["status"][field], *first);
    let patch = call("PATCH", &own)
        .header("content-type", "application/merge-patch+json")
        .json(&json!({ "status": { *field: second } }));
    assert_eq!(patch.send(server).await.expect(200)["status"][field], *second);
    let read = call("GET", path).send(server).await.expect(200);
    assert_eq!(read["status"][field], *second);
}

async fn scale(server: &Server, path: &str) {
    let own = format!("{path}/scale");
    let mut scale = call("GET", &own).send(server).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    scale["spec"]["replicas"] = json!(2);
    let updated = call("PUT", &own).json(&scale).send(server).await.expect(200);
    assert_eq!(updated["spec"]["replicas"], 2);
    let patch = call("PATCH", &own)
        .header("content-type", "application/merge-patch+json")
        .json(&json!({ "spec": { "replicas": 3 } }));
    assert_eq!(patch.send(server).await.expect(200)["spec"]["replicas"], 3);
    let read = call("GET", path).send(server).await.expect(200);
    assert_eq!(read["spec"]["replicas"], 3);
}

/// Makes an object by applying it; a second time changes nothing, and another manager's label is
/// its own.
async fn applied(server: &Server, path: &str, object: &Value) {
    let apply = |manager: &str, config: &Value| {
        call("PATCH", &format!("{path}?fieldManager={manager}"))
            .header("content-type", "application/apply-patch+yaml")
            .json(config)
    };
    let created = apply("keeper", object).send(server).await.expect(201);
    let managers = |object: &Value| {
        let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
        entries.map(|entry| entry["manager"].to_string()).collect::<BTreeSet<_>>()
    };
    let named = |names: &[&str]| names.iter().map(|name| format!("{name:?}")).collect();
    assert_eq!(managers(&created), named(&["keeper"]));
    let again = apply("keeper", object).send(server).await.expect(200);
    assert_eq!(again, created);
    let label = json!({ "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": { "name": object["metadata"]["name"], "labels": { "visited": "1" } } });
    let visited = apply("visitor", &label).send(server).await.expect(200);
    assert_eq!(visited["metadata"]["labels"]["visited"], "1");
    assert_eq!(managers(&visited), named(&["keeper", "visitor"]));
    assert_eq!(call("GET", path).send(server).await.expect(200), visited);
}

async fn collection(server: &Server, sample: &Sample, kind: &Announced) {
    let [_, applied_name, posted] = sample.names;
    let path = format!("{}/{applied_name}", kind.path);
    applied(server, &path, &sample.named(applied_name)).await;
    call("POST", &kind.path).json(&sample.named(posted)).send(server).await.expect(201);
    let there = call("GET", &kind.path).send(server).await.expect(200);
    let all = call("DELETE", &format!("{}?{BACKGROUND}", kind.path));
    let all = all.send(server).await;
    if !kind.verbs.contains("deletecollection") {
        assert_eq!(all.failure(), (405, "MethodNotAllowed"));
        return;
    }
    // Some kinds have objects from the start.
    let there = there["items"].as_array().unwrap().len();
    let own = [("PriorityClass", 2), ("ServiceCIDR", 1)];
    let own = own.iter().find(|(kind, _)| *kind == sample.kind).map_or(0, |(_, own)| *own);
    assert_eq!(there, own + 2);
    assert_eq!(all.expect(200)["items"].as_array().unwrap().len(), there);
    let mut left = call("GET", &kind.path).send(server).await.expect(200);
    // The server may have made its own range again by now.
    let left = left["items"].as_array_mut().unwrap();
    left.retain(|object| {
        sample.kind != "ServiceCIDR" || object["metadata"]["name"] != "kubernetes"
    });
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn updates_of_what_was_not_read() {
    let server = server().await;
    let drivers = "/apis/storage.k8s.io/v1/csidrivers";
    let driver = json!({ "metadata": { "name": "zoo.example" }, "spec": {} });
    let created = call("POST", drivers).json(&driver).send(&server).await.expect(201);
    let path = format!("{drivers}/zoo.example");
    let blind = call("PUT", &path).json(&driver).send(&server).await;
    assert_eq!(blind.failure(), (422, "Invalid"));
    call("PUT", &path).json(&created).send(&server).await.expect(200);
    // A limit range is made by an update as well, and finds a name of its own when created.
    let ranges = "/api/v1/namespaces/default/limitranges";
    let range = json!({ "spec": { "limits": [] } });
    call("PUT", &format!("{ranges}/one")).json(&range).send(&server).await.expect(201);
    let unnamed = call("POST", ranges).json(&range).send(&server).await.expect(201);
    assert_eq!(unnamed["metadata"]["name"], unnamed["metadata"]["uid"]);
}
