//! The bowline node agent: watch, plan, apply.

mod apply;
mod config;
mod connect;
pub mod datapath;
mod dns;
mod join;
mod network;
mod observe;
mod plan;
mod pods;
mod report;
mod runtime;
mod server;
mod watch;

pub use config::{AGENT_PORT, Config, DNS_ADDRESS};
