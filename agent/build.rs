//! Makes the BPF object part of the binary.
//!
//! `cargo xtask build` puts it at `<target>/bpf/bowline.bpf.o` first; `BOWLINE_BPF_OBJECT` names
//! another. Without one the crate still compiles, and opening the data plane says what is missing.

use std::path::{Path, PathBuf};

fn main() {
    let object = std::env::var_os("BOWLINE_BPF_OBJECT").map_or_else(built_object, PathBuf::from);
    println!("cargo::rerun-if-env-changed=BOWLINE_BPF_OBJECT");
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let embedded = out.join("bowline.bpf.o");
    let bytes = std::fs::read(&object).unwrap_or_default();
    std::fs::write(&embedded, bytes).expect("OUT_DIR is writable");
}

/// `<target>/bpf/bowline.bpf.o`, where OUT_DIR is `<target>/<profile>/build/<crate>/out`.
fn built_object() -> PathBuf {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    let target = target.map_or_else(|| Path::new("..").join("target"), Path::to_path_buf);
    let next = std::env::var_os("CARGO_FEATURE_NEXT_ABI").is_some();
    target.join("bpf").join(if next { "bowline-next.bpf.o" } else { "bowline.bpf.o" })
}
