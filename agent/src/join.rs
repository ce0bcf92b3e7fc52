//! Certificates: how an agent gets its identity from a token.
