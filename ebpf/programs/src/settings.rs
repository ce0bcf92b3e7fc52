//! What the loader fixes before the verifier looks: branches that are off do not exist in the
//! loaded program, so they may use helpers that the kernel lacks.

use aya_ebpf::Global;
use bowline_ebpf_abi::size;

/// Whether `bpf_set_retval` exists, so that a connect to a service without backends can be
/// answered with ECONNREFUSED instead of EPERM.
#[unsafe(no_mangle)]
static CAN_SET_RETVAL: Global<u32> = Global::new(0);

#[inline(always)]
pub fn can_set_retval() -> bool {
    CAN_SET_RETVAL.load() != 0
}

/// The highest index of PEERS, whose size is a power of two.
#[unsafe(no_mangle)]
static LAST_PEER: Global<u32> = Global::new(size::PEERS - 1);

#[inline(always)]
pub fn last_peer() -> u32 {
    LAST_PEER.load()
}

/// How many places SERVICE_LINES has.
#[unsafe(no_mangle)]
static LINES: Global<u32> = Global::new(size::SERVICE_LINES);

#[inline(always)]
pub fn lines() -> u32 {
    LINES.load()
}

/// How long each row of CONNECTIONS is.
#[unsafe(no_mangle)]
static CONNECTIONS_ROW: Global<u32> = Global::new(size::CONNECTIONS_ROW);

#[inline(always)]
pub fn connections_row() -> u32 {
    CONNECTIONS_ROW.load()
}

/// Cookie of the network namespace of the node's own processes; 0 where the kernel does not tell.
#[unsafe(no_mangle)]
static NODE_NETNS: Global<u64> = Global::new(0);

#[inline(always)]
pub fn node_netns() -> u64 {
    NODE_NETNS.load()
}
