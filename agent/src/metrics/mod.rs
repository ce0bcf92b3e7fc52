//! `GET /metrics` of the agent's HTTPS server, for Prometheus.
//!
//! Guarantees: what the data plane counts is read from the pinned maps when it is asked for, and
//! kept nowhere. One scrape is made at a time, and it waits for nobody who programs. The number of
//! series is bounded: by reasons, maps and flags, and for services by `--metrics-services`.
//! Not here: who may ask (`server`).

mod data_plane;
mod meters;
mod recent;

use std::{fmt, path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bowline_ebpf_abi::ABI_VERSION;
use bowline_metrics::Format;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;

use crate::{dns::Dns, watch::Watched};
use data_plane::DataPlaneSeries;
pub(crate) use meters::{Loop, Meters};
pub(crate) use recent::{RECENT_FILE, Recent, Round, keep as keep_recent};

/// What metrics are made from.
pub(crate) struct Sources {
    /// Where the maps are pinned.
    pub(crate) bpffs: PathBuf,
    /// How many services have counters of their own.
    pub(crate) most_services: usize,
    pub(crate) watched: Arc<Watched>,
    pub(crate) dns: Dns,
    pub(crate) meters: Meters,
}

/// All metrics of this agent.
struct Metrics {
    registry: Registry,
    turn: Arc<Mutex<()>>,
}

/// Serves them.
pub(crate) fn router(sources: Sources) -> Router {
    let mut registry = bowline_metrics::registry(&[("abi", ABI_VERSION.to_string())]);
    sources.meters.register(&mut registry);
    registry.register_collector(Box::new(sources.dns.series()));
    registry.register_collector(Box::new(DataPlaneSeries {
        bpffs: sources.bpffs,
        most_services: sources.most_services,
        watched: sources.watched,
    }));
    let metrics = Metrics { registry, turn: Arc::default() };
    Router::new().route("/metrics", get(scrape)).with_state(Arc::new(metrics))
}

async fn scrape(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let turn = metrics.turn.clone().lock_owned().await;
    let body = tokio::task::spawn_blocking(move || {
        // Held until it is done, also when its client has gone.
        let _turn = turn;
        format.write(&[&metrics.registry])
    });
    match body.await {
        Ok(Ok(body)) => ([(header::CONTENT_TYPE, format.content_type())], body).into_response(),
        Ok(Err(fmt::Error)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written").into_response()
        }
    }
}
