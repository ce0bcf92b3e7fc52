//! What the agent owns in the kernel: all of it is pinned under the version of its layouts, where
//! nothing else lies, and outlives the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use bowline_agent::datapath::{
    ApiObjects, Client, Datapath, Feature, Filter, Listener, MapSizes, NodePlace, NodeTraffic,
    Question, Snapshot, Status, differences, dump, explain,
};
use bowline_ebpf_abi::{ABI_VERSION, map};
use bowline_lab::world::{TUNNEL, UPLINK, World};

use crate::servers::{PATIENCE, SERVICE};

/// All that there are, but [`OWN`].
const MAPS: [&str; 20] = [
    map::ADDRESSES,
    map::AFFINITY,
    map::BACKENDS,
    map::CONNECTIONS,
    map::CONNECT_TIMES,
    map::COUNTERS,
    map::EDITION,
    map::EVENTS,
    map::FLOWS,
    map::MONITOR,
    map::PEERS,
    map::PODS,
    map::REVERSE,
    map::ROUTES,
    map::SERVICES,
    map::SERVICE_COUNTERS,
    map::SERVICE_LINES,
    map::SLOTS,
    map::TAKEOVER,
    map::TOLD,
];

/// What the names of maps begin with that the programs of one load have for themselves: settings
/// and the compiler's constants, and room to work in. They go with the programs.
const OWN: [&str; 3] = [".rodata", "WORK", "CAUGHT"];

/// What the kernel itself puts into each BPF file system.
const KERNELS: [&str; 2] = ["maps.debug", "progs.debug"];

/// What is pinned.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pinned {
    /// Everything in the BPF file system, below its root.
    names: BTreeSet<String>,
    maps: BTreeMap<String, u32>,
    /// The link and its program.
    links: BTreeMap<String, (u32, u32)>,
}

impl Pinned {
    fn of(world: &World) -> Self {
        let root = world.here.bpffs();
        world.here.namespace.run(move || {
            let mut pinned = Self::default();
            pinned.look(&root, &root);
            pinned
        })
    }

    fn look(&mut self, root: &Path, directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let last = path.file_name().unwrap().to_string_lossy().into_owned();
            if directory == root && KERNELS.contains(&last.as_str()) {
                continue;
            }
            self.names.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            if path.is_dir() {
                self.look(root, &path);
            } else if directory.ends_with("links") {
                let link = FdLink::from(PinnedLink::from_pin(&path).unwrap()).info().unwrap();
                self.links.insert(last, (link.id(), link.program_id()));
            } else {
                let map = MapInfo::from_pin(&path).unwrap_or_else(|e| panic!("{last}: {e}"));
                let id = map.id();
                self.maps.insert(last, id);
            }
        }
    }

    /// Whether something that a process holds stays without it.
    fn keeps(&self, (kind, id): &(Kind, u32)) -> bool {
        match kind {
            Kind::Map => self.maps.values().any(|map| map == id),
            Kind::Link => self.links.values().any(|(link, _)| link == id),
            Kind::Program => self.links.values().any(|(_, program)| program == id),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Map,
    Link,
    Program,
}

/// What of BPF this process has open.
fn held() -> BTreeSet<(Kind, u32)> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|number| number.trim().parse::<u32>().unwrap())
        };
        // A link names its program, too.
        let named = [(Kind::Link, "link_id"), (Kind::Map, "map_id"), (Kind::Program, "prog_id")];
        held.extend(named.into_iter().find_map(|(kind, name)| Some((kind, field(name)?))));
    }
    held
}

/// The names of this node's links: of socket programs, and of packet programs where they have any.
fn names_of_links(world: &World, with_packets: bool) -> BTreeSet<String> {
    let calls = ["connect", "getpeername", "recvmsg", "sendmsg"];
    let sockets = calls.iter().flat_map(|call| [4, 6].map(|family| format!("{call}{family}")));
    let mut names: BTreeSet<String> = sockets.chain(["established".to_owned()]).collect();
    if with_packets {
        let uplinks = [UPLINK, TUNNEL].map(|name| world.here.namespace.ifindex(name));
        names.extend(uplinks.map(|ifindex| format!("from_uplink-{ifindex}")));
        for pod in &world.here.pods {
            names.extend(["from_pod", "to_pod"].map(|name| format!("{name}-{}", pod.link.ifindex)));
        }
    }
    names
}

fn all_that_is_owned_is_pinned(disabled: &[Feature]) {
    let world = World::new();
    let before = held();
    let here = world.open_without(disabled);
    let status = world.here.status();
    let tcx = status.programs.iter().any(|program| program.hook.starts_with("tcx"));
    let (pinned, links) = (Pinned::of(&world), names_of_links(&world, tcx));

    let version = format!("bowline/v{ABI_VERSION}");
    let directories = ["layouts", "links", "maps"].map(|name| format!("{version}/{name}"));
    let mut names: BTreeSet<String> = directories.into();
    names.extend(["bowline".to_owned(), version.clone()]);
    names.extend(MAPS.map(|name| format!("{version}/maps/{name}")));
    names.extend(links.iter().map(|name| format!("{version}/links/{name}")));
    assert_eq!(pinned.names, names);

    // Filters of clsact hold their programs themselves.
    let by_filter = |number: u32| {
        let program = status.programs.iter().find(|program| program.id == number);
        program.is_some_and(|it| it.hook.starts_with("clsact") && !it.attached.is_empty())
    };
    for program in &status.programs {
        let kept = pinned.keeps(&(Kind::Program, program.id)) || by_filter(program.id);
        assert!(kept, "nothing keeps {program:?}");
    }
    assert!(status.programs.len() >= 12, "{:?}", status.programs);
    let infos: BTreeMap<u32, String> = aya::maps::loaded_maps()
        .flatten()
        .map(|map| (map.id(), map.name_as_str().unwrap_or_default().to_owned()))
        .collect();
    let mut own = BTreeSet::new();
    let ours: BTreeSet<u32> = status.programs.iter().map(|program| program.id).collect();
    for program in loaded_programs().flatten().filter(|program| ours.contains(&program.id())) {
        for id in program.map_ids().unwrap().unwrap_or_default() {
            if !pinned.keeps(&(Kind::Map, id)) {
                own.insert(infos[&id].clone());
            }
        }
    }
    let may_be = |name: &String| OWN.iter().any(|start| name.starts_with(start));
    assert!(own.iter().all(may_be), "{own:?} are not pinned");
    for one in held().difference(&before) {
        let (kind, id) = one;
        let own = *kind == Kind::Map && infos.get(id).is_some_and(|name| own.contains(name));
        let filter = *kind == Kind::Program && by_filter(*id);
        assert!(pinned.keeps(one) || own || filter, "only the agent keeps {one:?}");
    }

    // Nothing hangs on the agent.
    drop(here);
    let start = Instant::now();
    while !held().is_subset(&before) {
        assert!(start.elapsed() < PATIENCE, "{:?}", held().difference(&before));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(Pinned::of(&world), pinned);
    let alive: BTreeSet<u32> = loaded_programs().flatten().map(|program| program.id()).collect();
    assert!(ours.is_subset(&alive), "programs that went with the agent");
    assert_eq!(world.here.status().problems, Vec::<String>::new());
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn all_that_the_agent_owns_is_pinned_and_nothing_else() {
    all_that_is_owned_is_pinned(&[]);
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn all_that_the_agent_owns_is_pinned_also_without_tcx() {
    all_that_is_owned_is_pinned(&[Feature::Tcx]);
}

/// What a build pinned that is no more, and what somebody else put there, does not stay unnoticed
/// by the test above.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn what_lies_beside_the_pins_is_seen() {
    let world = World::new();
    let _here = world.open_without(&[]);
    let before = Pinned::of(&world);
    let stray = world.here.bpffs().join("bowline/v0");
    world.here.namespace.run(move || fs::create_dir(stray).unwrap());
    let after = Pinned::of(&world);
    let more: Vec<&String> = after.names.difference(&before.names).collect();
    assert_eq!(more, ["bowline/v0"]);
}

/// An agent that died while it forgot a pod leaves a pin of a link that is gone: the next one
/// removes it.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn what_a_dying_agent_was_about_to_forget_goes() {
    let world = World::new();
    drop(world.open());
    let mut pins = world.here.link_pins();
    pins.sort_unstable();
    let links = world.here.bpffs().join(format!("bowline/v{ABI_VERSION}/links"));
    let gone = pins.iter().find(|pin| pin.starts_with("to_pod-")).unwrap().clone();
    let (from, to) = (links.join(gone), links.join("to_pod-99999"));
    world.here.namespace.run(move || fs::rename(from, to).unwrap());
    drop(world.open());
    let mut after = world.here.link_pins();
    after.sort_unstable();
    assert_eq!(after, pins);
}

/// The memory of each map, by its name.
fn memory(world: &World, here: &Datapath) -> BTreeMap<String, u64> {
    let _open = here;
    let status = world.here.status();
    let sum: u64 = status.maps.iter().map(|row| row.bytes).sum();
    assert_eq!(status.map_bytes, sum);
    status.maps.into_iter().map(|row| (row.name, row.bytes)).collect()
}

#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn every_map_says_what_memory_it_takes() {
    let world = World::new();
    // An empty ROUTES takes nothing.
    let here = world.open_without(&[]);
    let small = memory(&world, &here);
    let names: Vec<&str> = small.keys().map(String::as_str).collect();
    assert_eq!(names, MAPS);
    println!("{small:?}");
    for (name, bytes) in &small {
        assert!(*bytes > 0, "{name}");
    }
    drop(here);
    // Those whose entries are there from the beginning.
    let mut sizes = MapSizes::default();
    let doubled = [map::AFFINITY, map::BACKENDS, map::FLOWS, map::PEERS, map::SLOTS];
    for name in doubled {
        let size = world.here.status().maps.into_iter().find(|row| row.name == name).unwrap().size;
        sizes.set(&format!("{name}={}", 2 * size)).unwrap();
    }
    let here = world.here.open_with(sizes);
    let large = memory(&world, &here);
    for name in doubled {
        let per_cent = large[name] * 100 / small[name];
        assert!((180..=220).contains(&per_cent), "{name}: {per_cent} % of what half of it takes");
    }
}

/// What each way to read says of the node's pins, where none of them reads any.
fn refusals(world: &World) -> BTreeSet<String> {
    let bpffs = world.here.bpffs();
    world.here.namespace.run(move || {
        let [names, condition] = ["names", "condition"].map(|name| bpffs.join(name));
        let place = NodePlace {
            bpffs: bpffs.clone(),
            names_file: names.clone(),
            condition_file: condition.clone(),
            netns: None,
        };
        let to = SERVICE;
        let question = Question { from: Client::Node, to, udp: false, numeric: false };
        let objects = ApiObjects::default();
        let all = [
            Snapshot::read(&bpffs).unwrap_err().to_string(),
            Status::read(&bpffs, &condition, None).unwrap_err().to_string(),
            NodeTraffic::read(&bpffs, &names).unwrap_err().to_string(),
            Listener::open(&bpffs, &Filter::default()).unwrap_err().to_string(),
            dump(&bpffs, map::PODS).unwrap_err().to_string(),
            explain(&place, &question).unwrap_err().to_string(),
            differences(&objects, "n", &bpffs, &names, &condition).unwrap_err().to_string(),
        ];
        all.into()
    })
}

/// Another build's pins are not taken for this one's, whatever they are.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn pins_of_another_build_are_named_and_not_read() {
    let world = World::new();
    let _here = world.open_without(&[]);
    let parent = world.here.bpffs().join("bowline");
    let own = parent.join(format!("v{ABI_VERSION}"));
    let shown = parent.display().to_string();
    for (moved, says) in [
        (
            parent.join("v4"),
            format!(
                "{shown} has the data plane of another build (layouts 4; this build reads \
                 {ABI_VERSION}): use the bowline of that build, or start this build's agent"
            ),
        ),
        (
            parent.join("mine"),
            format!(
                "{shown} has nothing of bowline's, but mine: somebody else put that there; is an \
                 agent at work with another BPF file system?"
            ),
        ),
    ] {
        let move_pins = |from: &Path, to: &Path| {
            let (from, to) = (from.to_path_buf(), to.to_path_buf());
            world.here.namespace.run(move || fs::rename(from, to).unwrap());
        };
        move_pins(&own, &moved);
        assert_eq!(refusals(&world), BTreeSet::from([says]));
        move_pins(&moved, &own);
    }
    // A set that is being filled from another one is not read before it is whole.
    let (other, layouts) = (parent.join("v4"), own.join("layouts"));
    world.here.namespace.run(move || {
        fs::create_dir(other).unwrap();
        fs::remove_file(layouts).unwrap();
    });
    let says = format!(
        "{} is not filled yet from the data plane of another build (layouts 4): look again when \
         this build's agent has started",
        own.display()
    );
    assert_eq!(refusals(&world), BTreeSet::from([says]));
}

/// What is pinned under the name of a map of ours is looked at before it is read.
#[test]
#[ignore = "needs root; run by `cargo xtask test` as root"]
fn what_is_pinned_under_a_name_of_ours_is_named_and_not_read() {
    let world = World::new();
    let here = world.open_without(&[]);
    let own = world.here.bpffs().join(format!("bowline/v{ABI_VERSION}"));
    let maps = own.join("maps");
    let dumped = |name: &'static str| {
        let bpffs = world.here.bpffs();
        world.here.namespace.run(move || dump(&bpffs, name).unwrap_err().to_string())
    };
    // Which map is away, what stands there instead, and what is said of that.
    for (name, other, found) in [
        (map::PODS, maps.join(map::SLOTS), "a map with keys of 4 and values of 8 bytes"),
        (map::COUNTERS, maps.join(map::CONNECT_TIMES), "a map with 25 entries"),
        (map::PODS, own.join("links/connect6"), "a program's link"),
    ] {
        let (pin, away) = (maps.join(name), own.join("away"));
        let there = (pin.clone(), away.clone(), other.clone());
        world.here.namespace.run(move || {
            let (pin, away, other) = there;
            fs::rename(&pin, away).unwrap();
            fs::rename(other, pin).unwrap();
        });
        let says = format!(
            "{} is {found}, and not the map of that name: somebody put it there; remove it and \
             restart the agent",
            pin.display()
        );
        assert_eq!(dumped(name), says);
        world.here.namespace.run(move || {
            fs::rename(&pin, other).unwrap();
            fs::rename(away, pin).unwrap();
        });
    }
    let (pin, away) = (maps.join(map::PODS), own.join("away"));
    let there = (pin.clone(), away.clone());
    world.here.namespace.run(move || fs::rename(there.0, there.1).unwrap());
    let says = format!("{} is gone: restart the agent, which makes it anew", pin.display());
    assert_eq!(dumped(map::PODS), says);
    let there = pin.clone();
    world.here.namespace.run(move || fs::create_dir(there).unwrap());
    let says = format!("{} is a directory, and not the map of that name:", pin.display());
    assert!(dumped(map::PODS).starts_with(&says), "{}", dumped(map::PODS));
    world.here.namespace.run(move || {
        fs::remove_dir(&pin).unwrap();
        fs::rename(away, pin).unwrap();
    });

    // What is beside the maps and is none, and a map in a link's place; the agent mends the link.
    let (beside, link) = (maps.join("mine"), own.join("links/connect4"));
    let there = (beside.clone(), link, own.join("links/connect6"), maps.join(map::TOLD));
    world.here.namespace.run(move || {
        let (beside, link, other_link, told) = there;
        fs::rename(other_link, beside).unwrap();
        fs::remove_file(&link).unwrap();
        fs::rename(told, link).unwrap();
    });
    let cgroup = world.here.cgroup.path.display();
    assert_eq!(
        world.here.status().problems,
        [
            format!("{} is a program's link, nothing of bowline's", beside.display()),
            format!(
                "program connect4 does not run at cgroup {cgroup}: something else is pinned in its \
                 place"
            ),
            format!("program connect6 does not run at cgroup {cgroup}: its pin is gone"),
        ]
    );
    let (_here, repairs) = world.here.verify(here);
    assert!(repairs.iter().any(|repair| repair.contains("connect4")), "{repairs:?}");
    let told: Vec<String> = world.here.status().problems;
    assert_eq!(told.len(), 1, "{told:?}");
}
