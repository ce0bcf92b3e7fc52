//! What a loaded program is, by the kernel's own account.

/// What the kernel says of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgramFacts {
    pub(super) name: [u8; 16],
    /// A digest of its instructions.
    pub(super) tag: [u8; 8],
    /// Of the machine's own code; 0 if it is interpreted or the reader may not know.
    pub(super) machine_bytes: u32,
    /// By the clock that counts from the start of the machine and does not stop in its sleep.
    pub(super) load_time_ns: u64,
    /// The maps that it uses, by number.
    pub(super) maps: Vec<u32>,
    pub(super) instructions: u32,
    /// How many instructions the verifier went through; 0 below Linux 5.16.
    pub(super) verified: u32,
    /// Counted while `kernel.bpf_stats_enabled` is on, with their time.
    pub(super) runs: u64,
    pub(super) run_time_ns: u64,
}

impl ProgramFacts {
    /// Whether it was loaded under this name, of which the kernel keeps 15 bytes.
    pub(super) fn is_named(&self, name: &str) -> bool {
        let kept = name.len().min(self.name.len() - 1);
        self.name[..kept] == name.as_bytes()[..kept] && self.name[kept] == 0
    }
}
