//! A libFuzzer target: sequences of packets through the parser and the selector, as
//! `cargo xtask test --thorough` and `cargo fuzz run packets` run it. What must hold is in
//! `bowline_ebpf_datapath::fuzz`, which the bounded test of every run shares.
//! A corpus directory that is empty is filled with good packets first.

#![no_main]

use std::path::PathBuf;

use bowline_ebpf_datapath::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: sow(), |input: &[u8]| { fuzz::run(input); });

/// Makes a file of each good packet in the corpora that have none.
fn sow() {
    let directories = std::env::args().skip(1).map(PathBuf::from).filter(|path| path.is_dir());
    for directory in directories {
        if std::fs::read_dir(&directory).is_ok_and(|mut files| files.next().is_none()) {
            for (number, seed) in fuzz::seeds().into_iter().enumerate() {
                std::fs::write(directory.join(format!("seed-{number}")), seed)
                    .expect("the corpus can be written");
            }
        }
    }
}
