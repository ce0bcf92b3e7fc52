//! An API server alone on loopback, to try clients against: no controllers, no nodes.
//!
//! `cargo run -p bowline-apiserver --example serve -- DIRECTORY PORT` writes
//! `DIRECTORY/kubeconfig` and serves until it is interrupted.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let data_dir = PathBuf::from(arguments.next().ok_or("DIRECTORY is missing")?);
    let port: u16 = arguments.next().ok_or("PORT is missing")?.parse()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let listener = TcpListener::bind(address)?;
    // Endpoints cannot be loopback addresses; nobody connects to this one.
    let advertise = SocketAddr::from(([192, 0, 2, 1], port));
    let server = bowline_apiserver::ApiServer::start(bowline_apiserver::Config {
        data_dir: data_dir.clone(),
        service_cidr: "10.9.0.0/16".parse()?,
        cluster_domain: "cluster.local".to_owned(),
        join_secret: None,
        advertise,
        server_names: Vec::new(),
        default_unreachable_toleration_seconds: 300,
        limits: bowline_apiserver::Limits::DEFAULT,
        service_account_issuer: None,
        certificate_life: bowline_apiserver::CERTIFICATE_LIFE,
        retention: bowline_apiserver::Retention::DEFAULT,
    })
    .await?;
    let kubeconfig = data_dir.join("kubeconfig");
    std::fs::write(&kubeconfig, server.admin_kubeconfig(&format!("https://{address}"))?)?;
    println!("{}", kubeconfig.display());
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        interrupted.cancel();
    });
    server.serve(vec![listener], stop).await?;
    Ok(())
}
