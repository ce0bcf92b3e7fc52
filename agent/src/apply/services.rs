//! Applies the steps of the service plan.
