//! The Kubernetes API over HTTP.
//!
//! The way of a request: [`http`](mod@http) reads it, [`auth`] says who asks and whether they may,
//! [`objects`] checks and admits it with [`admission`], [`store`] keeps it, and [`watch`] shows it
//! to every reader.
//!
//! Guarantees: an acknowledged write is durable and is seen by every later read and by every watch;
//! nothing that is refused leaves a trace. It is a server of one process: several of them need a
//! shared engine below the store.

mod admission;
mod auth;
mod bootstrap;
mod health;
mod http;
mod listen;
mod metrics;
mod objects;
mod store;
mod watch;

#[cfg(test)]
mod tests;

use ::http::Request;
use ::http::header::{HeaderValue, USER_AGENT};
use auth::account_tokens::AccountTokens;
use auth::authorizer::BuiltIn;
use auth::bearer::Bearer;
use auth::pki::Authority;
use auth::{MASTERS, User};
use axum::Router;
use axum::body::Body;
use bowline_api::cidr::DualStackCidr;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::{Measured, RedbStore, STORE_FILE, Store};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

pub use self::http::Limits;
pub use auth::pki::{CERTIFICATE_LIFE, PkiFailed};
pub use auth::secret_file::write as write_secret_file;
pub use bootstrap::BootstrapFailed;
pub use listen::ListenFailed;
pub use store::offline;
pub use store::{OpenFailed, Retention};
pub use watch::LoadFailed;

/// Between two bookmarks of a watch.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
const PKI_DIRECTORY: &str = "pki";
/// The name of the user in the admin kubeconfig.
const ADMIN: &str = "kubernetes-admin";

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the store and the keys are kept. Made when absent.
    pub data_dir: PathBuf,
    /// The ranges of cluster addresses for services.
    pub service_cidr: DualStackCidr,
    /// The domain below which services have names.
    pub cluster_domain: String,
    /// What agents join with. Made once and kept when `None`.
    pub join_secret: Option<String>,
    /// Where pods and agents reach this server; the `kubernetes` service leads there.
    pub advertise: SocketAddr,
    /// Further names and addresses for the serving certificate.
    pub server_names: Vec<String>,
    /// How long pods stay on a node that is lost, unless they say.
    pub default_unreachable_toleration_seconds: i64,
    /// How much it takes on at a time.
    pub limits: Limits,
    /// Who issues tokens of service accounts; `None` is the server's name in the cluster.
    pub service_account_issuer: Option<String>,
    /// How long the server's own certificates live; they are renewed after two thirds of it.
    pub certificate_life: Duration,
    /// How much history it keeps, and how large its file becomes.
    pub retention: Retention,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartFailed {
    #[error("the data directory {path} cannot be made: {source}")]
    DataDirectory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] OpenFailed),
    #[error(transparent)]
    Load(#[from] LoadFailed),
    #[error(transparent)]
    Pki(#[from] PkiFailed),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapFailed),
}

/// The TLS side of a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeFailed {
    #[error(transparent)]
    Pki(#[from] PkiFailed),
    #[error(transparent)]
    Listen(#[from] ListenFailed),
    #[error("the stored objects cannot be followed any more")]
    FeedEnded,
}

/// A running API server. Cloning it gives another handle of the same server.
#[derive(Clone)]
pub struct ApiServer {
    router: Router,
    authority: Arc<Authority>,
    caches: Arc<watch::Caches>,
    stop: Stop,
}

/// Ends the server's streams and its feed, which writes need until the last of them is answered.
#[derive(Clone)]
struct Stop {
    streams: CancellationToken,
    feed: CancellationToken,
    /// Both end when the last handle is gone.
    _guards: Arc<[DropGuard; 2]>,
}

impl Stop {
    fn new() -> Self {
        let (streams, feed) = (CancellationToken::new(), CancellationToken::new());
        let guards = [streams.clone().drop_guard(), feed.clone().drop_guard()];
        Self { streams, feed, _guards: Arc::new(guards) }
    }
}

impl ApiServer {
    /// Opens the store, loads it and makes what every cluster has. Nothing listens yet.
    pub async fn start(config: Config) -> Result<Self, StartFailed> {
        Self::start_with(config, BOOKMARK_EVERY).await
    }

    async fn start_with(config: Config, bookmark_every: Duration) -> Result<Self, StartFailed> {
        let path = &config.data_dir;
        std::fs::create_dir_all(path)
            .map_err(|source| StartFailed::DataDirectory { path: path.clone(), source })?;
        let engine = RedbStore::open(&path.join(STORE_FILE), config.retention)?;
        Self::start_over(config, engine, bookmark_every).await
    }

    /// Over a store that is open, in a data directory that is there.
    async fn start_over(
        config: Config,
        engine: impl Store,
        bookmark_every: Duration,
    ) -> Result<Self, StartFailed> {
        let service_address = bootstrap::kubernetes_address(config.service_cidr.v4)?;
        let names = server_names(&config, &service_address);
        let secret = config.join_secret.clone();
        let keys = config.data_dir.join(PKI_DIRECTORY);
        let authority = Arc::new(Authority::open(&keys, secret, &names, config.certificate_life)?);
        let meters = metrics::Meters::new();
        let store = Arc::new(Measured::new(engine, meters.clone()));

        let stop = Stop::new();
        let caches = watch::Caches::start(store.clone(), stop.feed.clone()).await?;
        let toleration_seconds = config.default_unreachable_toleration_seconds;
        let admission =
            admission::Admission::new(caches.clone(), config.service_cidr, toleration_seconds);
        let objects = objects::Objects::new(store.clone(), caches.clone(), admission);
        bootstrap::run(&objects, config.service_cidr, config.advertise).await?;

        let issuer = config
            .service_account_issuer
            .unwrap_or_else(|| format!("https://kubernetes.default.svc.{}", config.cluster_domain));
        let accounts = AccountTokens::new(authority.account_signer()?, issuer, caches.clone());
        let bearer = Bearer::new(accounts, caches.clone());
        let agents = http::AgentClient::new(authority.agent_tls()?);
        let authorizer = Box::new(BuiltIn::new(caches.clone()));
        let advertise = config.advertise;
        let bounds = http::Bounds::new(config.limits, meters.clone());
        let health = health::Health::new(store, caches.clone(), stop.streams.clone());
        let api = Arc::new(http::Api {
            objects,
            caches: caches.clone(),
            authority: authority.clone(),
            authorizer,
            bearer,
            agents,
            meters,
            health,
            bounds,
            advertise,
            bookmark_every,
            stop: stop.streams.clone(),
        });
        let ranges = config.service_cidr;
        tokio::spawn(bootstrap::keep(Arc::downgrade(&api), ranges, stop.streams.clone()));
        let router = http::router(api);
        Ok(Self { router, authority, caches, stop })
    }

    /// The API as a service. Requests that carry no user are anonymous.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// A client in this process that acts as the user, by whose name it goes as a manager of
    /// fields, too.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> kube::Client {
        let program = HeaderValue::from_str(user.trim_start_matches("system:")).ok();
        let user = User::new(user, groups);
        let service =
            self.router.clone().map_request(move |request: Request<kube::client::Body>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(user.clone());
                if let Some(program) = &program {
                    request.headers_mut().insert(USER_AGENT, program.clone());
                }
                request
            });
        kube::Client::new(service, "default")
    }

    /// Serves over TLS on the listeners until `stop`. Then nothing is served any more.
    pub async fn serve(
        &self,
        listeners: Vec<std::net::TcpListener>,
        stop: CancellationToken,
    ) -> Result<(), ServeFailed> {
        let tls = self.authority.server_tls()?;
        // Streams never end by themselves; without this the shutdown would wait for them.
        let streams = self.stop.streams.clone();
        let ended = stop.clone();
        let closer = tokio::spawn(async move {
            ended.cancelled().await;
            streams.cancel();
        });
        let served = tokio::select! {
            served = listen::serve(listeners, tls, self.router.clone(), stop) => {
                served.map_err(ServeFailed::from)
            }
            () = self.caches.ended() => Err(ServeFailed::FeedEnded),
        };
        closer.abort();
        self.stop.feed.cancel();
        served
    }

    /// A kubeconfig of the cluster's administrator for the server at `server_url`.
    pub fn admin_kubeconfig(&self, server_url: &str) -> Result<String, PkiFailed> {
        let user = User::new(ADMIN, &[MASTERS]);
        self.authority.kubeconfig(&user, server_url)
    }

    /// When an administrator's kubeconfig that is made now should be made anew.
    pub fn kubeconfig_renewal(&self) -> SystemTime {
        auth::renewed::renew_at(SystemTime::now(), self.authority.life())
    }

    /// The certificate of the cluster's authority, PEM.
    pub fn root_certificate(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// What an agent joins with.
    pub fn join_token(&self) -> String {
        self.authority.join_token()
    }
}

/// Every name and address under which the server is reached.
fn server_names(config: &Config, service_address: &str) -> Vec<String> {
    let mut names: Vec<String> =
        ["127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default"]
            .map(str::to_owned)
            .to_vec();
    names.push("kubernetes.default.svc".to_owned());
    names.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    names.push(service_address.to_owned());
    let advertise: IpAddr = config.advertise.ip();
    names.push(advertise.to_string());
    names.extend(config.server_names.iter().cloned());
    names.sort();
    names.dedup();
    names
}
