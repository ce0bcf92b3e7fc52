//! Watch streams.
//!
//! A line a change, or in protobuf a frame. The full form in the version that is stored sends bytes
//! that all watchers share; a table, the metadata alone or another version is made for the one who
//! asked. A stream ends at its timeout, when
//! the server stops, and when its reader is too slow; the client resumes from the last revision it
//! saw.

use super::limits::OpenWatch;
use super::negotiate::{Encoding, Form, Shape};
use super::path::Target;
use super::query::Query;
use super::{Api, options, protobuf, respond};
use crate::objects::parse_revision;
use crate::objects::unreadable::read_failed;
use crate::store::Revision;
use crate::watch::{Caches, Delivery, Object, Session, Start, WatchRefused, frame};
use axum::body::Body;
use axum::response::Response;
use bowline_api::resource::Resource;
use bowline_api::status::Status;
use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use rand::Rng;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long a watch lasts that does not say; spread, so that not all come back at once.
const DEFAULT_TIMEOUT_SECONDS: std::ops::Range<u64> = 1800..3600;
/// The annotation of the bookmark after the first state.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watch {
    session: Session,
    resource: &'static Resource,
    form: Form,
    caches: Arc<Caches>,
    bookmarks: Option<Interval>,
    /// The revision of the bookmark that ends the first state, until it is sent.
    initial_end: Option<Revision>,
    deadline: Instant,
    stop: CancellationToken,
    /// Tables name their columns in the first event only.
    columns: bool,
    /// The user has one watch less when this one is gone.
    _open: OpenWatch,
}

pub(super) async fn serve(
    api: &Arc<Api>,
    target: &Target,
    query: &Query,
    form: Form,
    open: OpenWatch,
) -> Result<Response, Status> {
    let mut filter = options::filter(target, query)?;
    if !target.name.is_empty() {
        // A watch of one object by its path.
        let selector = format!("metadata.name={}", target.name);
        filter.fields = bowline_api::selector::FieldSelector::parse(target.resource, &selector)
            .map_err(|error| Status::bad_request(error.to_string()))?;
    }
    let with_bookmarks = query.flag("allowWatchBookmarks");
    let send_initial = options::initial_events(query)?;
    let timeout = match query.number("timeoutSeconds")? {
        None | Some(0) => rand::rng().random_range(DEFAULT_TIMEOUT_SECONDS),
        Some(seconds) => u64::try_from(seconds).unwrap_or(0).min(DEFAULT_TIMEOUT_SECONDS.end * 24),
    };
    let version = query.get("resourceVersion");
    match version {
        "" => api.objects.catch_up().await?,
        "0" => {}
        version => api.objects.wait_for(parse_revision(version)?).await?,
    }
    let start = match (send_initial, version) {
        (Some(true), _) | (None, "" | "0") => Start::State,
        (Some(false), "" | "0") => Start::Now,
        (_, version) => Start::After(parse_revision(version)?),
    };
    let initial_end = (send_initial == Some(true) && with_bookmarks).then(|| api.caches.applied());
    let session = match api.caches.of(target.resource).watch(filter, start) {
        Ok(session) => session,
        Err(WatchRefused::Unreadable(found)) => {
            return Err(read_failed(target.resource, &target.name, &found));
        }
        // As an event of the stream: that is where clients expect it.
        Err(error) => return Ok(expired(form.encoding, &error.to_string())),
    };
    let every = api.bookmark_every;
    let bookmarks = with_bookmarks.then(|| {
        let mut interval = interval_at(Instant::now() + every, every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        interval
    });
    let watch = Watch {
        session,
        resource: target.resource,
        form,
        caches: api.caches.clone(),
        bookmarks,
        initial_end,
        deadline: Instant::now() + Duration::from_secs(timeout),
        stop: api.stop.clone(),
        columns: true,
        _open: open,
    };
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, Infallible>(line), watch))
    });
    Ok(stream_of(form.encoding, Body::from_stream(lines)))
}

fn stream_of(encoding: Encoding, body: Body) -> Response {
    let media_type = match encoding {
        Encoding::Protobuf => protobuf::STREAM_MEDIA_TYPE,
        other => other.media_type(),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn expired(encoding: Encoding, message: &str) -> Response {
    let status = Status::expired(message).to_value();
    let object = match encoding {
        Encoding::Protobuf => protobuf::object("v1", "Status", &status).unwrap_or_default(),
        _ => Bytes::from(status.to_string()),
    };
    stream_of(encoding, Body::from(framed(encoding, "ERROR", &object)))
}

/// An event with an object that is encoded.
fn framed(encoding: Encoding, kind: &str, object: &[u8]) -> Bytes {
    match encoding {
        Encoding::Protobuf => protobuf::frame(kind, object),
        _ => frame(kind, object),
    }
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(revision) = self.initial_end {
            if self.stop.is_cancelled() || self.deadline <= Instant::now() {
                return None;
            }
            if let Some(delivery) = self.session.next_initial() {
                return Some(self.line(&delivery));
            }
            self.initial_end = None;
            return Some(self.bookmark(revision, true));
        }
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                // Before the changes: a stream that always has one would never end.
                () = sleep_until(self.deadline) => return None,
                delivery = self.session.next() => return delivery.map(|d| self.line(&d)),
                () = tick(&mut self.bookmarks) => {
                    // Read first: what is applied by now has also been delivered by now.
                    let revision = self.caches.applied();
                    if self.session.is_drained() {
                        return Some(self.bookmark(revision, false));
                    }
                }
            }
        }
    }

    fn line(&mut self, delivery: &Delivery) -> Bytes {
        let columns = std::mem::take(&mut self.columns);
        let (event, verdict) = (&delivery.event, delivery.verdict);
        let (form, resource) = (self.form, self.resource);
        let make = |object: &Object| match respond::shaped(form, resource, object, columns) {
            Ok(object) => framed(form.encoding, verdict.name(), &object),
            // The form was offered, so that it can be made.
            Err(_) => Bytes::new(),
        };
        let shared = form.shape == Shape::Full && resource.is_storage();
        match form.encoding {
            Encoding::Protobuf if shared => event.packed_frame(verdict, make),
            _ if shared => event.frame(verdict),
            _ => event.object(verdict).map_or_else(Bytes::new, |object| make(object)),
        }
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let mut value = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": { "resourceVersion": revision.to_string() },
        });
        if initial_end {
            value["metadata"]["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let object = match (self.form.encoding, self.form.shape) {
            (Encoding::Protobuf, shape) => {
                respond::packed(shape, self.resource, &value).unwrap_or_default()
            }
            (_, Shape::Full) => Bytes::from(value.to_string()),
            (_, Shape::Metadata) => Bytes::from(respond::partial(&value).to_string()),
            (_, Shape::Table(_)) => {
                let metadata = value["metadata"].take();
                let table = bowline_api::table::table(self.resource, metadata, Vec::new(), false);
                Bytes::from(table.to_string())
            }
        };
        framed(self.form.encoding, "BOOKMARK", &object)
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}
