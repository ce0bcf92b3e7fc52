//! Plan of the service maps.
