//! A suite of benchmarks that is interrupted leaves nothing of its world.

#[path = "../../benches/interrupts.rs"]
mod interrupts;

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::World;

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn an_interrupted_suite_removes_its_world() {
    let mut made: Vec<PathBuf> = Vec::new();
    let status = interrupts::end_of(|| {
        let world = World::new();
        let _planes = world.open();
        for node in [&world.here, &world.there] {
            made.extend([node.cgroup.path.clone(), node.bpffs().parent().unwrap().to_owned()]);
        }
        assert!(made.iter().all(|path| path.exists()), "{made:?}");
        world.here.cgroup.enter();
        kill(Pid::this(), Signal::SIGTERM).unwrap();
        for _ in 0..1_000 {
            interrupts::check();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(status, 130);
    made.retain(|path| path.exists());
    assert!(made.is_empty(), "left: {made:?}");
}
