//! The rule about `Cargo.lock` files: no crate that `deny.toml` bans, so that a ban holds also
//! where cargo-deny is not installed.
//!
//! Does not: look at versions. A ban of some versions counts as one of all.

use super::Violation;

/// A crate that must not be there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ban {
    name: String,
    reason: String,
}

/// The entries of `deny` in `[bans]`, one a line, as they are written here.
pub(super) fn bans(deny: &str) -> Vec<Ban> {
    let bans = deny.lines().map(str::trim).skip_while(|line| *line != "[bans]").skip(1);
    let section = bans.take_while(|line| !line.starts_with('['));
    let entries = section.skip_while(|line| *line != "deny = [").skip(1);
    let entries = entries.take_while(|line| *line != "]").filter(|line| !line.starts_with('#'));
    entries.filter_map(ban).collect()
}

fn ban(entry: &str) -> Option<Ban> {
    let value = |key: &str| {
        let (_, rest) = entry.split_once(&format!("{key} = \""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let name =
        value("crate").or_else(|| entry.strip_prefix('"')?.split('"').next().map(str::to_owned))?;
    let name = name.split(['@', ':']).next().unwrap_or_default().to_owned();
    Some(Ban { name, reason: value("reason").unwrap_or_default() })
}

/// Check one lock file.
pub(super) fn check(path: &str, lock: &str, bans: &[Ban]) -> Vec<Violation> {
    if bans.is_empty() {
        let message = "[bans].deny could not be read: one entry a line";
        return vec![Violation::new("deny.toml", 1, "banned", message)];
    }
    let mut violations = Vec::new();
    for (index, line) in lock.lines().enumerate() {
        let name = line.strip_prefix("name = \"").and_then(|rest| rest.strip_suffix('"'));
        if let Some(ban) = bans.iter().find(|ban| Some(ban.name.as_str()) == name) {
            let message = format!("{} is banned in deny.toml: {}", ban.name, ban.reason);
            violations.push(Violation::new(path, index + 1, "banned", message));
        }
    }
    violations
}
