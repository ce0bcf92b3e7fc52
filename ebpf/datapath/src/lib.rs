//! Pure packet and service logic of the data plane.
