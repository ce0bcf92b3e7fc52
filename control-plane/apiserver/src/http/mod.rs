//! The wire: paths, parameters, media types and streams.
//!
//! One handler serves every kind of the resource table. It reads the request, asks who and whether
//! ([`crate::auth`]), lets [`crate::objects`] act, and writes the answer in the form that the
//! client asked for.
//!
//! Guarantees: every failure is a `Status` object; a request without a verified user sees health,
//! the version and the join endpoints only; bodies are bounded.

mod agent;
mod body;
mod compress;
mod document;
mod documents;
mod events;
mod health;
mod issuer;
mod limits;
mod logs;
mod negotiate;
mod net;
mod options;
mod patches;
mod path;
mod protobuf;
mod query;
mod relay;
mod resources;
mod respond;
mod watch;

use crate::auth::User;
use crate::auth::authorizer::Authorizer;
use crate::auth::bearer::Bearer;
use crate::auth::join;
use crate::auth::pki::Authority;
use crate::health::Health;
use crate::metrics::Meters;
use crate::objects::Objects;
use crate::watch::Caches;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use bowline_api::status::Status;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{Method, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) use agent::AgentClient;
pub(crate) use limits::Bounds;
use limits::Class;
pub use limits::Limits;
pub(crate) use path::Route;
use query::Query;

/// Clients that ask to be somebody else would otherwise act as themselves, with more rights.
const IMPERSONATE: &str = "impersonate-user";

/// What the handlers work with.
pub(crate) struct Api {
    pub(crate) objects: Objects,
    pub(crate) caches: Arc<Caches>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) authorizer: Box<dyn Authorizer>,
    pub(crate) bearer: Bearer,
    pub(crate) agents: AgentClient,
    pub(crate) meters: Meters,
    pub(crate) health: Health,
    pub(crate) bounds: Bounds,
    pub(crate) advertise: SocketAddr,
    /// Between two bookmarks of a watch.
    pub(crate) bookmark_every: Duration,
    /// Ends the streams.
    pub(crate) stop: CancellationToken,
}

/// The API as a service.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).with_state(api)
}

async fn handle(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    // Read only for a failure.
    let accept: Vec<_> = request.headers().get_all(ACCEPT).iter().cloned().collect();
    let gzip = method != Method::HEAD && negotiate::accepts_gzip(request.headers());
    let (route, query) = (path::parse(uri.path()), Query::of(&uri));
    let known = who(&api, &route, &request);
    let user = known.as_ref().ok().and_then(Option::clone);
    let watch = query.as_ref().is_ok_and(|query| query.flag("watch"));
    let class = Class::of(&method, &route, watch, user.as_ref());
    let running = api.meters.begin(&method, &route, watch, class.kind());
    let answer = match known.and(query) {
        Ok(query) => {
            let answer = dispatch(&api, user.as_ref(), route, &query, request);
            api.bounds.keep(class, &query, answer).await
        }
        Err(status) => Err(status),
    };
    let response =
        answer.unwrap_or_else(|status| respond::status(negotiate::of_status(&accept), &status));
    running.answered(response.status());
    tracing::debug!(
        %method,
        path = uri.path(),
        query = uri.query().unwrap_or_default(),
        user = user.as_ref().map_or("", |user| user.name.as_str()),
        code = response.status().as_u16(),
        "request"
    );
    if gzip { compress::large(response) } else { response }
}

/// Who makes a request: the connection says it, or a token. One that is worth nothing is refused,
/// whatever the path.
fn who(api: &Api, route: &Route, request: &Request) -> Result<Option<User>, Status> {
    if let Some(user) = request.extensions().get::<User>() {
        return Ok(Some(user.clone().authenticated()));
    }
    // It has a secret of its own in the place of a token.
    if *route == Route::Join {
        return Ok(None);
    }
    api.bearer.user(request.headers()).map_err(|_| Status::unauthorized())
}

async fn dispatch(
    api: &Arc<Api>,
    user: Option<&User>,
    route: Route,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    match route {
        Route::Health { endpoint, check } => {
            return health::serve(api, user, (endpoint, &check), query).await;
        }
        Route::Version => return Ok(documents::version()),
        Route::Authority => {
            let pem = api.authority.certificate_pem().to_owned();
            return Ok(respond::bytes(StatusCode::OK, "application/x-pem-file", pem.into()));
        }
        Route::Join => return join_node(api, user, query, request).await,
        _ => {}
    }
    let user = user.ok_or_else(Status::unauthorized)?;
    if request.headers().contains_key(IMPERSONATE) {
        return Err(Status::forbidden_path("impersonation is not served"));
    }
    if route == Route::Unknown {
        return Err(Status::unknown_path());
    }
    if let Route::Resource(target) = route {
        return resources::serve(api, user, target, query, request).await;
    }
    let served: &[Method] = match route {
        Route::Net(_) => &[Method::POST],
        _ => &[Method::GET, Method::HEAD],
    };
    if !served.contains(request.method()) {
        return Err(Status::method_not_allowed(
            "the server does not allow this method on the requested resource",
        ));
    }
    // These tell what others do.
    let allowed = {
        let verb = request.method().as_str().to_ascii_lowercase();
        api.authorizer.authorize_path(user, &verb, request.uri().path()).is_ok()
    };
    let masters_may = |what: &str| {
        let only = || Status::forbidden_path(format!("only members of system:masters may {what}"));
        allowed.then_some(()).ok_or_else(only)
    };
    match &route {
        Route::Metrics => {
            masters_may("read metrics")?;
            documents::metrics(api, request.headers())
        }
        Route::Events(node) => {
            masters_may("listen to nodes")?;
            events::serve(api, node, query).await
        }
        Route::Net(node) => {
            masters_may("give nodes commands")?;
            net::serve(api, node, query, request.into_body()).await
        }
        Route::Issuer | Route::IssuerKeys => {
            let (method, path) = (request.method(), request.uri().path());
            issuer::serve(api, user, &route, (method, path), allowed)
        }
        _ => documents::serve(api, &route, request.headers()),
    }
}

async fn join_node(
    api: &Api,
    user: Option<&User>,
    query: &Query,
    request: Request,
) -> Result<Response, Status> {
    if request.method() != Method::POST {
        return Err(Status::method_not_allowed("nodes join with POST"));
    }
    let (head, body) = request.into_parts();
    let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let node = query.get("node");
    // Before the body: strangers do not get to fill memory.
    if user.and_then(User::node) != Some(node) {
        join::check_secret(&api.authority, authorization)?;
        join::check_absent(&api.caches, node)?;
    }
    let body = body::read(body).await?;
    let csr = std::str::from_utf8(&body)
        .map_err(|_| Status::bad_request("the body is not a PEM certificate signing request"))?;
    let certificate = join::join(&api.authority, &api.caches, node, csr)?;
    tracing::info!(node, "signed a node's certificate");
    Ok(respond::bytes(StatusCode::OK, "application/x-pem-file", certificate.into()))
}
