//! The bowline node agent: watch, plan, apply.
