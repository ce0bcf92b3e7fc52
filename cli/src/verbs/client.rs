//! The way to an API server: which kubeconfig, and requests as plain JSON.
//!
//! Guarantees: no proxy is used, whatever the environment or the kubeconfig say. A failure is one
//! line that names the server or repeats what the server said.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{AsyncBufRead, StreamExt, TryStreamExt};
use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tower::{BoxError, ServiceBuilder, ServiceExt};

use crate::cluster;

/// As the entries of managers in objects name this program.
const PROGRAM: &str = concat!("bowline/", env!("CARGO_PKG_VERSION"));
/// A complaint is cut off after this.
const COMPLAINT_BYTES: usize = 64 * 1024;

/// Which server to talk to.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Server {
    /// Kubeconfig file [default: $KUBECONFIG, or that of the only local cluster]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Local cluster to talk to
    #[arg(long, value_name = "CLUSTER", conflicts_with = "kubeconfig")]
    name: Option<String>,
}

/// A client and the defaults of its kubeconfig.
pub(crate) struct Connection {
    pub(crate) client: kube::Client,
    pub(crate) namespace: String,
    address: String,
    /// None in tests.
    config: Option<Config>,
}

/// The body of a request that goes on.
type Input = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// The body of a request, with its content type.
pub(crate) struct Body<'a> {
    pub(crate) kind: &'static str,
    pub(crate) value: &'a Value,
}

impl Server {
    /// Builds a client; does not talk to the server yet.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        connect_file(&self.kubeconfig()?).await
    }

    fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        if let Some(file) = &self.kubeconfig {
            return Ok(file.clone());
        }
        let from_environment = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
        match (&self.name, from_environment) {
            (None, Some(file)) => Ok(file.into()),
            (name, _) => {
                let place = cluster::only(name.as_deref(), ", or give --kubeconfig")?;
                Ok(place.kubeconfig())
            }
        }
    }
}

/// Builds a client from a kubeconfig file.
pub(crate) async fn connect_file(file: &Path) -> anyhow::Result<Connection> {
    let invalid = || format!("cannot use kubeconfig {}", file.display());
    if !file.exists() {
        bail!("no kubeconfig at {}: is the cluster up?", file.display());
    }
    let kubeconfig = Kubeconfig::read_from(file).with_context(invalid)?;
    let options = KubeConfigOptions::default();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(invalid)?;
    config.proxy_url = None;
    config.headers.push((USER_AGENT, HeaderValue::from_static(PROGRAM)));
    let (address, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
    let client = kube::Client::try_from(config.clone()).with_context(invalid)?;
    let address = address.trim_end_matches('/').to_owned();
    Ok(Connection { client, namespace, address, config: Some(config) })
}

impl Connection {
    #[cfg(test)]
    pub(crate) fn of(client: kube::Client) -> Self {
        let namespace = client.default_namespace().to_owned();
        Self { client, namespace, address: "the test's".to_owned(), config: None }
    }

    /// Reads a path.
    pub(crate) async fn get(&self, path: &str, accept: &str) -> anyhow::Result<Value> {
        let request = Request::get(path).header(ACCEPT, accept).body(Vec::new());
        self.send(request.context("bad request")?).await.map_err(|error| self.explain(error))
    }

    /// Like `get`, with `None` for what is not there.
    pub(crate) async fn get_if_there(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let request = Request::get(path).header(ACCEPT, "application/json").body(Vec::new());
        match self.send(request.context("bad request")?).await {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Sends a body; the error keeps its status for callers that look at it.
    pub(crate) async fn write(
        &self,
        method: &str,
        path: &str,
        body: Option<Body<'_>>,
    ) -> Result<Value, RequestFailed> {
        let kind = body.as_ref().map_or("application/json", |body| body.kind);
        let bytes = body.map(|body| body.value.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, kind)
            .header(ACCEPT, "application/json")
            .body(bytes)
            .map_err(RequestFailed::unsent)?;
        self.send(request).await.map_err(|error| self.failed(error))
    }

    /// Opens a stream: a watch or a log; the error keeps its status.
    pub(crate) async fn stream(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl AsyncBufRead + use<>, RequestFailed> {
        let request = Request::get(path).header(ACCEPT, accept).body(Vec::new());
        let request = request.map_err(RequestFailed::unsent)?;
        self.client.request_stream(request).await.map_err(|error| self.failed(error))
    }

    /// Gives a node a command with this input; its answer comes for as long as it runs, also while
    /// there is more input. `kube::Client` sends bodies that are whole only.
    pub(crate) async fn command(
        &self,
        path: &str,
        input: BoxStream<'static, Bytes>,
    ) -> anyhow::Result<impl AsyncBufRead + use<>> {
        let config = self.config.as_ref().context("there is no kubeconfig")?;
        let connector = config.rustls_https_connector().context("cannot use the kubeconfig")?;
        let http = HttpClient::builder(TokioExecutor::new()).build::<_, Input>(connector);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().context("cannot use the kubeconfig")?)
            .map_err(BoxError::from)
            .service(http);
        let frames = input.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let request = Request::post(path).body(StreamBody::new(frames.boxed()))?;
        let unreachable =
            |error: BoxError| anyhow!("cannot reach the API server at {}: {error}", self.address);
        let answer = service.oneshot(request).await.map_err(unreachable)?;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            let text = Limited::new(body, COMPLAINT_BYTES).collect().await.map_err(unreachable)?;
            let status = serde_json::from_slice::<Value>(&text.to_bytes()).unwrap_or_default();
            match status["message"].as_str() {
                Some(message) => bail!("{message}"),
                None => bail!("{} answered with status {}", self.address, head.status),
            }
        }
        Ok(body.into_data_stream().map_err(io::Error::other).into_async_read())
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Value, kube::Error> {
        self.client.request(request).await
    }

    fn failed(&self, error: kube::Error) -> RequestFailed {
        let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
        RequestFailed { code, error: self.explain(error) }
    }

    /// One line for a failed request.
    pub(crate) fn explain(&self, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) if !status.message.is_empty() => {
                let reason = if status.reason.is_empty() {
                    status.code.to_string()
                } else {
                    status.reason.clone()
                };
                anyhow!("{} ({reason})", status.message)
            }
            kube::Error::Api(status) => {
                anyhow!("{} answered with status {}", self.address, status.code)
            }
            error @ (kube::Error::HyperError(_) | kube::Error::Service(_)) => anyhow!(
                "cannot reach the API server at {}: {}: is the cluster up? See `bowline status`",
                self.address,
                root_cause(&error),
            ),
            other => anyhow!("request to {} failed: {other}", self.address),
        }
    }
}

/// Why a request failed, with the HTTP status, or 0 when there was no answer.
#[derive(Debug)]
pub(crate) struct RequestFailed {
    pub(crate) code: u16,
    pub(crate) error: anyhow::Error,
}

impl RequestFailed {
    fn unsent(error: http::Error) -> Self {
        Self { code: 0, error: anyhow!("bad request: {error}") }
    }
}

impl From<RequestFailed> for anyhow::Error {
    fn from(failed: RequestFailed) -> Self {
        failed.error
    }
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// Escapes a value for the query of a URL.
pub(crate) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Joins parameters into a query, `?` included; empty without parameters.
pub(crate) fn query(parameters: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        parameters.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let parameters = [("labelSelector", "app in (a,b)".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(query(&parameters), "?labelSelector=app%20in%20%28a%2Cb%29&limit=5");
        assert_eq!(query(&[]), "");
        assert_eq!(escape("é=1"), "%C3%A9%3D1");
    }
}
