//! What happens to packets on a node, which its agent tells.

use super::query::Query;
use super::{Api, relay};
use axum::response::Response;
use bowline_api::status::Status;
use std::sync::Arc;

/// Parameters that the agent understands, with the query's own names.
const PASSED_ON: [&str; 4] = ["protocol", "port", "address", "seconds"];

pub(super) async fn serve(api: &Arc<Api>, node: &str, query: &Query) -> Result<Response, Status> {
    relay::serve(api, node, "/bowline/events", &PASSED_ON, query).await
}
