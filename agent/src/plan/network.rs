//! Plan of the node network: routes, addresses, stale sandboxes.
