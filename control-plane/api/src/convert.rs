//! Conversions of the kinds that are served in more versions than the one that is stored.
//!
//! Guarantees: nothing is lost on the way from the stored version to another one and back; nothing
//! here panics on any value. Does not: set `apiVersion` and `kind`
//! ([`crate::resource::Resource::shown`] does), default, or validate.

pub(crate) mod autoscaler;
pub(crate) mod event;
mod metrics;

#[cfg(test)]
mod tests;
