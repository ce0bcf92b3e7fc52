//! Scripts of a shell with what each step prints: read, compared and written anew.
//!
//! A script is a text of entries. `> NAME` and indented lines are a file, in which whoever plays
//! it may replace words; `$ COMMAND` is a step, `~ COMMAND` one that is tried again until it prints
//! what it should; indented lines are what it prints, a last line `[status N]` its exit status
//! unless that is 0. After `@VERSION` stands what another release prints instead. All other lines
//! are for the reader.
//!
//! Guarantees: what was read is written back the same, line by line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// A line for the reader, a file, or a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    Note(String),
    File { name: String, lines: Vec<String> },
    Step(Step),
}

/// A command and what it prints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// For `sh -c`.
    pub command: String,
    /// Whether it is tried again for a while.
    pub patient: bool,
    /// What every release prints that has nothing of its own.
    pub said: Vec<String>,
    /// By release.
    pub otherwise: BTreeMap<String, Vec<String>>,
}

impl Step {
    /// What a release is expected to print.
    pub fn expected(&self, version: &str) -> &[String] {
        self.otherwise.get(version).unwrap_or(&self.said)
    }

    /// Takes what each release printed, the first one's for all that print the same.
    pub fn learn(&mut self, printed: &[(String, Vec<String>)]) {
        let Some((_, first)) = printed.first() else { return };
        self.said.clone_from(first);
        self.otherwise = printed.iter().filter(|(_, said)| said != first).cloned().collect();
    }
}

/// Reads a script.
pub fn read(text: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut version = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(inner) = line.strip_prefix("  ") {
            let place = match entries.last_mut() {
                Some(Entry::File { lines, .. }) => Some(lines),
                Some(Entry::Step(step)) => Some(match &version {
                    Some(version) => step.otherwise.entry(String::clone(version)).or_default(),
                    None => &mut step.said,
                }),
                _ => None,
            };
            let place = place.with_context(|| format!("line {}: belongs to none", number + 1))?;
            place.push(inner.to_owned());
        } else if let Some(release) = line.strip_prefix('@') {
            let Some(Entry::Step(step)) = entries.last_mut() else {
                bail!("line {}: no step before it", number + 1);
            };
            step.otherwise.insert(release.to_owned(), Vec::new());
            version = Some(release.to_owned());
        } else {
            version = None;
            entries.push(entry(line));
        }
    }
    Ok(entries)
}

fn entry(line: &str) -> Entry {
    let step = |command: &str, patient| {
        let command = command.to_owned();
        Entry::Step(Step { command, patient, said: Vec::new(), otherwise: BTreeMap::new() })
    };
    if let Some(name) = line.strip_prefix("> ") {
        Entry::File { name: name.to_owned(), lines: Vec::new() }
    } else if let Some(command) = line.strip_prefix("$ ") {
        step(command, false)
    } else if let Some(command) = line.strip_prefix("~ ") {
        step(command, true)
    } else {
        Entry::Note(line.to_owned())
    }
}

/// Writes a script.
pub fn written(entries: &[Entry]) -> String {
    let mut lines = Vec::new();
    let indented =
        |lines: &[String]| lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>();
    for entry in entries {
        match entry {
            Entry::Note(note) => lines.push(note.clone()),
            Entry::File { name, lines: content } => {
                lines.push(format!("> {name}"));
                lines.extend(indented(content));
            }
            Entry::Step(step) => {
                lines.push(format!("{} {}", if step.patient { '~' } else { '$' }, step.command));
                lines.extend(indented(&step.said));
                for (version, said) in &step.otherwise {
                    lines.push(format!("@{version}"));
                    lines.extend(indented(said));
                }
            }
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "# Maps\n\n> map.yaml\n  kind: ConfigMap\n    deeper: yes\n\
        $ kubectl apply -f map.yaml\n  created\n  [status 1]\n@1.36\n  made\n\n~ true\n";

    #[test]
    fn what_is_read_is_written_back() -> Result<()> {
        let mut entries = read(SCRIPT)?;
        assert_eq!(written(&entries), SCRIPT);
        let Some(Entry::Step(step)) = entries.get_mut(3) else { bail!("{entries:?}") };
        assert_eq!(step.expected("1.32"), ["created", "[status 1]"]);
        assert_eq!(step.expected("1.36"), ["made"]);
        let both = |said: &str| vec![said.to_owned()];
        step.learn(&[("1.32".into(), both("same")), ("1.36".into(), both("same"))]);
        assert_eq!((step.expected("1.36"), step.otherwise.len()), (&both("same")[..], 0));
        assert!(read("  lost\n").is_err() && read("@1.36\n").is_err());
        Ok(())
    }
}
