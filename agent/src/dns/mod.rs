//! The cluster DNS server of this node.
