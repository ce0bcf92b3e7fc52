//! The objects that every cluster has from the start.
//!
//! The system's namespaces with their accounts, its priority classes, the `kubernetes` service with
//! the server's own address behind it, and the `kube-dns` service, whose one backend each node is
//! for itself, in both families where the cluster has them. What is already there is left alone,
//! but for the server's address, which may have changed. [`keep`] makes again what leads to the
//! server, and the ranges of service addresses, when somebody deletes them.

use crate::admission::SYSTEM_NAMESPACES;
use crate::auth::User;
use crate::http::Api;
use crate::objects::{Caller, Objects, Part, Place, timestamp};
use bowline_api::cidr::{Cidr, DualStackCidr};
use bowline_api::object;
use bowline_api::resource::find;
use bowline_api::status::Status;
use bowline_api::validation::SYSTEM_PRIORITY_CLASSES;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The position of the `kubernetes` service in the service range.
const KUBERNETES_INDEX: u64 = 1;
/// The position of the `kube-dns` service in the service range.
const DNS_INDEX: u64 = 10;
/// How long what leads to the server can be missing.
const KEPT_EVERY: Duration = Duration::from_secs(2);

/// The first objects cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapFailed {
    #[error("the service range {0} is too small: it needs at least 16 addresses")]
    RangeTooSmall(Cidr),
    #[error(
        "the stored service {service} has the address {found}, which is not {expected} as the \
         service range asks for: start with the range that the cluster was made with"
    )]
    RangeChanged { service: &'static str, found: String, expected: String },
    #[error("{object} cannot be made: {reason}")]
    Object { object: String, reason: String },
}

/// The address of the `kubernetes` service.
pub(crate) fn kubernetes_address(range: Cidr) -> Result<String, BootstrapFailed> {
    nth(range, KUBERNETES_INDEX)
}

fn nth(range: Cidr, index: u64) -> Result<String, BootstrapFailed> {
    if range.size() < 16 {
        return Err(BootstrapFailed::RangeTooSmall(range));
    }
    let address = range.address(index).ok_or(BootstrapFailed::RangeTooSmall(range))?;
    Ok(address.to_string())
}

pub(crate) async fn run(
    objects: &Objects,
    ranges: DualStackCidr,
    advertise: SocketAddr,
) -> Result<(), BootstrapFailed> {
    for name in SYSTEM_NAMESPACES {
        ensure(objects, "namespaces", "", json!({ "metadata": { "name": name } })).await?;
        // Those of other namespaces are made by a controller.
        let account = json!({ "metadata": { "name": "default" } });
        ensure(objects, "serviceaccounts", name, account).await?;
    }
    for (name, value) in SYSTEM_PRIORITY_CLASSES {
        ensure(objects, "priorityclasses", "", priority_class(name, value)).await?;
    }
    let dns: Vec<String> =
        ranges.ranges().map(|range| nth(range, DNS_INDEX)).collect::<Result<_, _>>()?;
    restore(objects, ranges, advertise).await?;
    let stored = ensure(objects, "services", "kube-system", dns_service(&dns)).await?;
    check_address("kube-system/kube-dns", &stored, &dns[0])
}

/// Looks after the objects that lead to the server until there is no server any more.
pub(crate) async fn keep(api: Weak<Api>, ranges: DualStackCidr, stop: CancellationToken) {
    let mut told = String::new();
    while stop.run_until_cancelled(tokio::time::sleep(KEPT_EVERY)).await.is_some() {
        let Some(api) = api.upgrade() else { return };
        let restored = restore(&api.objects, ranges, api.advertise).await;
        let trouble = restored.err().map(|error| error.to_string()).unwrap_or_default();
        if !trouble.is_empty() && trouble != told {
            tracing::warn!(error = trouble, "what leads to the server is looked at again later");
        }
        told = trouble;
    }
}

/// The way to the server, and the ranges of service addresses.
async fn restore(
    objects: &Objects,
    ranges: DualStackCidr,
    advertise: SocketAddr,
) -> Result<(), BootstrapFailed> {
    let kubernetes = nth(ranges.v4, KUBERNETES_INDEX)?;
    let stored =
        ensure(objects, "services", "default", kubernetes_service(&kubernetes, advertise)).await?;
    check_address("default/kubernetes", &stored, &kubernetes)?;
    put(objects, "endpoints", "default", endpoints(advertise)).await?;
    put(objects, "endpointslices", "default", endpoint_slice(advertise)).await?;
    service_cidr(objects, ranges).await
}

/// One that says something else than this server was told is left as it is.
async fn service_cidr(objects: &Objects, ranges: DualStackCidr) -> Result<(), BootstrapFailed> {
    let cidrs: Vec<String> = ranges.ranges().map(|range| range.to_string()).collect();
    let wanted = json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": cidrs } });
    let mut stored = ensure(objects, "servicecidrs", "", wanted.clone()).await?;
    let has = |cidrs: &[String]| stored["spec"]["cidrs"] == json!(cidrs);
    if cidrs.len() == 2 && has(&cidrs[..1]) {
        put(objects, "servicecidrs", "", wanted.clone()).await?;
        stored = ensure(objects, "servicecidrs", "", wanted).await?;
    } else if !has(&cidrs) {
        return Ok(());
    }
    let conditions = stored["status"]["conditions"].as_array();
    if conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready")) {
        return Ok(());
    }
    stored["status"]["conditions"] = json!([{
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": timestamp(Duration::ZERO),
    }]);
    let place = place("servicecidrs", "", &stored)?;
    let mut caller = Caller::new(User::apiserver());
    objects.replace(&mut caller, &place, Part::Status, stored).await.map_err(failed(&place))?;
    Ok(())
}

fn check_address(
    service: &'static str,
    stored: &Value,
    expected: &str,
) -> Result<(), BootstrapFailed> {
    let found = stored["spec"]["clusterIP"].as_str().unwrap_or_default();
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.to_owned(), expected.to_owned());
    Err(BootstrapFailed::RangeChanged { service, found, expected })
}

fn place(plural: &str, namespace: &str, value: &Value) -> Result<Place, BootstrapFailed> {
    let group = match plural {
        "endpointslices" => "discovery.k8s.io",
        "priorityclasses" => "scheduling.k8s.io",
        "servicecidrs" => "networking.k8s.io",
        _ => "",
    };
    let name = object::name(value).to_owned();
    let resource = find(group, "v1", plural).ok_or_else(|| BootstrapFailed::Object {
        object: format!("{plural} {name}"),
        reason: "the kind is not in the resource table".to_owned(),
    })?;
    Ok(Place { resource, namespace: namespace.to_owned(), name })
}

fn failed(place: &Place) -> impl Fn(Status) -> BootstrapFailed + '_ {
    |status| BootstrapFailed::Object {
        object: format!("{} {}/{}", place.resource.plural, place.namespace, place.name),
        reason: status.message,
    }
}

/// Makes the object unless it is there, and returns what is there.
async fn ensure(
    objects: &Objects,
    plural: &str,
    namespace: &str,
    value: Value,
) -> Result<Value, BootstrapFailed> {
    let place = place(plural, namespace, &value)?;
    if let Ok(stored) = objects.get(&place).await {
        return Ok(stored.value.clone());
    }
    let mut caller = Caller::new(User::apiserver());
    let created = objects.create(&mut caller, &place, value).await.map_err(failed(&place))?;
    Ok(created.value.clone())
}

/// Makes the object, or makes the stored one equal to it.
async fn put(
    objects: &Objects,
    plural: &str,
    namespace: &str,
    value: Value,
) -> Result<(), BootstrapFailed> {
    let place = place(plural, namespace, &value)?;
    ensure(objects, plural, namespace, value.clone()).await?;
    let mut caller = Caller::new(User::apiserver());
    objects.replace(&mut caller, &place, Part::Main, value).await.map_err(failed(&place))?;
    Ok(())
}

fn priority_class(name: &str, value: i64) -> Value {
    let description = match name {
        "system-node-critical" => "Pods of the system that have to stay on their node.",
        _ => "Pods that the cluster cannot do without, on whichever node.",
    };
    json!({ "metadata": { "name": name }, "value": value, "description": description })
}

fn kubernetes_service(address: &str, advertise: SocketAddr) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "ports": [{ "name": "https", "port": 443, "targetPort": advertise.port() }],
        },
    })
}

fn dns_service(addresses: &[String]) -> Value {
    json!({
        "metadata": { "name": "kube-dns", "labels": { "k8s-app": "kube-dns" } },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ],
        },
    })
}

fn endpoints(advertise: SocketAddr) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes",
            // Its slice is written beside it.
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{
            "addresses": [{ "ip": advertise.ip().to_string() }],
            "ports": [{ "name": "https", "port": advertise.port(), "protocol": "TCP" }],
        }],
    })
}

fn endpoint_slice(advertise: SocketAddr) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{
            "addresses": [advertise.ip().to_string()],
            "conditions": { "ready": true },
        }],
        "ports": [{ "name": "https", "port": advertise.port(), "protocol": "TCP" }],
    })
}
