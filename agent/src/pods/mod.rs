//! Pods: sandboxes, images, volumes, probes, logs.
