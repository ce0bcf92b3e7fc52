//! What the keys and values of maps look like, in words that another build understands.
//!
//! Each build leaves the description of its layouts beside its maps, pinned like them. A build with
//! other layouts, newer or older, reads it and moves fields by their names.
//! Guarantees: a field that only one side knows is zero; fields whose names start with `pad` are
//! never copied; what cannot be said is not guessed. Not here: which maps are copied when.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use bowline_ebpf_abi::LAYOUTS;
use serde::{Deserialize, Serialize};

use super::syscall;

/// An integer may become wider or narrower; anything longer is no integer.
const INTEGER: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Field {
    offset: usize,
    size: usize,
}

/// A key or a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    size: usize,
    fields: BTreeMap<String, Field>,
}

/// The layouts of all maps of a build, by map and role: `SERVICES key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layouts(BTreeMap<String, Record>);

impl Layouts {
    /// Those of this build.
    pub(super) fn own() -> Self {
        let record = |layout: &bowline_ebpf_abi::Layout| {
            let end = |offset| {
                let later = layout.fields.iter().map(|(_, at)| *at).filter(|at| *at > offset);
                later.min().unwrap_or(layout.size)
            };
            let field = |(name, offset): &(&str, usize)| {
                ((*name).to_owned(), Field { offset: *offset, size: end(*offset) - offset })
            };
            let fields = layout.fields.iter().map(field).collect();
            (format!("{} {}", layout.map, layout.role), Record { size: layout.size, fields })
        };
        Self(LAYOUTS.iter().map(record).collect())
    }

    /// What is pinned here; none if nothing is, or nothing that can be read.
    pub(super) fn pinned(path: &Path) -> Option<Self> {
        let map = syscall::open_pin(path).ok()??;
        let size = syscall::map_info(map.as_fd()).ok()?.value_size;
        let mut text = vec![0; size as usize];
        syscall::lookup(map.as_fd(), &0_u32.to_ne_bytes(), &mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Pins the description where there is none yet.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        let text = serde_json::to_vec(self)?;
        let map = syscall::create_array(text.len(), 1)?;
        syscall::update(map.as_fd(), &0_u32.to_ne_bytes(), &text)?;
        syscall::pin(map.as_fd(), path)
    }

    /// How a map's keys or values (`role`), of these sizes in bytes, become those of `to`; none if
    /// that cannot be said.
    pub(super) fn conversion(
        &self,
        to: &Self,
        map: &str,
        role: &str,
        sizes: (u32, u32),
    ) -> Option<Conversion> {
        let (name, sizes) = (format!("{map} {role}"), (sizes.0 as usize, sizes.1 as usize));
        match (self.0.get(&name), to.0.get(&name)) {
            (Some(from), Some(to)) if (from.size, to.size) == sizes => Conversion::new(from, to),
            (None, None) if sizes.0 == sizes.1 => {
                Some(Conversion { size: sizes.1, moves: vec![(0, 0, sizes.0)] })
            }
            _ => None,
        }
    }
}

/// Moves fields by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conversion {
    size: usize,
    /// From, to, length. All lie within the two sizes.
    moves: Vec<(usize, usize, usize)>,
}

impl Conversion {
    fn new(from: &Record, to: &Record) -> Option<Self> {
        let mut moves = Vec::new();
        for (name, new) in to.fields.iter().filter(|(name, _)| !name.starts_with("pad")) {
            let Some(old) = from.fields.get(name) else { continue };
            let is_integer = old.size.max(new.size) <= INTEGER;
            if old.offset.checked_add(old.size)? > from.size
                || (old.size != new.size && !is_integer)
            {
                return None;
            }
            // The low bytes of an integer come first.
            moves.push((old.offset, new.offset, old.size.min(new.size)));
        }
        Some(Self { size: to.size, moves })
    }

    /// Of what comes out.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// `bytes`, which have the size that the conversion is from, as the other build writes them.
    pub(super) fn convert(&self, bytes: &[u8]) -> Vec<u8> {
        let mut converted = vec![0; self.size];
        for (from, to, length) in &self.moves {
            converted[*to..to + length].copy_from_slice(&bytes[*from..from + length]);
        }
        converted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layouts(size: usize, fields: &[(&str, usize, usize)]) -> Layouts {
        let field = |(name, offset, size): &(&str, usize, usize)| -> (String, Field) {
            ((*name).to_owned(), Field { offset: *offset, size: *size })
        };
        let fields = fields.iter().map(field).collect();
        Layouts(BTreeMap::from([("M value".to_owned(), Record { size, fields })]))
    }

    fn old() -> Layouts {
        layouts(12, &[("a", 0, 4), ("b", 4, 2), ("pad", 6, 2), ("c", 8, 4)])
    }

    fn new() -> Layouts {
        layouts(20, &[("c", 0, 8), ("pad", 8, 4), ("fresh", 12, 4), ("a", 16, 4)])
    }

    #[test]
    fn fields_move_by_name_both_ways() {
        let up = old().conversion(&new(), "M", "value", (12, 20)).unwrap();
        let value = [1, 2, 3, 4, 5, 6, 0xff, 0xff, 9, 10, 11, 12];
        let mut expected = vec![9, 10, 11, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(up.convert(&value), expected, "c became wider, fresh is zero");
        expected[12..16].copy_from_slice(&[7; 4]);
        let down = new().conversion(&old(), "M", "value", (20, 12)).unwrap();
        let back = [1, 2, 3, 4, 0, 0, 0, 0, 9, 10, 11, 12];
        assert_eq!(down.convert(&expected), back, "b is lost, padding is zero");
    }

    #[test]
    fn what_cannot_be_said_is_not_guessed() {
        let (old, new) = (old(), new());
        assert!(old.conversion(&new, "M", "value", (16, 20)).is_none(), "not as described");
        assert!(old.conversion(&new, "OTHER", "value", (4, 8)).is_none());
        let same = old.conversion(&new, "OTHER", "value", (4, 4)).unwrap();
        assert_eq!(same.convert(&[1, 2, 3, 4]), [1, 2, 3, 4]);
        let long = layouts(16, &[("a", 0, 16)]);
        assert!(old.conversion(&long, "M", "value", (12, 16)).is_none(), "no integer");
        let beyond = layouts(12, &[("a", 10, 4)]);
        assert!(beyond.conversion(&new, "M", "value", (12, 20)).is_none(), "outside the value");
    }

    #[test]
    fn this_build_s_description_is_read_as_it_was_written() {
        let own = Layouts::own();
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<Layouts>(&text).unwrap(), own);
        let service = Conversion::new(&own.0["SERVICES value"], &own.0["SERVICES value"]).unwrap();
        let bytes: Vec<u8> = (1..=service.size as u8).collect();
        assert_eq!(service.convert(&bytes), bytes, "every byte has a field");
    }
}
