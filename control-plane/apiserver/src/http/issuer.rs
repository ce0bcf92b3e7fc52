//! Who issues tokens of service accounts, and how others check them: OpenID's discovery.

use super::path::Route;
use super::{Api, respond};
use crate::auth::{User, jwt};
use axum::response::Response;
use bowline_api::status::Status;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Method, StatusCode};
use serde_json::json;

/// Where the keys are.
const KEYS_PATH: &str = "/openid/v1/jwks";
/// How long who checks tokens may keep what it learned, as others say it.
const KEPT: &str = "public, max-age=3600";

/// The document of the route, if the user is `allowed` to see it.
pub(super) fn serve(
    api: &Api,
    user: &User,
    route: &Route,
    (method, path): (&Method, &str),
    allowed: bool,
) -> Result<Response, Status> {
    if !allowed {
        let verb = method.as_str().to_ascii_lowercase();
        let cause = format!("User {:?} cannot {verb} path {path:?}", user.name);
        return Err(Status::forbidden_path(cause));
    }
    let accounts = &api.bearer.accounts;
    let (media_type, document) = match route {
        Route::IssuerKeys => ("application/jwk-set+json", accounts.keys()),
        _ => {
            let issuer = json!({
                "issuer": accounts.issuer(),
                "jwks_uri": format!("https://{}{KEYS_PATH}", api.advertise),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [jwt::ALGORITHM],
            });
            ("application/json", issuer)
        }
    };
    let mut response = respond::bytes(StatusCode::OK, media_type, document.to_string().into());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(KEPT));
    Ok(response)
}
