//! What the server counts, for Prometheus.
//!
//! Guarantees: names and labels are those of Kubernetes' own server where it has the same thing, so
//! that dashboards for it work here. The number of series is bounded by the table of kinds: nothing
//! that a client writes becomes a label. Watchers and objects are counted when they are asked for.
//! Not here: who may read them.

use crate::http::Route;
use crate::watch::Caches;
use bowline_api::resource::Resource;
use bowline_metrics::{ALONE, Format, Writer};
use http::{Method, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bounds in seconds: most answers come from memory, a write waits for the disk.
const REQUEST_BOUNDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const STORE_BOUNDS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// What a request asks for. Everything but resources has the method alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Act {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    #[prometheus(flatten)]
    act: Act,
    code: u16,
}

/// Which share a request has a place in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    ReadOnly,
    Mutating,
}

impl RequestKind {
    pub(crate) fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::ReadOnly,
            _ => Self::Mutating,
        }
    }

    fn label(self) -> Kind {
        match self {
            Self::ReadOnly => Kind { request_kind: "readOnly" },
            Self::Mutating => Kind { request_kind: "mutating" },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

/// What the store did, and whether it worked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreCall {
    operation: &'static str,
    result: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters. A handle: clones share them.
#[derive(Clone)]
pub(crate) struct Meters {
    requests: Family<Answered, Counter>,
    durations: Durations<Act>,
    inflight: Family<Kind, Gauge>,
    dropped: Family<Kind, Counter>,
    store: Durations<StoreCall>,
    registry: Arc<Registry>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        let requests = Family::default();
        let durations: Durations<Act> = Family::new_with_constructor(request_histogram);
        let inflight = Family::default();
        let dropped = Family::default();
        let store: Durations<StoreCall> = Family::new_with_constructor(store_histogram);
        let mut registry = bowline_metrics::registry(&[]);
        registry.register(
            "apiserver_request",
            "Requests that were answered; a watch when it began",
            Family::clone(&requests),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "From the head of a request to its answer; without watches, which last",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that wait for their answer; without streams, which last",
            Family::clone(&inflight),
        );
        registry.register(
            "apiserver_dropped_requests",
            "Requests that were told to come back later, because there were too many",
            Family::clone(&dropped),
        );
        registry.register(
            "bowline_store_request_duration_seconds",
            "How long the store took; for a write until it was on the disk",
            store.clone(),
        );
        let registry = Arc::new(registry);
        Self { requests, durations, inflight, dropped, store, registry }
    }

    /// A request that begins, with the share that it has a place in. `watch` says that its query
    /// asks for one.
    pub(crate) fn begin(
        &self,
        method: &Method,
        route: &Route,
        watch: bool,
        kind: Option<RequestKind>,
    ) -> Running {
        let inflight = kind.map(|kind| self.inflight.get_or_create_owned(&kind.label()));
        if let Some(inflight) = &inflight {
            inflight.inc();
        }
        let act = act(method, route, watch);
        Running { meters: self.clone(), act, inflight, start: Instant::now() }
    }

    /// A request that was one too many.
    pub(crate) fn dropped(&self, kind: RequestKind) {
        self.dropped.get_or_create(&kind.label()).inc();
    }

    /// The store has answered.
    pub(crate) fn store_answered(
        &self,
        operation: &'static str,
        result: &'static str,
        took: Duration,
    ) {
        let call = StoreCall { operation, result };
        self.store.get_or_create(&call).observe(took.as_secs_f64());
    }

    /// Everything, with what the caches hold now.
    pub(crate) fn write(&self, format: Format, caches: &Arc<Caches>) -> Result<String, fmt::Error> {
        let mut now = Registry::default();
        now.register_collector(Box::new(Held(caches.clone())));
        format.write(&[&self.registry, &now])
    }
}

/// A request that is being answered.
pub(crate) struct Running {
    meters: Meters,
    act: Act,
    inflight: Option<Gauge>,
    start: Instant,
}

impl Running {
    pub(crate) fn answered(self, code: StatusCode) {
        if self.act.verb != "WATCH" {
            let took = self.start.elapsed().as_secs_f64();
            self.meters.durations.get_or_create(&self.act).observe(took);
        }
        let answered = Answered { act: self.act.clone(), code: code.as_u16() };
        self.meters.requests.get_or_create(&answered).inc();
    }
}

impl Drop for Running {
    /// Also when the client went away and nobody works on its request any more.
    fn drop(&mut self) {
        if let Some(inflight) = &self.inflight {
            inflight.dec();
        }
    }
}

fn request_histogram() -> Histogram {
    Histogram::new(REQUEST_BOUNDS)
}

fn store_histogram() -> Histogram {
    Histogram::new(STORE_BOUNDS)
}

fn act(method: &Method, route: &Route, watch: bool) -> Act {
    let Route::Resource(target) = route else {
        return Act { verb: method_name(method), ..Act::default() };
    };
    let collection = target.name.is_empty();
    let verb = match method_name(method) {
        "GET" if watch && target.subresource.is_empty() => "WATCH",
        "GET" if collection => "LIST",
        "DELETE" if collection => "DELETECOLLECTION",
        name => name,
    };
    let Resource { group, version, plural, subresources, .. } = target.resource;
    let known = ["status", "scale", "finalize"];
    let mut known = known.into_iter().chain(subresources.iter().map(|sub| sub.name));
    let subresource = known.find(|name| *name == target.subresource).unwrap_or_default();
    Act { verb, group, version, resource: plural, subresource }
}

/// The method, as far as it is one that means something here: a client may write any word.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" | "HEAD" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

/// What the caches hold.
struct Held(Arc<Caches>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Collector for Held {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer::new(encoder);
        let held = self.0.held();
        let help = "Objects that are stored.";
        let objects = held.iter().map(|held| {
            let resource = match held.resource.group {
                "" => held.resource.plural.to_owned(),
                group => format!("{}.{group}", held.resource.plural),
            };
            ([("resource", resource)], held.objects as f64)
        });
        writer.gauges("apiserver_storage_objects", help, objects)?;
        let watches = held.iter().map(|held| {
            let Resource { group, version, plural, .. } = held.resource;
            let labels =
                [("verb", "WATCH"), ("group", group), ("version", version), ("resource", plural)];
            (labels, held.watchers as f64)
        });
        let help = "Watches that are open.";
        writer.gauges("apiserver_longrunning_requests", help, watches)?;
        let revision = [(ALONE, self.0.applied())];
        writer.counters("bowline_store_revisions", "Writes since the store was made.", revision)
    }
}
