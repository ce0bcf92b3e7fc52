//! Memory that was needed for a short time goes back to the system: the allocator would keep it.

/// Takes some milliseconds for each hundred megabytes.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointer and is safe at any time, from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
