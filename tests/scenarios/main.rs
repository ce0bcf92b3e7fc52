//! End-to-end tests on real clusters, a module a feature. They need root and containerd;
//! `cargo xtask test` runs them, each in a process of its own.

mod api_away;
mod api_errors;
mod bad_input;
mod bugreport;
mod capture;
mod churn;
mod cleanup;
mod cli;
mod clients;
mod crashes;
mod datapath;
mod dns;
mod durability;
mod first_light;
mod kubectl;
mod metrics;
mod monitor;
mod pod_network;
mod pod_throughput;
mod refusals;
mod repair;
mod services;
mod toolkit;
mod troubleshooting;
mod upgrade;
mod verbs;
