//! The bowline node agent: watch, plan, apply.

mod apply;
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
