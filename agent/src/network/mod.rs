//! Sandboxes and links of this node: namespaces, addresses, routes.
