//! The container runtime behind a trait.
