//! The control plane as one process: API server, controllers and scheduler, wired together.
//!
//! Guarantees: nothing is started when the configuration cannot work; controllers and scheduler
//! speak to the API alone, through clients in this process; when one part fails, all stop and the
//! failure is returned. The kubeconfig and the token file are readable for their owner only, and
//! they are there before the first connection is answered; the kubeconfig is renewed in its place.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bowline_api::cidr::DualStackCidr;
use bowline_apiserver::ApiServer;
pub use bowline_apiserver::{CERTIFICATE_LIFE, Limits, Retention, offline};
pub use bowline_controllers::NodeMaskSize;
use tokio_util::sync::CancellationToken;

const CONTROLLERS: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
/// Kubernetes' default.
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// Between two looks at whether the kubeconfig is due.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);
/// After one that could not be written.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);

/// What a control plane needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store and the keys are kept.
    pub data_dir: PathBuf,
    /// The ranges of pod addresses.
    pub pod_cidr: DualStackCidr,
    /// The prefix lengths of a node's parts of them.
    pub node_mask_size: NodeMaskSize,
    /// The ranges of service addresses.
    pub service_cidr: DualStackCidr,
    /// The domain below which services have names.
    pub cluster_domain: String,
    /// Where pods and agents reach the API server.
    pub advertise: SocketAddr,
    /// Further names and addresses for the serving certificate.
    pub server_names: Vec<String>,
    /// What agents join with. Made once and kept when `None`.
    pub join_secret: Option<String>,
    /// Where the administrator's kubeconfig is written.
    pub kubeconfig: PathBuf,
    /// The server's address in that kubeconfig.
    pub server_url: String,
    /// Where the token is written that agents join with.
    pub token_file: PathBuf,
    /// How long a node may be silent before it counts as unreachable.
    pub node_monitor_grace_period: Duration,
    /// How long pods stay on a node that is lost, unless they say.
    pub default_unreachable_toleration_seconds: i64,
    /// How much the API server takes on at a time.
    pub limits: Limits,
    /// Who issues tokens of service accounts; `None` is the server's name in the cluster.
    pub service_account_issuer: Option<String>,
    /// How long the server's own certificates and the administrator's live. They are renewed after
    /// two thirds of it.
    pub certificate_life: Duration,
    /// How much history the API server keeps, and how large its file becomes.
    pub retention: Retention,
}

/// Runs the control plane on the listeners until the token is cancelled.
pub async fn run(
    config: Config,
    listeners: Vec<TcpListener>,
    token: CancellationToken,
) -> anyhow::Result<()> {
    check(&config)?;
    let server = ApiServer::start(bowline_apiserver::Config {
        data_dir: config.data_dir,
        service_cidr: config.service_cidr,
        cluster_domain: config.cluster_domain,
        join_secret: config.join_secret,
        advertise: config.advertise,
        server_names: config.server_names,
        default_unreachable_toleration_seconds: config.default_unreachable_toleration_seconds,
        limits: config.limits,
        service_account_issuer: config.service_account_issuer,
        certificate_life: config.certificate_life,
        retention: config.retention,
    })
    .await?;
    write(&config.token_file, &format!("{}\n", server.join_token()))?;
    // It comes last: whoever starts a server waits for it.
    let administrator = Administrator { path: config.kubeconfig, url: config.server_url };
    let renewal = administrator.write(&server)?;

    let controllers = bowline_controllers::run(
        server.client_as(CONTROLLERS, &[]),
        bowline_controllers::Config {
            pod_cidr: config.pod_cidr,
            node_mask_size: config.node_mask_size,
            node_monitor_grace_period: config.node_monitor_grace_period,
            event_ttl: EVENT_TTL,
            root_certificate: server.root_certificate().to_owned(),
        },
        token.child_token(),
    );
    let scheduler = bowline_scheduler::run(server.client_as(SCHEDULER, &[]), token.child_token());
    // The API answers until those who use it from inside have stopped.
    let serving = CancellationToken::new();
    let loops = async {
        let ended = tokio::try_join!(
            async { controllers.await.context("the controllers stopped") },
            async { scheduler.await.context("the scheduler stopped") },
        );
        serving.cancel();
        ended.map(|_| ())
    };
    let serve =
        async { server.serve(listeners, serving.clone()).await.context("the API server stopped") };
    tokio::select! {
        ended = async { tokio::try_join!(loops, serve) } => ended.map(|_| ()),
        never = administrator.keep(&server, renewal) => match never {},
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    bowline_apiserver::write_secret_file(path, text)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where the administrator's kubeconfig is, and what it leads to.
struct Administrator {
    path: PathBuf,
    url: String,
}

impl Administrator {
    /// Writes a kubeconfig, and says when it should be renewed.
    fn write(&self, server: &ApiServer) -> anyhow::Result<SystemTime> {
        let renewal = server.kubeconfig_renewal();
        write(&self.path, &server.admin_kubeconfig(&self.url)?)?;
        Ok(renewal)
    }

    /// Renews the kubeconfig whenever it is time.
    async fn keep(&self, server: &ApiServer, mut renewal: SystemTime) -> Infallible {
        loop {
            // By the clock that certificates are read by, which goes on while a machine sleeps.
            let wait = renewal.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(wait.min(RENEWAL_LOOK)).await;
            if SystemTime::now() < renewal {
                continue;
            }
            renewal = self.write(server).unwrap_or_else(|error| {
                tracing::error!(error = format!("{error:#}"), "cannot renew the kubeconfig");
                SystemTime::now() + RENEWAL_RETRY
            });
        }
    }
}

/// What would only show later, and in a less clear way.
fn check(config: &Config) -> anyhow::Result<()> {
    for pods in config.pod_cidr.ranges() {
        for services in config.service_cidr.ranges() {
            anyhow::ensure!(
                !pods.overlaps(services),
                "pod range {pods} overlaps service range {services}: choose ranges that do not \
                 overlap",
            );
        }
        let (size, choices) = (config.node_mask_size, NodeMaskSize::choices(pods));
        anyhow::ensure!(
            size.of(pods).is_some(),
            "a node's part /{} does not fit into the pod range {pods}: choose {} to {}",
            size.asked(pods),
            choices.start(),
            choices.end(),
        );
    }
    anyhow::ensure!(
        !config.node_monitor_grace_period.is_zero(),
        "the node monitor grace period is zero: every node would count as lost",
    );
    Ok(())
}
