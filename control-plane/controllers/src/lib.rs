//! Controllers of the bowline control plane, each a client of the API.
