//! The HTTPS server of the agent.
