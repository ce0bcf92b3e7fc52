//! The Kubernetes API over HTTP: auth, admission, store, watch.
