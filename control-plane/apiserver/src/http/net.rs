//! `bowline net` commands on a node, which its agent carries out.

use super::query::Query;
use super::{Api, relay};
use axum::body::Body;
use axum::response::Response;
use bowline_api::status::Status;
use http::Method;
use std::sync::Arc;

/// A word of the command line, in order.
const WORD: &str = "word";

/// The words are the agent's to judge; what the client sends is the command's input.
pub(super) async fn serve(
    api: &Arc<Api>,
    node: &str,
    query: &Query,
    input: Body,
) -> Result<Response, Status> {
    relay::pass_on(api, node, Method::POST, &target(query), input).await
}

fn target(query: &Query) -> String {
    let mut words = form_urlencoded::Serializer::new(String::new());
    words.extend_pairs(query.all(WORD).map(|word| (WORD, word)));
    format!("/bowline/net?{}", words.finish())
}
