//! What is on this node now.
