//! The eBPF data plane: load, pin, attach, typed map writers.
