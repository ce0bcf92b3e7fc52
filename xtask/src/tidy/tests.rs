use super::{check_text, lock};

/// A path, its content, and the rules it breaks with their lines.
type Row = (&'static str, String, Vec<(&'static str, usize)>);

/// The rules that `text` breaks as the file `path`, each with its line.
fn broken(path: &str, text: &str) -> Vec<(&'static str, usize)> {
    let extension = path.rsplit('.').next().unwrap_or_default();
    let mut found: Vec<_> =
        check_text(path, extension, text).iter().map(|v| (v.rule, v.line)).collect();
    found.sort_unstable();
    found
}

/// A documented file with `body` from its second line on.
fn documented(body: &str) -> String {
    format!("//! Purpose.\n{body}")
}

fn function_of(lines: usize) -> String {
    format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines))
}

#[test]
fn each_rule_fires_where_it_should() {
    let wide = format!("const X: &str = \"{}\";\n", "x".repeat(100));
    let rows: Vec<Row> = vec![
        ("agent/src/utils.rs", documented(""), vec![("name", 1)]),
        ("agent/src/common/mod.rs", documented(""), vec![("name", 1)]),
        ("agent/src/types.rs", documented(""), vec![("name", 1)]),
        ("agent/src/a.rs", "fn f() {}\n".to_owned(), vec![("module-doc", 1)]),
        ("agent/src/a.rs", documented(&wide), vec![("columns", 2)]),
        ("agent/src/a.rs", documented("// TODO: later\n"), vec![("leftover", 2)]),
        ("agent/src/a.rs", documented("// let x = 1;\n"), vec![("commented-out", 2)]),
        ("agent/src/a.rs", documented("// call(x)?;\n"), vec![("commented-out", 2)]),
        ("agent/src/a.rs", documented("fn f() { unsafe { g() } }\n"), vec![("unsafe", 2)]),
        ("cli/src/a.rs", documented("#[allow(dead_code)]\nfn f() {}\n"), vec![("allow", 2)]),
        ("agent/src/a.rs", documented(&function_of(71)), vec![("function-length", 2)]),
        ("agent/src/a.rs", documented(&"\n".repeat(600)), vec![("file-length", 600)]),
        (
            "agent/src/a.rs",
            documented(&format!("const P: &str = \"{}\";\n", ["/ro", "ot/x"].concat())),
            vec![("machine-path", 2)],
        ),
        (
            "examples/a.yaml",
            format!("image: {}/x\n", ["deb.deb", "ian.org"].concat()),
            vec![("registry-host", 1)],
        ),
    ];
    for (path, text, expected) in rows {
        assert_eq!(broken(path, &text), expected, "{path}: {text}");
    }
}

#[test]
fn what_is_fine_stays_silent() {
    let rows: Vec<(&str, String)> = vec![
        ("agent/src/a.rs", documented(&function_of(70))),
        ("agent/src/a.rs", documented(&"\n".repeat(599))),
        ("agent/src/plan/tests.rs", function_of(200)),
        ("agent/src/datapath/a.rs", documented("fn f() { unsafe { g() } }\n")),
        ("agent/src/a.rs", documented("const X: &str = \"unsafe // TODO #[allow(\";\n")),
        ("agent/src/a.rs", documented("const X: &str = r#\"a \" unsafe\"#;\n")),
        ("agent/src/a.rs", documented("/// Use `let x = 1;` here.\nfn f<'a>(c: &'a str) {}\n")),
        ("agent/src/a.rs", documented("// Kept because the kernel says so; see below.\n")),
        ("agent/src/a.rs", documented("#[expect(dead_code, reason = \"r\")]\nfn f() {}\n")),
        ("agent/src/a.rs", "#![expect(x, reason = \"y\")]\n//! Purpose.\n".to_owned()),
        ("agent/src/a.rs", documented("const C: char = '\"'; // a quote\nfn f() {}\n")),
    ];
    for (path, text) in rows {
        assert_eq!(broken(path, &text), vec![], "{path}: {text}");
    }
}

#[test]
fn inline_tests_do_not_count_towards_sizes() {
    let body =
        format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", function_of(80).repeat(9));
    assert_eq!(broken("agent/src/a.rs", &documented(&body)), vec![]);
}

#[test]
fn comments_and_blank_lines_do_not_lengthen_a_function() {
    let body =
        format!("fn f() {{\n{}{}}}\n", "    step();\n".repeat(70), "    // why\n\n".repeat(9));
    assert_eq!(broken("agent/src/a.rs", &documented(&body)), vec![]);
}

#[test]
fn a_raw_string_after_an_identifier_that_ends_in_r_is_found() {
    // `for` ends in r and is followed by a string: the r is not a prefix of it.
    let text = documented("fn f() { for x in [br\"unsafe\"] { g(\"unsafe\") } }\n");
    assert_eq!(broken("agent/src/a.rs", &text), vec![]);
}

#[test]
fn manifests_inherit_from_the_workspace() {
    let lints = "[lints]\nworkspace = true\n";
    let rows: Vec<Row> = vec![
        ("agent/Cargo.toml", format!("{lints}[dependencies]\na.workspace = true\n"), vec![]),
        (
            "agent/Cargo.toml",
            format!("{lints}[dependencies]\na = {{ workspace = true, features = [\"x\"] }}\n"),
            vec![],
        ),
        ("agent/Cargo.toml", "[dependencies]\n".to_owned(), vec![("lints", 1)]),
        (
            "agent/Cargo.toml",
            format!("{lints}[dev-dependencies]\na = \"1\"\n"),
            vec![("dependency", 4)],
        ),
        (
            "agent/Cargo.toml",
            format!("{lints}[dependencies.a]\nworkspace = true\n"),
            vec![("dependency", 3)],
        ),
        ("ebpf/programs/Cargo.toml", "[dependencies]\na = \"1\"\n".to_owned(), vec![]),
    ];
    for (path, text, expected) in rows {
        assert_eq!(broken(path, &text), expected, "{path}: {text}");
    }
}

#[test]
fn manifests_outside_are_those_that_the_workspace_excludes() {
    let manifest = std::fs::read_to_string(crate::workspace::root().join("Cargo.toml")).unwrap();
    let excluded = manifest.lines().find_map(|line| line.strip_prefix("exclude = ")).unwrap();
    let outside = crate::workspace::OUTSIDE.map(|path| path.strip_suffix("/Cargo.toml").unwrap());
    assert_eq!(excluded, format!("{outside:?}"));
}

#[test]
fn banned_crates_are_not_locked() {
    let deny = "[bans]\nwildcards = \"deny\"\ndeny = [\n    # Why.\n    \
                { crate = \"a-sys\", reason = \"r\" },\n    { crate = \"b@<2\" },\n    \"c\",\n\
                ]\n\n[sources]\ndeny = [\n    { crate = \"d\" },\n]\n";
    let bans = lock::bans(deny);
    let lock = |names: &[&str]| -> String {
        let rest = "version = \"1.0.0\"\ndependencies = [\n \"a-sys\",\n]\n";
        let packages = names.iter().map(|name| format!("[[package]]\nname = \"{name}\"\n{rest}"));
        packages.collect()
    };
    let found = |names: &[&str]| -> Vec<usize> {
        lock::check("Cargo.lock", &lock(names), &bans).iter().map(|found| found.line).collect()
    };
    assert_eq!(found(&["a", "a-sys2", "d", "e"]), [0; 0]);
    assert_eq!(found(&["a-sys"]), [2]);
    assert_eq!(found(&["x", "b", "c"]), [8, 14]);
    // What cannot be read bans nothing: that is told.
    let unread = lock::check("Cargo.lock", "", &lock::bans("[bans]\ndeny = []\n"));
    assert_eq!(unread.len(), 1);
    let own = std::fs::read_to_string(crate::workspace::root().join("deny.toml")).unwrap();
    assert_eq!(lock::bans(&own).len(), own.matches("{ crate = ").count());
}
