//! The harness of the end-to-end tests and of the demo: real clusters, made by the `bowline`
//! binary, and real clients inside them.
//!
//! Guarantees: every cluster has a name and a directory of its own and is removed when its value
//! is dropped; no traffic leaves the namespaces that a cluster made, except to the API server's
//! loopback port; every wait is bounded and its error says what was waited for.
//!
//! Does not: hide what a program printed. A failed command's output is part of the error.

pub mod alone;
pub mod api;
pub mod artifacts;
pub mod cluster;
pub mod command;
pub mod echo;
pub mod first_light;
pub mod guest;
pub mod image;
pub mod interrupts;
pub mod kubectl;
pub mod load;
pub mod machine;
pub mod maps;
pub mod node;
pub mod place;
pub mod pod_network;
pub mod pod_watch;
pub mod registry;
pub mod rules;
pub mod running;
pub mod server;
pub mod transcript;
pub mod volatile;

pub use cluster::{Cluster, Wishes};
pub use echo::EchoStage;
pub use guest::Guest;
pub use load::{Load, LoadReport};
pub use node::Node;
pub use place::Place;
pub use pod_watch::PodWatch;
pub use running::Running;
pub use server::Server;
