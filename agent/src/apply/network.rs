//! Applies the steps of the node network plan.
