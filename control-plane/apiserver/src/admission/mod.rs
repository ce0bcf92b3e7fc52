//! What the cluster decides about an object beyond the object itself.
//!
//! The chain for a new object, in this order: the name a node may use, the namespace it goes into,
//! what a pod's containers ask for by default, its service account, tolerations and priority; and
//! when the object is known to be valid, limit ranges, quotas, a service's addresses and ports, and
//! whether a priority class may be the default.
//!
//! Guarantees: no address or node port is given to two services, no quota is overrun, and one
//! priority class at most is the default; whatever is refused is refused before anything is stored.
//! It reads the caches and never writes.

mod account;
mod limits;
mod namespace;
mod node;
mod pod;
mod priority;
mod quota;
mod quota_ledger;
mod service;
mod service_addresses;
mod service_ledger;

use crate::auth::User;
use crate::objects::Place;
use crate::watch::Caches;
use bowline_api::cidr::DualStackCidr;
use bowline_api::status::Status;
use serde_json::Value;
use std::sync::Arc;

pub(crate) use namespace::SYSTEM_NAMESPACES;

/// What a write took that is not visible yet. Dropped when it is.
pub(crate) type Reserved = (Option<quota::Charge>, Option<Taken>);

/// What only one may have, and is about to.
pub(crate) type Taken = Box<dyn Send>;

/// See the module's documentation.
pub(crate) struct Admission {
    caches: Arc<Caches>,
    services: service::Allocator,
    quotas: quota::Quotas,
    default_class: priority::DefaultClass,
    toleration_seconds: i64,
}

impl Admission {
    pub(crate) fn new(
        caches: Arc<Caches>,
        service_cidr: DualStackCidr,
        toleration_seconds: i64,
    ) -> Self {
        let services = service::Allocator::new(service_cidr);
        let (quotas, default_class) = (quota::Quotas::default(), priority::DefaultClass::default());
        Self { caches, services, quotas, default_class, toleration_seconds }
    }

    /// Waits for what a new object needs and the cluster is about to make.
    pub(crate) async fn wait_for_needs(&self, place: &Place, value: &Value) {
        if place.resource.is("", "pods") {
            account::wait(&self.caches, place, value).await;
        }
    }

    /// Decides about a new object and fills in what the cluster gives it.
    pub(crate) fn mutate_new(
        &self,
        user: &User,
        place: &Place,
        value: &mut Value,
    ) -> Result<(), Status> {
        node::check_new(user, place.resource, value)?;
        namespace::check_target(&self.caches, place, value)?;
        match place.resource.plural {
            "namespaces" => namespace::fill(value),
            "pods" => {
                if limits::fill(&self.caches, place, value) {
                    // It follows from what the containers ask for.
                    value["status"]["qosClass"] = Value::Null;
                    (place.resource.apply_defaults)(value);
                }
                pod::fill(value, self.toleration_seconds);
                account::admit(&self.caches, place, value)?;
                self.default_class.resolve(&self.caches, place, value)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Decides about an update beyond what the kind itself allows.
    pub(crate) fn check_update(
        &self,
        user: &User,
        place: &Place,
        new: &Value,
        old: &Value,
    ) -> Result<(), Status> {
        node::check_update(user, place, new, old)
    }

    /// Decides about an object that is valid by itself.
    pub(crate) fn check_valid(
        &self,
        place: &Place,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        match (place.resource.plural, old) {
            ("pods", None) | ("persistentvolumeclaims", _) => {
                limits::check(&self.caches, place, new, old)
            }
            _ => Ok(()),
        }
    }

    /// Decides about a delete.
    pub(crate) fn check_delete(&self, place: &Place) -> Result<(), Status> {
        namespace::check_delete(place)
    }

    /// What the writer of an object is told beside the success.
    pub(crate) fn warnings(place: &Place, value: &Value) -> Vec<String> {
        match place.resource.plural {
            "services" => service::Allocator::warnings(value),
            "pods" => pod::warnings(&value["spec"], "spec"),
            "deployments"
            | "replicasets"
            | "replicationcontrollers"
            | "daemonsets"
            | "statefulsets"
            | "jobs" => pod::warnings(&value["spec"]["template"]["spec"], "spec.template.spec"),
            "cronjobs" => pod::warnings(
                &value["spec"]["jobTemplate"]["spec"]["template"]["spec"],
                "spec.jobTemplate.spec.template.spec",
            ),
            "podtemplates" => pod::warnings(&value["template"]["spec"], "template.spec"),
            _ => Vec::new(),
        }
    }

    /// Charges the object to the quotas of its namespace, gives a service its addresses and ports,
    /// and a priority class the part of the default. The write must be visible in the caches
    /// before what this returns is dropped.
    pub(crate) async fn allocate(
        &self,
        place: &Place,
        value: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reserved, Status> {
        let charge = self.quotas.charge(&self.caches, place, value, old)?;
        let taken = match place.resource.plural {
            "services" => self.services.allocate(&self.caches, place, value, old).await?,
            "priorityclasses" => self.default_class.take(&self.caches, place, value).await?,
            _ => None,
        };
        Ok((charge, taken))
    }
}
