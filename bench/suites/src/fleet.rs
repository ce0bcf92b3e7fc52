//! The services that are made, as objects of the API, and where each of them leads.

use std::net::Ipv4Addr;

use anyhow::Result;
use bowline_tests::api::Api;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use serde_json::json;

use crate::rules;

const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 9, 16, 0);
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const NAMESPACES: u32 = 100;
/// So many services have all the endpoints that were asked for, the others one.
const FULL: u32 = 10_000;
/// A service's first endpoint is at one of so many addresses in turn.
const VERSIONS: u32 = 8;
/// How many objects are made at once.
const AT_ONCE: usize = 32;

/// What an agent may take of memory with so many services, in megabytes; there is a goal for one
/// number of them.
pub(crate) fn memory_goal(count: u32) -> Option<f64> {
    (count == FULL).then_some(120.0)
}

/// Service `number` is the same for everybody, and so are its endpoints once it was changed so
/// often.
pub(crate) struct Fleet {
    endpoints: u32,
    /// How often each service's endpoints were changed.
    versions: Vec<u32>,
}

impl rules::Services for Fleet {
    const PORT: u16 = 80;
    const BACKEND_PORT: u16 = 8080;

    fn protocols(&self, _number: u32) -> &'static [&'static str] {
        &["tcp"]
    }

    fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(FIRST_SERVICE.to_bits() + number)
    }

    fn backends(&self, number: u32) -> Vec<Ipv4Addr> {
        let version = self.versions.get(number as usize).copied().unwrap_or(0);
        let one = |index: u32| {
            // Of a changed version one endpoint is another.
            let moved = if index == 0 { version % VERSIONS * 0x10_0000 } else { 0 };
            Ipv4Addr::from_bits(FIRST_ENDPOINT.to_bits() + number * self.endpoints + index + moved)
        };
        (0..self.endpoints_of(number)).map(one).collect()
    }
}

/// Where a service is found.
pub(crate) struct Names {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) slice: String,
}

impl Names {
    pub(crate) fn of(number: u32) -> Self {
        Self {
            namespace: format!("bench-{}", number % NAMESPACES),
            service: format!("s{number}"),
            slice: format!("s{number}-1"),
        }
    }
}

impl Fleet {
    /// So many services that were never changed; the first have so many endpoints each.
    pub(crate) fn new(endpoints: u32, count: u32) -> Self {
        Self { endpoints, versions: vec![0; count as usize] }
    }

    pub(crate) fn endpoints_of(&self, number: u32) -> u32 {
        if number < FULL { self.endpoints } else { 1 }
    }

    /// From now on a service has another endpoint.
    pub(crate) fn change(&mut self, number: u32) {
        self.versions[number as usize] += 1;
    }

    /// Makes those that are missing of so many.
    pub(crate) async fn grow(&mut self, api: &Api, count: u32) -> Result<()> {
        let before = self.versions.len() as u32;
        if before == 0 {
            for number in 0..NAMESPACES {
                let name = Names::of(number).namespace;
                let object = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
                api.of_cluster::<Namespace>().create(&PostParams::default(), &object).await?;
            }
        }
        self.versions.resize(count as usize, 0);
        let fleet: &Self = self;
        let made = futures::stream::iter(before..count).map(|number| fleet.create(api, number));
        made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn create(&self, api: &Api, number: u32) -> Result<()> {
        let names = Names::of(number);
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": names.service },
            "spec": {
                "clusterIP": rules::Services::address(self, number),
                "ports": [{ "port": <Self as rules::Services>::PORT }],
            },
        }))?;
        let slices = kube::Api::namespaced(api.client(), &names.namespace);
        slices.create(&PostParams::default(), &self.slice(number)?).await?;
        let services = kube::Api::namespaced(api.client(), &names.namespace);
        services.create(&PostParams::default(), &service).await?;
        Ok(())
    }

    /// The endpoints of a service as they should be now.
    pub(crate) fn slice(&self, number: u32) -> Result<EndpointSlice> {
        let Names { namespace, service, slice } = Names::of(number);
        let backends = rules::Services::backends(self, number);
        let endpoints = backends.into_iter().enumerate().map(|(index, address)| {
            let pod = format!("{service}-5d8f9c7b6-{index:05}");
            json!({
                "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node{}", index % 3),
                "zone": "a",
                "targetRef": { "kind": "Pod", "namespace": namespace, "name": pod,
                    "uid": format!("6f1c9a52-0000-4000-8000-{:012}", address.to_bits()) },
            })
        });
        Ok(serde_json::from_value(json!({
            "metadata": {
                "name": slice,
                "namespace": namespace,
                "labels": { "kubernetes.io/service-name": service },
            },
            "addressType": "IPv4",
            "ports": [{
                "name": "",
                "port": <Self as rules::Services>::BACKEND_PORT,
                "protocol": "TCP",
            }],
            "endpoints": endpoints.collect::<Vec<_>>(),
        }))?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rules::Services as _;

    #[test]
    fn a_change_gives_a_service_one_other_endpoint_that_nobody_has() {
        let mut fleet = Fleet::new(10, 30_000);
        let all = |fleet: &Fleet| (0..30_000).flat_map(|n| fleet.backends(n)).collect::<Vec<_>>();
        let first = all(&fleet);
        assert_eq!(first.len(), 120_000);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 120_000, "each its own");
        for number in [0, 9_999, 29_999] {
            let before = fleet.backends(number);
            fleet.change(number);
            let after = fleet.backends(number);
            assert_eq!(before[1..], after[1..]);
            assert!(!first.contains(&after[0]), "{number}: {}", after[0]);
        }
    }
}
