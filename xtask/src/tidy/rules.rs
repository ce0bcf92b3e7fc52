//! The rules about source files.

use super::Violation;
use super::source::Source;

const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 600;
const COLUMNS: usize = 100;
const FORBIDDEN_NAMES: [&str; 8] =
    ["utils", "util", "common", "helpers", "helper", "types", "misc", "stuff"];
const UNSAFE_PLACES: [&str; 3] = ["ebpf/", "agent/src/datapath", "agent/src/network"];

/// Everything that is checked in a Rust file.
pub(super) fn check_rust(path: &str, text: &str) -> Vec<Violation> {
    let source = Source::new(text);
    let tests_from = inline_tests_line(&source.code);
    let mut violations = Vec::new();
    violations.extend(file_name(path));
    violations.extend(module_doc(path, text));
    violations.extend(columns(path, text));
    violations.extend(leftovers(path, &source));
    violations.extend(unsafe_code(path, &source.code));
    violations.extend(allow_attributes(path, &source.code));
    if !is_test_file(path) {
        violations.extend(file_length(path, text, tests_from));
        violations.extend(function_lengths(path, &source, tests_from));
    }
    violations.extend(check_places(path, &source.program));
    violations
}

/// Files that hold only tests: sizes do not apply to their tables.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/scenarios/")
}

/// The line (from 1) of `#[cfg(test)]` before an inline module, or one past the end.
fn inline_tests_line(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let starts = |index: &usize| {
        lines[*index].trim() == "#[cfg(test)]"
            && lines.get(index + 1).is_some_and(|next| {
                next.trim_start().starts_with("mod ") && next.trim_end().ends_with('{')
            })
    };
    (0..lines.len()).find(starts).map_or(lines.len() + 1, |index| index + 1)
}

fn file_name(path: &str) -> Option<Violation> {
    let name = path.rsplit('/').next()?.trim_end_matches(".rs");
    let parent = path.rsplit('/').nth(1).unwrap_or_default();
    let bad = FORBIDDEN_NAMES.iter().find(|&&n| n == name || (name == "mod" && n == parent))?;
    Some(Violation::new(path, 1, "name", format!("`{bad}` says nothing: name what it holds")))
}

fn module_doc(path: &str, text: &str) -> Option<Violation> {
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#!") && !line.starts_with("// SPDX"));
    let documented = first.is_none_or(|line| line.starts_with("//!"));
    (!documented && !path.ends_with("/tests.rs"))
        .then(|| Violation::new(path, 1, "module-doc", "open with `//!` and the module's purpose"))
}

fn columns(path: &str, text: &str) -> Vec<Violation> {
    let too_wide = |line: &str| line.chars().count() > COLUMNS;
    lines_where(text, too_wide)
        .map(|line| Violation::new(path, line, "columns", format!("more than {COLUMNS} columns")))
        .collect()
}

fn lines_where<'a>(
    text: &'a str,
    wanted: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = usize> + 'a {
    text.lines().enumerate().filter(move |(_, line)| wanted(line)).map(|(index, _)| index + 1)
}

fn leftovers(path: &str, source: &Source) -> Vec<Violation> {
    let is_mark = |word: &str| matches!(word, "FIXME" | "TODO" | "XXX" | "HACK");
    let marked = |line: &str| line.split(|c: char| !c.is_alphanumeric()).any(is_mark);
    let mut violations: Vec<_> = lines_where(&source.comments, marked)
        .map(|line| Violation::new(path, line, "leftover", "do it, or open an issue"))
        .collect();
    violations.extend(
        lines_where(&source.comments, is_commented_out)
            .map(|line| Violation::new(path, line, "commented-out", "git remembers: delete it")),
    );
    violations
}

/// A plain comment that ends like a statement and contains what prose does not.
fn is_commented_out(line: &str) -> bool {
    let Some(comment) = line.trim().strip_prefix("//") else { return false };
    if comment.starts_with(['/', '!']) {
        return false;
    }
    let comment = comment.trim();
    let statement = comment.ends_with(';')
        && ["let ", "use ", "return ", "pub "].iter().any(|word| comment.starts_with(word));
    let call = comment.ends_with(");") || comment.ends_with(")?;");
    statement || call || matches!(comment, "}" | "};" | "})" | "});")
}

fn unsafe_code(path: &str, code: &str) -> Vec<Violation> {
    if UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) {
        return Vec::new();
    }
    let uses = |line: &str| words(line).any(|word| word == "unsafe");
    lines_where(code, uses)
        .map(|line| {
            let places = UNSAFE_PLACES.join(", ");
            Violation::new(path, line, "unsafe", format!("unsafe lives in {places} alone"))
        })
        .collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn allow_attributes(path: &str, code: &str) -> Vec<Violation> {
    let allows = |line: &str| line.contains("#[allow(") || line.contains("#![allow(");
    lines_where(code, allows)
        .map(|line| Violation::new(path, line, "allow", "use `#[expect(lint, reason = \"...\")]`"))
        .collect()
}

fn file_length(path: &str, text: &str, tests_from: usize) -> Option<Violation> {
    let lines = text.lines().count().min(tests_from - 1);
    (lines > FILE_LINES).then(|| {
        let message = format!("{lines} lines, {FILE_LINES} allowed: split by what it does");
        Violation::new(path, FILE_LINES, "file-length", message)
    })
}

fn function_lengths(path: &str, source: &Source, tests_from: usize) -> Vec<Violation> {
    let program: Vec<&str> = source.program.lines().collect();
    functions(&source.code)
        .filter(|function| function.first_line < tests_from)
        .filter_map(|function| {
            let body = program.get(function.first_line..function.last_line - 1).unwrap_or(&[]);
            let lines = body.iter().filter(|line| !line.trim().is_empty()).count();
            (lines > FUNCTION_LINES).then(|| {
                let message =
                    format!("`{}` has {lines} lines, {FUNCTION_LINES} allowed", function.name);
                Violation::new(path, function.first_line, "function-length", message)
            })
        })
        .collect()
}

/// A function's name and the lines (from 1) of its opening and closing brace.
struct Function<'a> {
    name: &'a str,
    first_line: usize,
    last_line: usize,
}

fn functions(code: &str) -> impl Iterator<Item = Function<'_>> {
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    code.match_indices("fn ").filter_map(move |(at, _)| {
        let starts_word = code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        let name = words(&code[at + 3..]).next().filter(|name| !name.is_empty())?;
        if !starts_word {
            return None;
        }
        let open = body_start(code, at)?;
        let close = matching_brace(code, open)?;
        Some(Function { name, first_line: line_of(open), last_line: line_of(close) })
    })
}

/// The opening brace of the body, or nothing for a declaration without one.
fn body_start(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(from + offset),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return Some(open + offset);
        }
    }
    None
}

/// No place of one machine and no package registry's host, in any file.
pub(super) fn check_places(path: &str, text: &str) -> Vec<Violation> {
    // Written in pieces, so that this file passes its own rule.
    let homes = [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"]].map(|parts| parts.concat());
    let hosts = [
        ["deb.deb", "ian.org"],
        ["security.deb", "ian.org"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["static.rust-", "lang.org"],
    ]
    .map(|parts| parts.concat());
    let at_start = |line: &str, home: &str| {
        line.match_indices(home).any(|(at, _)| {
            line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '.')
        })
    };
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if homes.iter().any(|home| at_start(line, home)) {
            let message = "a path of one machine: make it relative, or find it at run time";
            violations.push(Violation::new(path, index + 1, "machine-path", message));
        }
        if hosts.iter().any(|host| line.contains(host.as_str())) {
            let message = "a registry's host: take it from the machine's own configuration";
            violations.push(Violation::new(path, index + 1, "registry-host", message));
        }
    }
    violations
}
