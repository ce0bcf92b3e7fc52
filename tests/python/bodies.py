"""One object of each kind that the server stores, and of each review, as people write them."""

NAMESPACE = "zoo"

POD = {"containers": [{"name": "c", "image": "registry.example/image:1"}]}
TEMPLATE = {"metadata": {"labels": {"app": "zoo"}}, "spec": POD}
SET = {"selector": {"matchLabels": {"app": "zoo"}}, "template": TEMPLATE, "replicas": 0}
DAEMON = {"selector": SET["selector"], "template": TEMPLATE}
JOB = {"suspend": True, "template": {"spec": POD | {"restartPolicy": "Never"}}}
SIZE = {"storage": "1Gi"}
MODES = ["ReadWriteOnce"]
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "absent"}
ABOUT = {"kind": "ConfigMap", "namespace": NAMESPACE, "name": "cage", "apiVersion": "v1"}
REPORT = {
    "regarding": ABOUT, "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "Hungry",
    "reportingController": "zoo.example/keeper", "reportingInstance": "one", "action": "Fed",
    "type": "Normal", "note": "again",
}

# By version and kind: the object without its metadata. Names are those of metadata, too.
BODIES = {
    ("v1", "Namespace"): {},
    ("v1", "Node"): {"spec": {"unschedulable": True}},
    ("v1", "Pod"): {"spec": POD | {"nodeSelector": {"no": "where"}}},
    ("v1", "PodTemplate"): {"template": TEMPLATE},
    ("v1", "ReplicationController"):
        {"spec": {"replicas": 0, "selector": {"app": "zoo"}, "template": TEMPLATE}},
    ("v1", "Service"): {"spec": {"ports": [{"port": 80}], "selector": {"app": "zoo"}}},
    ("v1", "Endpoints"): {"subsets": [{"addresses": [{"ip": "192.0.2.9"}],
                                       "ports": [{"port": 80, "name": "web"}]}]},
    ("v1", "ConfigMap"): {"data": {"a": "1"}},
    ("v1", "Secret"): {"stringData": {"password": "none"}},
    ("v1", "ServiceAccount"): {"automountServiceAccountToken": False},
    ("v1", "Event"): {"involvedObject": ABOUT, "reason": "Fed", "message": "well",
                      "type": "Normal", "source": {"component": "keeper"}},
    ("v1", "LimitRange"):
        {"spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "1Ti"}}]}},
    ("v1", "ResourceQuota"): {"spec": {"hard": {"pods": "100"}}},
    ("v1", "PersistentVolume"):
        {"spec": {"capacity": SIZE, "accessModes": MODES, "hostPath": {"path": "/data"},
                  "storageClassName": "by-hand"}},
    ("v1", "PersistentVolumeClaim"):
        {"spec": {"accessModes": MODES, "resources": {"requests": SIZE},
                  "storageClassName": "none-such"}},
    ("apps/v1", "Deployment"): {"spec": SET},
    ("apps/v1", "ReplicaSet"): {"spec": SET},
    ("apps/v1", "DaemonSet"): {"spec": DAEMON},
    ("apps/v1", "StatefulSet"): {"spec": SET | {"serviceName": "zoo"}},
    ("apps/v1", "ControllerRevision"): {"data": {"any": 1}, "revision": 1},
    ("batch/v1", "Job"): {"spec": JOB},
    ("batch/v1", "CronJob"): {"spec": {"schedule": "0 3 1 1 *", "jobTemplate": {"spec": JOB}}},
    ("autoscaling/v1", "HorizontalPodAutoscaler"):
        {"spec": {"scaleTargetRef": TARGET, "maxReplicas": 2,
                  "targetCPUUtilizationPercentage": 70}},
    ("autoscaling/v2", "HorizontalPodAutoscaler"):
        {"spec": {"scaleTargetRef": TARGET, "maxReplicas": 2,
                  "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target":
                      {"type": "Utilization", "averageUtilization": 70}}}]}},
    ("policy/v1", "PodDisruptionBudget"):
        {"spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "zoo"}}}},
    ("discovery.k8s.io/v1", "EndpointSlice"):
        {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.9"]}], "ports": []},
    ("coordination.k8s.io/v1", "Lease"):
        {"spec": {"holderIdentity": "keeper", "leaseDurationSeconds": 30,
                  "renewTime": "2026-01-01T00:00:00.000001Z"}},
    ("events.k8s.io/v1", "Event"): REPORT,
    ("networking.k8s.io/v1", "Ingress"):
        {"spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}},
    ("networking.k8s.io/v1", "IngressClass"): {"spec": {"controller": "zoo.example/ingress"}},
    ("networking.k8s.io/v1", "NetworkPolicy"):
        {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
    ("networking.k8s.io/v1", "IPAddress"):
        {"spec": {"parentRef": {"resource": "services", "namespace": NAMESPACE, "name": "web"}}},
    ("networking.k8s.io/v1", "ServiceCIDR"): {"spec": {"cidrs": ["192.0.2.0/24"]}},
    ("storage.k8s.io/v1", "StorageClass"): {"provisioner": "zoo.example"},
    ("storage.k8s.io/v1", "VolumeAttachment"):
        {"spec": {"attacher": "zoo.example", "nodeName": "absent",
                  "source": {"persistentVolumeName": "absent"}}},
    ("storage.k8s.io/v1", "CSIDriver"): {"spec": {"attachRequired": False}},
    ("storage.k8s.io/v1", "CSINode"): {"spec": {"drivers": []}},
    ("storage.k8s.io/v1", "CSIStorageCapacity"): {"storageClassName": "fast", "capacity": "5Gi"},
    ("scheduling.k8s.io/v1", "PriorityClass"): {"value": 5},
    ("node.k8s.io/v1", "RuntimeClass"): {"handler": "runc"},
}

PODS = {"verb": "list", "resource": "pods", "namespace": NAMESPACE}
REVIEWS = {
    ("authentication.k8s.io/v1", "SelfSubjectReview"): {},
    ("authentication.k8s.io/v1", "TokenReview"): {"token": "of.no.account"},
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"): {"resourceAttributes": PODS},
    ("authorization.k8s.io/v1", "SubjectAccessReview"):
        {"user": "somebody", "resourceAttributes": PODS},
    ("authorization.k8s.io/v1", "LocalSubjectAccessReview"):
        {"user": "somebody", "resourceAttributes": PODS},
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview"): {"namespace": NAMESPACE},
}

# What puts a pod on a node; it is only created, and answered by a Status.
BINDING = ("v1", "Binding")

# Where a name is more than a name.
NAMES = {("networking.k8s.io/v1", "IPAddress"): ("192.0.2.1", "192.0.2.2", "192.0.2.3")}


def body(key, name, labels=None):
    """An object of a kind with a name."""
    version, kind = key
    whole = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    if labels:
        whole["metadata"]["labels"] = labels
    return whole | BODIES[key]


def slug(key):
    """A word for a kind of a version, for names and labels."""
    return "-".join((key[1], key[0])).lower().replace("/", "-").replace(".", "-")


def names(key):
    """Of nobody else, since kinds are tried at the same time and two versions share objects."""
    return NAMES.get(key) or tuple(f"{slug(key)}-{name}" for name in ("lion", "tiger", "bear"))
