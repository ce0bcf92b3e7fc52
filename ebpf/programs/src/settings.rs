//! What the loader fixes before the verifier looks: branches that are off do not exist in the
//! loaded program, so they may use helpers that the kernel lacks.

use aya_ebpf::Global;

/// Whether `bpf_set_retval` exists, so that a connect to a service without backends can be
/// answered with ECONNREFUSED instead of EPERM.
#[unsafe(no_mangle)]
static CAN_SET_RETVAL: Global<u32> = Global::new(0);

#[inline(always)]
pub fn can_set_retval() -> bool {
    CAN_SET_RETVAL.load() != 0
}
