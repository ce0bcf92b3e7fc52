//! The `bpf(2)` calls that the data plane makes itself: map elements, pins, links.
//!
//! Guarantees: every pointer handed to the kernel outlives the call and points to as many bytes as
//! the kernel will touch; every descriptor is owned. Loading programs is left to aya.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bowline_ebpf_abi::Plain;
use nix::libc;

use super::object::{Object, object};
use super::program_facts::ProgramFacts;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_UPDATE_BATCH: i32 = 26;
const LINK_CREATE: i32 = 28;
/// `BPF_F_BEFORE`; before nobody in particular is before all.
const BEFORE: u32 = 1 << 3;
const LINK_UPDATE: i32 = 29;

/// Where a program can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachPoint {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    SendMsg4 = 14,
    SendMsg6 = 15,
    RecvMsg4 = 19,
    RecvMsg6 = 20,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    TcxIngress = 46,
    TcxEgress = 47,
}

impl AttachPoint {
    fn is_packets(self) -> bool {
        matches!(self, Self::TcxIngress | Self::TcxEgress)
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MapCreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value_or_next: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ObjectAttr {
    path: u64,
    object: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct InfoAttr {
    object: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    point: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramLoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_point: u32,
}

/// The start of `bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// `bpf_prog_info` up to what is read here.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    xlated_length: u32,
    unread: [u64; 2],
    load_time_ns: u64,
    user: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
    more_unread: [u64; 14],
    run_time_ns: u64,
    runs: u64,
    misses: u64,
    verified: u32,
    tail: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

/// `bpf_link_info` of a cgroup or TCX link.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    pub(super) program: u32,
    pad: u32,
    /// A cgroup link's cgroup; a TCX link's interface is in the low half.
    pub(super) target: u64,
    attach_point: u32,
    tail: u32,
}

bowline_ebpf_abi::plain! {
    MapCreateAttr = 16,
    ElementAttr = 32,
    BatchAttr = 56,
    ObjectAttr = 16,
    InfoAttr = 16,
    LinkCreateAttr = 16,
    LinkUpdateAttr = 16,
    ProgramLoadAttr = 72,
    IdAttr = 12,
    MapInfo = 24,
    ProgramInfo = 224,
    LinkInfo = 32,
}

/// Marks what is laid out as the kernel's union for a command.
pub(super) trait Attr: Plain {}

impl Attr for ElementAttr {}
impl Attr for BatchAttr {}
impl Attr for ObjectAttr {}
impl Attr for InfoAttr {}
impl Attr for LinkCreateAttr {}
impl Attr for LinkUpdateAttr {}
impl Attr for ProgramLoadAttr {}
impl Attr for IdAttr {}
impl Attr for MapCreateAttr {}

pub(super) fn bpf<T: Attr>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes no more than the size, and whatever it writes makes a
    // valid value of a plain type; it takes a shorter one as filled up with zeros. Pointers inside
    // it are the callers' to keep alive.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

pub(super) fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the value of `key` into `value`, which is as large as the map's values are.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map: raw(map),
        key: key.as_ptr() as u64,
        value_or_next: value.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    Ok(missing_is_none(bpf(MAP_LOOKUP_ELEM, &mut attr))?.is_some())
}

pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    write_element(map, key, value, 0)
}

/// Writes an element of a map that is no array; `EEXIST` if it is there.
pub(super) fn insert(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    const NOEXIST: u64 = 1;
    write_element(map, key, value, NOEXIST)
}

fn write_element(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut attr = ElementAttr {
        map: raw(map),
        key: key.as_ptr() as u64,
        value_or_next: value.as_ptr() as u64,
        flags,
        ..ElementAttr::default()
    };
    bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Writes elements. When it fails, those before the one that was refused are written.
pub(super) fn update_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    fits_batches::<K, V>(map)?;
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?,
        map: raw(map),
        ..BatchAttr::default()
    };
    bpf(MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// Refuses types that are not the map's. Maps with a value for each CPU are not for batches here.
fn fits_batches<K, V>(map: BorrowedFd<'_>) -> io::Result<()> {
    const PER_CPU: [u32; 4] = [5, 6, 10, 21];
    let MapInfo { kind, key_size, value_size, .. } = info(map)?;
    let sizes = (key_size as usize, value_size as usize);
    if PER_CPU.contains(&kind) || sizes != (size_of::<K>(), size_of::<V>()) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    Ok(())
}

/// Whether there was something to delete.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr =
        ElementAttr { map: raw(map), key: key.as_ptr() as u64, ..ElementAttr::default() };
    Ok(missing_is_none(bpf(MAP_DELETE_ELEM, &mut attr))?.is_some())
}

/// Writes the key after `key` (the first without one) into `next`; false at the end.
pub(super) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map: raw(map),
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value_or_next: next.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    Ok(missing_is_none(bpf(MAP_GET_NEXT_KEY, &mut attr))?.is_some())
}

/// Where a batch ended; the next one goes on from there.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor(Vec<u8>);

/// What a batch held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// So many keys and values were written.
    pub(super) count: u32,
    /// There are no more after them.
    pub(super) last: bool,
}

/// Reads the next entries of a map into `keys` and `values`, as many as both have room for; `first`
/// says that `cursor` is new. Linux 5.6 for hash maps and arrays.
pub(super) fn lookup_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    first: bool,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    fits_batches::<K, V>(map)?;
    let room = u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?;
    let into = (keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64);
    read_batch(map, cursor, first, room, size_of::<K>(), into)
}

/// The same for maps whose types are another build's: keys and values one after the other, as many
/// as `keys` has room for.
pub(super) fn lookup_batch_bytes(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    first: bool,
    keys: &mut [u8],
    values: &mut [u8],
) -> io::Result<Batch> {
    let MapInfo { key_size: key, value_size: value, .. } = map_info(map)?;
    let room = keys.len() / key as usize;
    if values.len() < room * value as usize {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "less room for values"));
    }
    let into = (keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64);
    let room = u32::try_from(room).map_err(io::Error::other)?;
    read_batch(map, cursor, first, room, key as usize, into)
}

/// `into` are places for so many keys and values as `room` says.
fn read_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    first: bool,
    room: u32,
    key_size: usize,
    into: (u64, u64),
) -> io::Result<Batch> {
    // The kernel writes a key there, or the number of a bucket.
    cursor.0.resize(key_size.max(size_of::<u32>()), 0);
    let after = cursor.0.clone();
    let mut attr = BatchAttr {
        in_batch: if first { 0 } else { after.as_ptr() as u64 },
        out_batch: cursor.0.as_mut_ptr() as u64,
        keys: into.0,
        values: into.1,
        count: room,
        map: raw(map),
        ..BatchAttr::default()
    };
    let done = missing_is_none(bpf(MAP_LOOKUP_BATCH, &mut attr))?;
    Ok(Batch { count: attr.count.min(room), last: done.is_none() })
}

/// Pins a map, program or link.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr =
        ObjectAttr { path: path.as_ptr() as u64, object: raw(object), ..ObjectAttr::default() };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned at `path`; none if nothing is.
pub(super) fn open_pin(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = c_path(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, ..ObjectAttr::default() };
    Ok(missing_is_none(bpf(OBJ_GET, &mut attr))?.map(owned))
}

fn info<T: Plain>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    fill(object, &mut info)?;
    Ok(info)
}

/// What `info` has pointers and lengths for is read, too.
fn fill<T: Plain>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let length = size_of::<T>() as u32;
    let info = std::ptr::from_mut(info) as u64;
    bpf(OBJ_GET_INFO_BY_FD, &mut InfoAttr { object: raw(object), length, info }).map(drop)
}

/// Makes an array with values of this size in bytes.
pub(super) fn create_array(value_size: usize, entries: u32) -> io::Result<OwnedFd> {
    const ARRAY: u32 = 2;
    let value_size = u32::try_from(value_size).map_err(io::Error::other)?;
    let mut attr =
        MapCreateAttr { kind: ARRAY, key_size: size_of::<u32>() as u32, value_size, entries };
    bpf(MAP_CREATE, &mut attr).map(owned)
}

pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// Of what is no link nothing is known: it hangs on nothing and runs nothing.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    match object(link)? {
        Object::Link => info(link),
        _ => Ok(LinkInfo::default()),
    }
}

/// Attaches a program to a cgroup (its descriptor) or an interface (its index).
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    target: u32,
    point: AttachPoint,
) -> io::Result<OwnedFd> {
    // Before all others: a build that takes over sees a packet before the one that it replaces.
    let flags = if point.is_packets() { BEFORE } else { 0 };
    let mut attr = LinkCreateAttr { program: raw(program), target, point: point as u32, flags };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// Replaces a link's program, between one packet and the next.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdateAttr { link: raw(link), program: raw(program), ..LinkUpdateAttr::default() };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link's program away from what it hangs on, as somebody may by `bpftool link detach`.
#[cfg(test)]
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    const LINK_DETACH: i32 = 34;
    let mut attr = LinkUpdateAttr { link: raw(link), ..LinkUpdateAttr::default() };
    bpf(LINK_DETACH, &mut attr).map(drop)
}

/// Instructions, as the kernel's `instruction-set.rst` has them.
pub(super) mod instruction {
    use std::os::fd::BorrowedFd;

    use super::raw;

    pub(in super::super) const EXIT: u64 = 0x95;
    /// Register 0 becomes 1: a socket program allows.
    pub(in super::super) const ALLOW: u64 = 1 << 32 | 0xb7;

    pub(in super::super) const fn set(register: u64, value: i32) -> u64 {
        (value as u32 as u64) << 32 | register << 8 | 0xb7
    }

    pub(in super::super) const fn call(helper: u64) -> u64 {
        helper << 32 | 0x85
    }

    pub(in super::super) const fn copy(to: u64, from: u64) -> u64 {
        from << 12 | to << 8 | 0xbf
    }

    /// A register becomes a number of 64 bits.
    pub(in super::super) const fn constant(register: u64, value: u64) -> [u64; 2] {
        [value << 32 | register << 8 | 0x18, value >> 32 << 32]
    }

    /// A register becomes the place of an array's first value.
    pub(in super::super) fn value_of(register: u64, array: BorrowedFd<'_>) -> [u64; 2] {
        const MAP_VALUE: u64 = 2;
        [u64::from(raw(array)) << 32 | MAP_VALUE << 12 | register << 8 | 0x18, 0]
    }

    /// Goes on so many instructions later if two registers differ.
    pub(in super::super) const fn skip_unless_equal(one: u64, other: u64, by: u16) -> u64 {
        (by as u64) << 16 | other << 12 | one << 8 | 0x5d
    }

    /// Stores the 64 bits of a register at the place that another one holds.
    pub(in super::super) const fn store(at: u64, from: u64) -> u64 {
        from << 12 | at << 8 | 0x7b
    }
}

/// Loads a program of a socket hook, or else of a packet hook.
pub(super) fn load_program(
    socket: Option<AttachPoint>,
    instructions: &[u64],
) -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    const SOCK_OPS: u32 = 13;
    const CGROUP_SOCK_ADDR: u32 = 18;
    let kind = match socket {
        None => SCHED_CLS,
        Some(AttachPoint::SockOps) => SOCK_OPS,
        Some(_) => CGROUP_SOCK_ADDR,
    };
    let mut attr = ProgramLoadAttr {
        kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_point: socket.map_or(0, |point| point as u32),
        ..ProgramLoadAttr::default()
    };
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// Whether the kernel knows the call of [`update_batch`]: one that does misses the map.
pub(super) fn knows_batch_update() -> bool {
    let mut attr = BatchAttr { map: u32::MAX, count: 1, ..BatchAttr::default() };
    let answer = bpf(MAP_UPDATE_BATCH, &mut attr);
    answer.is_err_and(|error| error.raw_os_error() == Some(libc::EBADF))
}

/// The number of a program.
pub(super) fn program_number(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info::<ProgramInfo>(program)?.id)
}

/// What is known of the program with this number; none if there is none (any more).
pub(super) fn program_facts(number: u32) -> io::Result<Option<ProgramFacts>> {
    let mut attr = IdAttr { id: number, ..IdAttr::default() };
    let Some(program) = missing_is_none(bpf(PROG_GET_FD_BY_ID, &mut attr))? else {
        return Ok(None);
    };
    use std::os::fd::AsFd;
    let program = owned(program);
    let info: ProgramInfo = info(program.as_fd())?;
    let mut maps = vec![0_u32; info.map_count as usize];
    let (map_count, map_ids) = (info.map_count, maps.as_mut_ptr() as u64);
    fill(program.as_fd(), &mut ProgramInfo { map_count, map_ids, ..ProgramInfo::default() })?;
    Ok(Some(ProgramFacts {
        name: info.name,
        tag: info.tag,
        machine_bytes: info.jited_length,
        load_time_ns: info.load_time_ns,
        maps,
        instructions: info.xlated_length / 8,
        verified: info.verified,
        runs: info.runs,
        run_time_ns: info.run_time_ns,
    }))
}
