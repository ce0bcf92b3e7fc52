//! The eBPF programs of the data plane: one file per family of hooks.
//!
//! They read a few fields, ask `bowline-ebpf-datapath`, and do what it decided. Guarantees: every
//! program ends in a bounded number of steps, needs no helper newer than Linux 5.10 (newer ones are
//! behind [`settings`], which the loader sets from what the kernel can do), and counts each packet
//! once under the name of what became of it.

#![no_std]
#![no_main]

mod maps;
mod monitor;
mod settings;
mod sock_ops;
mod socket;
mod tc;
mod way;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
