//! The data plane in the kernel, with real sockets and packets. Needs root and a cgroup2 hierarchy;
//! without them each test says so and does nothing.

#![expect(clippy::unwrap_used, reason = "a failure of the support code ends the test")]

mod lifecycle;
mod packets;
mod servers;
mod sockets;
mod world;

/// Says loudly why a test is skipped, and ends it.
macro_rules! needs_kernel {
    () => {
        if let Some(reason) = crate::world::missing() {
            eprintln!("SKIPPED {}: {reason}", module_path!());
            return;
        }
    };
}
pub(crate) use needs_kernel;
