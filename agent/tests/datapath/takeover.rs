//! A build takes over what another left behind that died in the middle of its own takeover.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use bowline_agent::datapath::Raw;
use bowline_ebpf_abi::{ABI_VERSION, Flow, FlowKey, flow_ended, map, takeover};
use bowline_lab::world::World;

use crate::servers::{Connection, PATIENCE, SERVICE, Server, service_with};

const CLOSED: u8 = flow_ended::BY_CLIENT | flow_ended::BY_BACKEND;

fn open(set: &Path, name: &str) -> MapData {
    MapData::from_pin(set.join("maps").join(name)).unwrap()
}

fn flows(set: &Path) -> HashMap<MapData, Raw<FlowKey>, Raw<Flow>> {
    HashMap::try_from(Map::LruHashMap(open(set, map::FLOWS))).unwrap()
}

/// How many flows are over, and how many there are.
fn closed(set: &Path) -> (usize, usize) {
    let ended: Vec<u8> = flows(set).iter().map(|entry| entry.unwrap().1.0.ended).collect();
    (ended.iter().filter(|ended| **ended & CLOSED == CLOSED).count(), ended.len())
}

fn stage(set: &Path) -> Array<MapData, u32> {
    Array::try_from(Map::Array(open(set, map::TAKEOVER))).unwrap()
}

/// Sets of two builds that both began, of which the second comes before the first at each interface
/// and knows nothing of a connection that the first one had carried to it an instant too late. In
/// the first one a connection is open for ever that the second one saw close.
fn a_takeover_is_broken_off(own_is_before: bool) {
    let world = World::new();
    let root = world.here.bpffs();
    let [own, other] = [ABI_VERSION, ABI_VERSION - 1].map(|v| root.join(format!("bowline/v{v}")));
    let backend = world.backends()[0];
    let _server = Server::start(backend);
    let services = service_with(&[backend.address]);

    let mut here = world.here.open();
    here.apply_services(&services).unwrap();
    let mut kept = world.client().namespace.run(|| Connection::open(SERVICE).unwrap());
    kept.ask("before").unwrap();
    drop(here);
    let behind = root.join("behind");
    let moved = (own.clone(), behind.clone());
    world.here.namespace.run(move || fs::rename(moved.0, moved.1).unwrap());

    let mut here = world.here.open();
    here.apply_services(&services).unwrap();
    let mut ended = world.client().namespace.run(|| Connection::open(SERVICE).unwrap());
    ended.ask("open").unwrap();
    let sets = (behind.clone(), own.clone());
    world.here.namespace.run(move || {
        let mut theirs = flows(&sets.0);
        for entry in &flows(&sets.1) {
            let (key, flow) = entry.unwrap();
            theirs.insert(key, flow, 0).unwrap();
        }
        stage(&sets.1).set(0, takeover::value(1, takeover::FOLLOWED), 0).unwrap();
    });
    if has_links(&world, &own) {
        // The second set's programs, which come first, leave it to those that know it.
        kept.ask("while both are at work").unwrap();
    }
    drop(ended);
    let set = own.clone();
    world.here.namespace.run(move || {
        let start = Instant::now();
        while closed(&set).0 < 2 {
            assert!(start.elapsed() < PATIENCE, "{:?}", closed(&set));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    drop(here);

    let moves: Vec<(PathBuf, PathBuf)> = if own_is_before {
        vec![(behind, other)]
    } else {
        vec![(own.clone(), other), (behind, own.clone())]
    };
    world.here.namespace.run(move || {
        for (from, to) in moves {
            fs::rename(from, to).unwrap();
        }
    });
    drop(world.here.open());
    kept.ask("after").unwrap();
    let (sets, generation) = (root.join("bowline"), if own_is_before { 1 } else { 2 });
    world.here.namespace.run(move || {
        let names = fs::read_dir(sets).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), [own.file_name().unwrap()]);
        let value = takeover::value(generation, takeover::DONE);
        assert_eq!(stage(&own).get(&0, 0).unwrap(), value);
        assert_eq!(closed(&own), (2, 4), "both ways of two connections");
    });
}

/// Below Linux 6.6 there are filters in their place, of which those of one build replace each
/// other.
fn has_links(world: &World, set: &Path) -> bool {
    let set = set.to_path_buf();
    world.here.namespace.run(move || !packet_links(&set).is_empty())
}

/// The numbers of the packet programs' links.
fn packet_links(set: &Path) -> BTreeSet<u32> {
    let links = fs::read_dir(set.join("links")).unwrap().map(|entry| entry.unwrap().path());
    let of_packets = links.filter(|path| path.to_string_lossy().contains('-'));
    let link = |path: PathBuf| FdLink::from(PinnedLink::from_pin(path).unwrap()).info().unwrap();
    of_packets.map(|path| link(path).id()).collect()
}

/// Another build that died while it removed this one's set left its links, which come behind.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn what_is_left_of_a_set_that_was_removed_half_way_is_made_anew() {
    let world = World::new();
    let sets = world.here.bpffs().join("bowline");
    let [own, other] = [ABI_VERSION, ABI_VERSION - 1].map(|v| sets.join(format!("v{v}")));
    let behind = world.here.bpffs().join("behind");
    let rename = |from: &Path, to: &Path| {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        world.here.namespace.run(move || fs::rename(from, to).unwrap());
    };
    drop(world.here.open());
    if !has_links(&world, &own) {
        eprintln!("SKIPPED: no TCX links");
        return;
    }
    rename(&own, &behind);
    drop(world.here.open());
    rename(&own, &other);
    rename(&behind, &own);
    let set = own.clone();
    let before = world.here.namespace.run(move || {
        fs::remove_file(set.join("layouts")).unwrap();
        packet_links(&set)
    });
    drop(world.here.open());
    world.here.namespace.run(move || {
        let after = packet_links(&own);
        assert_eq!(before.len(), after.len());
        assert!(before.is_disjoint(&after), "{before:?} {after:?}");
        assert_eq!(stage(&own).get(&0, 0).unwrap(), takeover::value(1, takeover::DONE));
    });
}

/// Somebody removed the other set by hand in the middle of a takeover.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn packets_are_left_to_nobody_where_nobody_is_behind() {
    let world = World::new();
    let own = world.here.bpffs().join(format!("bowline/v{ABI_VERSION}"));
    drop(world.here.open());
    let set = own.clone();
    world.here.namespace.run(move || {
        stage(&set).set(0, takeover::value(3, takeover::FOLLOWED), 0).unwrap();
    });
    drop(world.here.open());
    let value = world.here.namespace.run(move || stage(&own).get(&0, 0).unwrap());
    assert_eq!(value, takeover::value(3, takeover::DONE));
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn whoever_comes_back_first_ends_the_takeover_that_was_broken_off() {
    a_takeover_is_broken_off(true);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn whoever_comes_back_behind_another_begins_anew() {
    a_takeover_is_broken_off(false);
}
