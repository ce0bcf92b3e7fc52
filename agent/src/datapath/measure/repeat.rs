//! A packet program run again and again on one packet, for what a run costs.
//!
//! The kernel's own way to do so (`BPF_PROG_TEST_RUN` with `repeat`) hands each run the packet as
//! the one before it left it: a packet that was rewritten once, with one hop less each time, until
//! there is none left. Here a small program writes the packet anew, then goes on to the program
//! under test by a tail call. What the small one costs is what the same costs with a program behind
//! it that does nothing.
//!
//! Guarantees: every run sees the same packet, or the same but for its source port; runs on one CPU
//! at a time, with no device and no attachment. Used by benchmarks, never by a running agent.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::datapath::syscall::instruction::{EXIT, call, copy, set};
use crate::datapath::syscall::{self, Attr, bpf, owned};

const MAP_CREATE: i32 = 0;
const PROG_TEST_RUN: i32 = 10;
/// What the small program returns when the kernel did not go on to the other.
const NOT_REACHED: i32 = 77;
/// What the program that does nothing returns: leave the packet to others.
const NOTHING: i32 = -1;
/// More than the small program's stack would hold.
const LONGEST: usize = 256;

/// The kernel's attributes of a test run.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TestRunAttr {
    program: u32,
    returned: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
}

/// The kernel's attributes of a new map.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MapAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

bowline_ebpf_abi::plain! {
    MapAttr = 16,
    TestRunAttr = 72,
    CounterAttr = 64,
}

impl Attr for MapAttr {}
impl Attr for TestRunAttr {}

/// A packet and the program that it is given to.
#[derive(Debug)]
pub struct Repeat {
    packet: Vec<u8>,
    outer: OwnedFd,
    /// What the outer program goes on to; the kernel lets go of it with this descriptor.
    _inner: OwnedFd,
}

/// What many runs came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeated {
    /// What the last run returned.
    pub returned: i32,
    /// Of this thread's time, a run.
    pub nanoseconds: f64,
    /// Of the processor, a run; nothing where it has no counter.
    pub instructions: Option<f64>,
}

impl Repeat {
    /// Runs of `program`, or of one that does nothing. With `port_at` the source port, which is
    /// there in the packet, is another in each of up to 65,535 runs.
    pub fn new(
        program: Option<BorrowedFd<'_>>,
        packet: &[u8],
        port_at: Option<usize>,
    ) -> io::Result<Self> {
        if packet.len() > LONGEST {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let inner = place_for_a_program()?;
        let nothing = syscall::load_program(None, &[set(0, NOTHING), EXIT])?;
        let program = program.unwrap_or(nothing.as_fd());
        syscall::update(inner.as_fd(), &0_u32.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes())?;
        let outer = syscall::load_program(None, &restoring(packet, port_at, inner.as_fd()))?;
        Ok(Self { packet: packet.to_vec(), outer, _inner: inner })
    }

    /// So many runs, one after the other.
    pub fn run(&self, times: u32, counter: Option<&Instructions>) -> io::Result<Repeated> {
        let mut attr = TestRunAttr {
            program: self.outer.as_raw_fd() as u32,
            size_in: self.packet.len() as u32,
            data_in: self.packet.as_ptr() as u64,
            repeat: times,
            ..TestRunAttr::default()
        };
        let counted = || counter.map(Instructions::count).transpose();
        let (count, start) = (counted()?, clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        bpf(PROG_TEST_RUN, &mut attr)?;
        let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let more = counted()?.zip(count).map(|(after, before)| (after - before) as f64);
        let nanoseconds =
            (end.tv_sec() - start.tv_sec()) as f64 * 1e9 + (end.tv_nsec() - start.tv_nsec()) as f64;
        let returned = attr.returned as i32;
        if returned == NOT_REACHED {
            return Err(io::Error::other("the kernel did not go on to the program under test"));
        }
        let times = f64::from(times);
        let (nanoseconds, instructions) = (nanoseconds / times, more.map(|more| more / times));
        Ok(Repeated { returned, nanoseconds, instructions })
    }
}

/// A map of one program, to go on to.
fn place_for_a_program() -> io::Result<OwnedFd> {
    const PROGRAM_ARRAY: u32 = 3;
    let mut attr = MapAttr { kind: PROGRAM_ARRAY, key_size: 4, value_size: 4, entries: 1 };
    bpf(MAP_CREATE, &mut attr).map(owned)
}

/// The small program.
fn restoring(packet: &[u8], port_at: Option<usize>, inner: BorrowedFd<'_>) -> Vec<u64> {
    const STORE_BYTES: u64 = 9;
    const TAIL_CALL: u64 = 12;
    /// Where the view of a packet has a number that nobody here uses otherwise: it goes on
    /// counting from run to run, as the packet is one and the same to the kernel.
    const PRIORITY: u64 = 32;
    const STACK: u64 = 10;
    const CONTEXT: u64 = 6;
    let size = packet.len().next_multiple_of(4) as i64;
    let field = |offset: i64| (offset as u16 as u64) << 16;
    let number = |value: u32| u64::from(value) << 32;
    let mut program = vec![copy(CONTEXT, 1)];
    for (place, part) in packet.chunks(4).enumerate() {
        let mut word = [0; 4];
        word[..part.len()].copy_from_slice(part);
        let offset = 4 * place as i64 - size;
        program.push(number(u32::from_ne_bytes(word)) | field(offset) | STACK << 8 | 0x62);
    }
    if let Some(at) = port_at {
        program.extend([
            PRIORITY << 16 | CONTEXT << 12 | 2 << 8 | 0x61,
            number(1) | 2 << 8 | 0x07,
            PRIORITY << 16 | 2 << 12 | CONTEXT << 8 | 0x63,
            field(at as i64 - size) | 2 << 12 | STACK << 8 | 0x6b,
        ]);
    }
    program.extend([
        copy(1, CONTEXT),
        set(2, 0),
        copy(3, STACK),
        number(-size as u32) | 3 << 8 | 0x07,
        set(4, packet.len() as i32),
        set(5, 0),
        call(STORE_BYTES),
        copy(1, CONTEXT),
        // A map by its descriptor, in two words.
        number(inner.as_raw_fd() as u32) | 1 << 12 | 2 << 8 | 0x18,
        0,
        set(3, 0),
        call(TAIL_CALL),
        set(0, NOT_REACHED),
        EXIT,
    ]);
    program
}

/// `perf_event_attr` of its first version.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CounterAttr {
    kind: u32,
    size: u32,
    event: u64,
    unused: [u64; 3],
    flags: u64,
    more_unused: [u64; 2],
}

/// Counts the instructions of the kernel on behalf of the thread that made it.
#[derive(Debug)]
pub struct Instructions(File);

impl Instructions {
    /// An error where the processor has no such counter, as in most virtual machines.
    pub fn new() -> io::Result<Self> {
        const HARDWARE: u32 = 0;
        const INSTRUCTIONS: u64 = 1;
        Self::of(HARDWARE, INSTRUCTIONS)
    }

    fn of(kind: u32, event: u64) -> io::Result<Self> {
        const EXCLUDE_USER: u64 = 1 << 4;
        const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
        const CLOSE_ON_EXEC: u64 = 8;
        let (this_thread, any_cpu, no_group) = (0, -1, -1);
        let attr = CounterAttr {
            kind,
            size: size_of::<CounterAttr>() as u32,
            event,
            flags: EXCLUDE_USER | EXCLUDE_HYPERVISOR,
            ..CounterAttr::default()
        };
        // SAFETY: the kernel reads as many bytes as `size` says, of a value that outlives the call.
        let counter = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attr,
                this_thread,
                any_cpu,
                no_group,
                CLOSE_ON_EXEC,
            )
        };
        if counter < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(File::from(owned(counter as i32))))
    }

    fn count(&self) -> io::Result<u64> {
        let mut count = [0; size_of::<u64>()];
        (&self.0).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's count of a thread's nanoseconds, which needs no counter of the processor.
    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn a_counter_counts_what_its_thread_does() {
        let counter = Instructions::of(1, 1).unwrap();
        let before = counter.count().unwrap();
        for _ in 0..1_000 {
            std::hint::black_box(std::fs::read("/proc/self/stat").unwrap());
        }
        assert!(counter.count().unwrap() > before);
    }

    #[test]
    #[ignore = "needs root; run by `cargo xtask test` as root"]
    fn every_run_reaches_the_program_and_finds_the_packet_as_it_was() {
        const BAD: i32 = 2;
        const GOOD: i32 = 3;
        let packet: Vec<u8> = (0..60).collect();
        // Loads the byte at 14, writes another there, and returns what it was about the first.
        let program = [
            copy(6, 1),
            14 << 32 | 0x30,
            copy(7, 0),
            0x6a << 32 | 0xfff8 << 16 | 10 << 8 | 0x62,
            copy(1, 6),
            set(2, 14),
            copy(3, 10),
            (-8_i32 as u32 as u64) << 32 | 3 << 8 | 0x07,
            set(4, 1),
            set(5, 0),
            call(9),
            set(0, GOOD),
            14 << 32 | 1 << 16 | 7 << 8 | 0x15,
            set(0, BAD),
            EXIT,
        ];
        let program = syscall::load_program(None, &program).unwrap();
        let repeat = Repeat::new(Some(program.as_fd()), &packet, None).unwrap();
        assert_eq!(repeat.run(1_000, None).unwrap().returned, GOOD);
        let nothing = Repeat::new(None, &packet, Some(34)).unwrap().run(1_000, None).unwrap();
        assert_eq!(nothing.returned, NOTHING);
        assert!(nothing.nanoseconds > 0.0 && nothing.instructions.is_none());
    }
}
