//! Wiring of the bowline control plane.
