"""The Python client, unmodified, with every kind that the server shows.

Each kind goes through the dynamic client (create, read, list, patches of each type, apply, update,
watch, delete, delete of a collection) and through the typed client's functions and models. What
the server shows and has no object in `bodies` fails, and so does an object without a kind there.

    python every_kind.py KUBECONFIG
"""

import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError

from bodies import BINDING, BODIES, NAMESPACE, REVIEWS, body, names, slug

# Most of the time of one is spent waiting for the server.
AT_ONCE = 4
PATCHES = [
    ("application/merge-patch+json", {"metadata": {"labels": {"merged": "yes"}}}),
    ("application/strategic-merge-patch+json", {"metadata": {"annotations": {"strategic": "yes"}}}),
    ("application/json-patch+json",
     [{"op": "add", "path": "/metadata/annotations/json", "value": "yes"}]),
]
TYPED_GROUPS = {
    "v1": client.CoreV1Api, "apps/v1": client.AppsV1Api, "batch/v1": client.BatchV1Api,
    "autoscaling/v1": client.AutoscalingV1Api, "autoscaling/v2": client.AutoscalingV2Api,
    "policy/v1": client.PolicyV1Api, "discovery.k8s.io/v1": client.DiscoveryV1Api,
    "coordination.k8s.io/v1": client.CoordinationV1Api, "events.k8s.io/v1": client.EventsV1Api,
    "networking.k8s.io/v1": client.NetworkingV1Api, "storage.k8s.io/v1": client.StorageV1Api,
    "scheduling.k8s.io/v1": client.SchedulingV1Api, "node.k8s.io/v1": client.NodeV1Api,
    "authentication.k8s.io/v1": client.AuthenticationV1Api,
    "authorization.k8s.io/v1": client.AuthorizationV1Api,
}
# Spelled in a way that does not follow from the kind.
SNAKES = {"CSIDriver": "csi_driver", "CSINode": "csi_node", "IPAddress": "ip_address",
          "CSIStorageCapacity": "csi_storage_capacity", "ServiceCIDR": "service_cidr"}


def check(holds, *what):
    if not holds:
        raise AssertionError(what)


def snake(kind):
    return SNAKES.get(kind) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()


def unless_conflict(work):
    """Controllers write, too: what met a newer version is done again."""
    for _ in range(10):
        try:
            return work()
        except (ApiException, ConflictError) as error:
            if error.status != 409:
                raise
    raise AssertionError("ten conflicts")


def shown(dynamic):
    """Kinds that discovery shows, without their lists."""
    found = {}
    for resource in dynamic.resources.search():
        if not resource.kind.endswith("List") and "create" in resource.verbs:
            found[resource.group_version, resource.kind] = resource
    return found


class Watcher(threading.Thread):
    """The changes after a resource version, until an object is deleted."""

    def __init__(self, follow, name):
        super().__init__(daemon=True)
        self.follow, self.name_of, self.seen, self.failure = follow, name, [], None
        self.start()

    def run(self):
        try:
            for event in self.follow():
                thing = event["raw_object"]
                if thing["metadata"].get("name") == self.name_of:
                    self.seen.append((event["type"], thing))
                    if event["type"] == "DELETED":
                        return
        except Exception as error:
            self.failure = error

    def types(self):
        self.join(30)
        check(not self.is_alive(), "the watch does not end", self.seen)
        if self.failure:
            raise self.failure
        versions = [int(thing["metadata"]["resourceVersion"]) for _, thing in self.seen]
        check(versions == sorted(set(versions)), "versions go back", versions)
        return [kind for kind, _ in self.seen]


def dynamically(resource, key):
    """One kind with the dynamic client."""
    space = {"namespace": NAMESPACE} if resource.namespaced else {}
    one, two, three = names(key)
    label = {"zoo": slug(key)}
    start = resource.get(**space).metadata.resourceVersion
    watcher = Watcher(lambda: resource.watch(resource_version=start, timeout=30, **space), one)

    made = resource.create(body=body(key, one, label), **space)
    check(made.kind == key[1] and made.apiVersion == key[0], made)
    check(made.metadata.uid and made.metadata.creationTimestamp, made)
    resource.create(body=body(key, two, label), **space)
    try:
        resource.create(body=body(key, one), **space)
        check(False, "made twice")
    except ConflictError as error:
        check("already exists" in str(error.body), error.body)
    check(resource.create(body=body(key, three), dry_run="All", **space).metadata.uid, "dry run")
    listed = resource.get(label_selector=f"zoo in ({slug(key)})", **space)
    check(listed.kind == key[1] + "List", listed.kind)
    check({item.metadata.name for item in listed.items} == {one, two}, listed)
    only = resource.get(field_selector=f"metadata.name={two}", **space).items
    check([item.metadata.name for item in only] == [two], only)

    for content_type, patch in PATCHES:
        resource.patch(body=patch, name=one, content_type=content_type, **space)
    applied = {"apiVersion": key[0], "kind": key[1],
               "metadata": {"name": one, "annotations": {"applied": "yes"}}}
    resource.server_side_apply(body=applied, name=one, field_manager="keeper", **space)
    live = resource.get(name=one, **space)
    marks = (live.metadata.labels.merged, *(live.metadata.annotations[mark] for mark in
                                            ("strategic", "json", "applied")))
    check(marks == ("yes",) * 4, live)
    managers = {(entry.manager, entry.operation) for entry in live.metadata.managedFields}
    check(("keeper", "Apply") in managers, managers)

    def replace():
        whole = resource.get(name=one, **space).to_dict()
        whole["metadata"]["labels"]["replaced"] = "yes"
        return resource.replace(body=whole, name=one, **space)
    check(unless_conflict(replace).metadata.labels.replaced == "yes", "not replaced")
    if "status" in resource.subresources:
        patch = {"metadata": {"annotations": {"said": "yes"}}}
        resource.status.patch(body=patch, name=one, content_type=PATCHES[0][0], **space)
        check(resource.status.get(name=one, **space).metadata.name == one, "no status")

    removed(resource, key, one, two, space)
    types = watcher.types()
    check(types[0] == "ADDED" and types[-1] == "DELETED", types)
    check(types[1:-1] == ["MODIFIED"] * (len(types) - 2) and len(types) >= 7, types)


def removed(resource, key, one, two, space):
    """Deletes one object by its name, and the other by its label."""
    resource.delete(name=one, body={"propagationPolicy": "Background"}, **space)
    try:
        while resource.get(name=one, **space).metadata.deletionTimestamp:
            # A namespace ends by a controller's work.
            check(key[1] == "Namespace", "stays")
            time.sleep(0.1)
    except NotFoundError:
        pass
    if "deletecollection" in resource.verbs:
        background = {"propagationPolicy": "Background"}
        resource.delete(label_selector=f"zoo={slug(key)}", body=background, **space)
    else:
        resource.delete(name=two, **space)


def typed(key, namespaced):
    """One kind with the functions and models of the typed client."""
    version, kind = key
    api = TYPED_GROUPS[version]()
    infix = "namespaced_" if namespaced else ""
    space = {"namespace": NAMESPACE} if namespaced else {}

    def call(verb, **arguments):
        return getattr(api, f"{verb}_{infix}{snake(kind)}")(**space, **arguments)

    name = names(key)[2]
    made = call("create", body=body(key, name, {"zoo": f"typed-{slug(key)}"}))
    check(type(made).__name__.endswith(kind) and made.metadata.name == name, made)
    start = made.metadata.resource_version
    sent = client.ApiClient().sanitize_for_serialization(call("read", name=name))
    for field in BODIES[key]:
        # What is only written becomes data; a deprecated field of events changed its name.
        check(field in sent or field == "stringData", field, sent)
    lister = getattr(api, f"list_{infix}{snake(kind)}")
    since = space | {"resource_version": start, "timeout_seconds": 30}
    watcher = Watcher(lambda: watch.Watch().stream(lister, **since), name)
    patched = call("patch", name=name, body={"metadata": {"labels": {"patched": "yes"}}})
    check(patched.metadata.labels["patched"] == "yes", patched)

    def replace():
        whole = call("read", name=name)
        whole.metadata.labels["replaced"] = "yes"
        return call("replace", name=name, body=whole)
    check(unless_conflict(replace).metadata.labels["replaced"] == "yes", "not replaced")
    selector = f"replaced=yes,patched,zoo=typed-{slug(key)}"
    found = lister(label_selector=selector, **space)
    check([item.metadata.name for item in found.items] == [name], found)
    call("delete", name=name, propagation_policy="Background")
    types = watcher.types()
    check(types[:2] == ["MODIFIED"] * 2 and types[-1] == "DELETED", types)


def reviewed(resource, key):
    """A review by both clients."""
    space = {"namespace": NAMESPACE} if resource.namespaced else {}
    asked = {"apiVersion": key[0], "kind": key[1], "metadata": space}
    if REVIEWS[key]:
        asked["spec"] = REVIEWS[key]
    answer = resource.create(body=asked, **space)
    check(answer.kind == key[1] and answer.status, answer)
    infix = "namespaced_" if resource.namespaced else ""
    create = getattr(TYPED_GROUPS[key[0]](), f"create_{infix}{snake(key[1])}")
    check(create(body=asked, **space).status, key)


def bound(resource):
    """A pod that is put on a node."""
    core = client.CoreV1Api()
    core.create_namespaced_pod(NAMESPACE, body(("v1", "Pod"), "to-be-bound"))
    binding = {"metadata": {"name": "to-be-bound"}, "target": {"kind": "Node", "name": "absent"}}
    answer = resource.create(body=binding, namespace=NAMESPACE)
    check(answer.kind == "Status" and answer.status == "Success", answer)
    pod = core.read_namespaced_pod("to-be-bound", NAMESPACE)
    check(pod.spec.node_name == "absent", pod)
    core.delete_namespaced_pod("to-be-bound", NAMESPACE, grace_period_seconds=0)


def tried(resource, key):
    """Whether a kind passes; what does not is told."""
    try:
        if key == BINDING:
            bound(resource)
        elif key in REVIEWS:
            reviewed(resource, key)
        else:
            dynamically(resource, key)
            typed(key, resource.namespaced)
    except Exception as error:
        print(*key, "FAILED:", type(error).__name__, error)
        return False
    return True


def main():
    config.load_kube_config(sys.argv[1])
    dynamic = DynamicClient(client.ApiClient())
    found = shown(dynamic)
    wanted = set(BODIES) | set(REVIEWS) | {BINDING}
    check(set(found) == wanted, "shown and not known, known and not shown:",
          set(found) - wanted, wanted - set(found))
    core = client.CoreV1Api()
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        passed = list(pool.map(lambda key: tried(found[key], key), sorted(found)))
    core.delete_namespace(NAMESPACE)
    print(f"{passed.count(True)} kinds passed, {passed.count(False)} failed")
    sys.exit(0 if all(passed) else 1)


main()
