//! The packet programs in the kernel, run on made-up packets: a row is what goes in, what is in
//! the maps, the verdict, what comes out byte for byte, and every counter that moved.
//!
//! Run only these with `cargo nextest run -p bowline-agent packets:: --run-ignored all`, or start
//! the test binary with `packets:: --ignored`, as root. Each table prints `packet rows: NAME N`.

mod delivery;
mod errors;
mod flows;
mod hostile;
