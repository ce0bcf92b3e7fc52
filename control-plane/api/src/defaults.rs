//! Defaulting, one function per kind, as the API documents it.
//!
//! Guarantees: idempotent. Does not: allocate (cluster IPs, node ports) or read other objects.
