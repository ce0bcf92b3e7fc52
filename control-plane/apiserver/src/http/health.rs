//! `/livez`, `/readyz`, `/healthz` and their single checks, as text.
//!
//! Guarantees: the form is that of Kubernetes' server: `ok`, with `?verbose` a line a check, and
//! those lines in any case when one fails, with code 500. Objects that cannot be read are counted
//! there, too, and fail nothing: the others are served. `?exclude=NAME` leaves a check out. Why a
//! check fails is told to masters alone, who ask for it by its own path; everybody can ask, and the
//! log has it.

use super::query::Query;
use super::{Api, respond};
use crate::auth::{MASTERS, User};
use crate::health::{Check, Endpoint};
use axum::response::Response;
use bowline_api::status::Status;
use http::StatusCode;
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use std::collections::BTreeSet;

pub(super) async fn serve(
    api: &Api,
    user: Option<&User>,
    (endpoint, check): (Endpoint, &str),
    query: &Query,
) -> Result<Response, Status> {
    let (code, text) = if check.is_empty() {
        all(api, endpoint, query).await
    } else {
        let known = endpoint.checks().iter().find(|known| known.name() == check);
        one(api, user, *known.ok_or_else(Status::unknown_path)?).await
    };
    let mut response = respond::text(code, text);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

async fn all(api: &Api, endpoint: Endpoint, query: &Query) -> (StatusCode, String) {
    let mut excluded: BTreeSet<&str> = query.all("exclude").collect();
    let (mut lines, mut failed) = (String::new(), false);
    for check in endpoint.checks() {
        let name = check.name();
        if excluded.remove(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match api.health.run(*check).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                tracing::warn!(endpoint = endpoint.name(), check = name, %error, "not healthy");
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                failed = true;
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {names}\n"
        ));
    }
    let unreadable = api.caches.unreadable();
    if unreadable > 0 {
        lines.push_str(&format!(
            "warn: stored objects that cannot be read: {unreadable} (the log names them)\n"
        ));
    }
    let name = endpoint.name();
    if failed {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{name} check failed\n"));
    }
    match query.first("verbose") {
        Some(_) => (StatusCode::OK, format!("{lines}{name} check passed\n")),
        None => (StatusCode::OK, "ok".to_owned()),
    }
}

async fn one(api: &Api, user: Option<&User>, check: Check) -> (StatusCode, String) {
    let Err(error) = api.health.run(check).await else {
        return (StatusCode::OK, "ok".to_owned());
    };
    let reason = match user {
        Some(user) if user.is_in(MASTERS) => error.to_string(),
        _ => "reason withheld".to_owned(),
    };
    (StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {reason}\n"))
}
