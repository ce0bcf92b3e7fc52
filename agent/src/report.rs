//! Node registration, heartbeat and status.
