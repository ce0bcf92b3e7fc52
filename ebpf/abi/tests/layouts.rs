//! The layouts as a golden file: a change of a layout without a new `ABI_VERSION` fails here.
//! After raising the version, write the file anew with `UPDATE_GOLDEN=1`.

use bowline_ebpf_abi::{ABI_VERSION, Address, Direction, LAYOUTS, Reason};

fn layouts() -> String {
    let mut lines =
        vec![format!("abi {ABI_VERSION}"), format!("Address size={}", size_of::<Address>())];
    for one in LAYOUTS {
        let (map, role, name) = (one.map, one.role, one.name);
        lines.push(format!("{map} {role} {name} size={} align={}", one.size, one.align));
        lines.extend(one.fields.iter().map(|(field, offset)| format!("    {field} @{offset}")));
    }
    // The map of counters has no layout of its own, but its indexes mean something.
    lines.push(format!("COUNTERS entries={}", Reason::COUNTERS));
    for reason in Reason::ALL {
        let index = reason.index(Direction::ALL[0]);
        lines.push(format!("    {} @{index}", reason.name()));
    }
    lines.join("\n") + "\n"
}

#[test]
fn layouts_are_those_of_this_abi_version() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/layouts.golden");
    let found = layouts();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(found, golden, "a layout changed: raise ABI_VERSION, then UPDATE_GOLDEN=1");
}
