//! API objects that this node needs.
