//! What a map is, by the kernel's own account.

use bowline_ebpf_abi::map;
use serde::Serialize;

use super::syscall::MapInfo;

/// The types of maps that there are here (`enum bpf_map_type`).
const TYPES: [(u32, &str); 6] = [
    (1, "hash"),
    (2, "array"),
    (6, "percpu_array"),
    (9, "lru_hash"),
    (11, "lpm_trie"),
    (27, "ringbuf"),
];

/// The type that the map with this name has.
pub(super) fn type_of(name: &str) -> Option<u32> {
    let named = match name {
        map::ADDRESSES | map::PODS | map::SERVICES => "hash",
        map::AFFINITY | map::FLOWS | map::REVERSE => "lru_hash",
        map::CONNECT_TIMES | map::COUNTERS | map::SERVICE_COUNTERS | map::TOLD => "percpu_array",
        map::BACKENDS | map::CONNECTIONS | map::EDITION | map::MONITOR | map::PEERS => "array",
        map::SERVICE_LINES | map::SLOTS | map::TAKEOVER => "array",
        map::ROUTES => "lpm_trie",
        map::EVENTS => "ringbuf",
        _ => return None,
    };
    TYPES.iter().find(|(_, name)| *name == named).map(|(number, _)| *number)
}

/// How maps are made here (`BPF_F_...`).
const FLAGS: [(u32, &str); 2] = [(1, "no_prealloc"), (1 << 10, "mmapable")];

/// A map as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapShape {
    /// The kernel's number for it, as `bpftool map` shows it.
    pub id: u32,
    /// As `bpftool` names it.
    pub r#type: String,
    pub key_bytes: u32,
    /// Of one entry; of an entry per processor, what each has.
    pub value_bytes: u32,
    /// How it was made.
    pub kernel_flags: Vec<String>,
}

impl MapShape {
    pub(super) fn of(info: &MapInfo) -> Self {
        let known = TYPES.iter().find(|(number, _)| *number == info.kind);
        let name = known.map(|(_, name)| (*name).to_owned());
        let mut flags: Vec<String> = Vec::new();
        let mut left = info.flags;
        for (flag, name) in FLAGS {
            if left & flag != 0 {
                flags.push(name.to_owned());
                left &= !flag;
            }
        }
        if left != 0 {
            flags.push(format!("{left:#x}"));
        }
        Self {
            id: info.id,
            r#type: name.unwrap_or_else(|| format!("type {}", info.kind)),
            key_bytes: info.key_size,
            value_bytes: info.value_size,
            kernel_flags: flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name_here_is_shown_as_a_number() {
        let info = MapInfo { kind: 9, flags: 1, key_size: 4, ..MapInfo::default() };
        let shape = MapShape::of(&info);
        assert_eq!((shape.r#type.as_str(), shape.key_bytes), ("lru_hash", 4));
        assert_eq!(shape.kernel_flags, ["no_prealloc"]);
        let shape = MapShape::of(&MapInfo { kind: 99, flags: 0x401 | 0x80, ..info });
        assert_eq!(shape.r#type, "type 99");
        assert_eq!(shape.kernel_flags, ["no_prealloc", "mmapable", "0x80"]);
    }
}
