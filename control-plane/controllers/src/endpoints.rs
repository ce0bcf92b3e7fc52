//! Endpoints objects: the older form of endpoint slices, for clients that still read them.
//!
//! Guarantees: at most 1,000 addresses, with the annotation that says so when there are more. A
//! terminating pod is left out. Endpoints of services without a selector are left alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use crate::World;
use crate::backends::{self, BackendPort};
use crate::cache::{Cache, Key};
use crate::endpoint_slice::{matters, services_of};
use crate::failure::{Doing, SyncFailed};
use crate::pods;
use crate::queue::{Next, WorkQueue, start_workers};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

struct EndpointsController {
    client: Client,
    pods: Arc<Cache<Pod>>,
    services: Arc<Cache<Service>>,
    endpoints: Arc<Cache<Endpoints>>,
}

pub(crate) fn start(world: &World) {
    let queue = WorkQueue::new();
    queue.follow(&world.services);
    let (on_pod, services) = (queue.clone(), world.services.clone());
    world.pods.on_change(move |change| {
        if matters(change) {
            services_of(change, &services).into_iter().for_each(|key| on_pod.add(key));
        }
    });
    queue.follow(&world.endpoints);
    let controller = Arc::new(EndpointsController {
        client: world.client.clone(),
        pods: world.pods.clone(),
        services: world.services.clone(),
        endpoints: world.endpoints.clone(),
    });
    let name = "endpoints-controller";
    start_workers(world, (name, 2), &queue, move |key| {
        let controller = controller.clone();
        async move { controller.look(&key).await }
    });
}

impl EndpointsController {
    async fn look(&self, key: &Key) -> Result<Next, SyncFailed> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let known = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            if let Some(known) = known.filter(|known| is_ours(known)) {
                let preconditions =
                    Preconditions { uid: known.metadata.uid.clone(), ..Preconditions::default() };
                let params = DeleteParams::default().preconditions(preconditions);
                api.delete(&key.name, &params).await.if_found("deleting endpoints", key)?;
            }
            return Ok(Next::Rest);
        };
        if backends::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Rest);
        }
        let pods = self.pods.in_namespace(&key.namespace);
        let written = match known {
            None => {
                let new = endpoints(&service, &pods, ObjectMeta::default());
                Some(
                    api.create(&PostParams::default(), &new)
                        .await
                        .doing("creating endpoints", key)?,
                )
            }
            Some(known) => {
                let new = endpoints(&service, &pods, known.metadata.clone());
                if new == *known {
                    return Ok(Next::Rest);
                }
                let written = api.replace(&key.name, &PostParams::default(), &new).await;
                written.if_found("updating endpoints", key)?
            }
        };
        written.into_iter().for_each(|written| self.endpoints.written(written));
        Ok(Next::Rest)
    }
}

fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

/// The object as it should be, on top of the metadata that is stored.
fn endpoints(service: &Service, pods: &[Arc<Pod>], mut metadata: ObjectMeta) -> Endpoints {
    let mut subsets: BTreeMap<Vec<BackendPort>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    let published = backends::publishes_not_ready(service);
    let mut count = 0;
    let chosen = pods.iter().filter(|pod| {
        backends::selects(service, pod)
            && backends::has_place(pod)
            && (published || !pods::is_terminating(pod))
    });
    for pod in chosen {
        count += 1;
        if count > MAX_ADDRESSES {
            break;
        }
        let Some(address) = backends::addresses(pod).first().map(ToString::to_string) else {
            continue;
        };
        let (ready, not_ready) = subsets.entry(backends::ports(service, pod)).or_default();
        let list = if published || pods::is_ready(pod) { ready } else { not_ready };
        list.push(endpoint_address(service, pod, address));
    }
    metadata.name.clone_from(&service.metadata.name);
    metadata.namespace.clone_from(&service.metadata.namespace);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if backends::is_headless(service) {
        labels.insert(backends::HEADLESS_LABEL.to_owned(), String::new());
    }
    metadata.labels = Some(labels);
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if count > MAX_ADDRESSES {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    let subsets: Vec<_> = subsets.into_iter().map(|(ports, sides)| subset(&ports, sides)).collect();
    Endpoints { metadata, subsets: (!subsets.is_empty()).then_some(subsets) }
}

fn endpoint_address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: backends::hostname(service, pod),
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

fn subset(
    ports: &[BackendPort],
    (ready, not_ready): (Vec<EndpointAddress>, Vec<EndpointAddress>),
) -> EndpointSubset {
    let ports: Vec<EndpointPort> = ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()).filter(|name| !name.is_empty()),
            port: port.port,
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    EndpointSubset {
        addresses: (!ready.is_empty()).then_some(ready),
        not_ready_addresses: (!not_ready.is_empty()).then_some(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::samples::{pod, terminating, unready};
    use k8s_openapi::api::core::v1::{PodIP, ServicePort, ServiceSpec};

    fn backend(name: &str, ip: &str) -> Pod {
        let mut pod = pod(name);
        pod.metadata.labels = Some([("app".to_owned(), "x".to_owned())].into());
        pod.status.as_mut().unwrap().pod_ips = Some(vec![PodIP { ip: ip.into() }]);
        pod
    }

    #[test]
    fn ready_and_not_ready_are_apart_and_leaving_pods_are_left_out() {
        let service = Service {
            spec: Some(ServiceSpec {
                selector: Some([("app".to_owned(), "x".to_owned())].into()),
                ports: Some(vec![ServicePort { port: 80, ..ServicePort::default() }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        };
        let pods = [
            backend("a", "10.240.0.2"),
            unready(backend("b", "10.240.0.3")),
            terminating(backend("c", "10.240.0.4")),
        ]
        .map(Arc::new);
        let made = endpoints(&service, &pods, ObjectMeta::default());
        let subset = &made.subsets.as_ref().unwrap()[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ips(&subset.addresses), ["10.240.0.2"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.240.0.3"]);
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 80);
        assert_eq!(made, endpoints(&service, &pods, made.metadata.clone()), "settles");
    }
}
