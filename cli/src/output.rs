//! What the commands print: tables, JSON and YAML on standard output.
//!
//! Guarantees: nothing here ends the program: a verb that writes to the API says what it did and
//! goes on, whoever reads that. A reader that goes away (`bowline get pods | head -1`) is no
//! failure, everything else that keeps output from being written is, and a table never has trailing
//! blanks. Does not guarantee a stable table layout: scripts use `-o json` or `-o yaml`.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

/// Output of commands that print facts of their own: a table for people, the rest for scripts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    /// The table with more columns, where there is more to say
    Wide,
    Json,
    Yaml,
}

impl Format {
    /// For people, wide or not.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Standard output took no more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct WriteOutputFailed(#[from] io::Error);

/// Writes text to standard output.
pub(crate) fn text(text: &str) -> Result<(), WriteOutputFailed> {
    bytes(text.as_bytes())
}

/// Writes one line to standard output.
pub(crate) fn line(line: &str) -> Result<(), WriteOutputFailed> {
    bytes(format!("{line}\n").as_bytes())
}

/// Writes bytes as they are, for logs.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), WriteOutputFailed> {
    let mut stdout = io::stdout().lock();
    Ok(stdout.write_all(bytes).and_then(|()| stdout.flush())?)
}

/// A reader that closed the pipe has seen what it wanted.
pub(crate) fn unless_unread(ended: anyhow::Result<()>) -> anyhow::Result<()> {
    match ended {
        Err(error) if is_unread(&error) => Ok(()),
        other => other,
    }
}

fn is_unread(error: &anyhow::Error) -> bool {
    let failed = error.downcast_ref::<WriteOutputFailed>();
    failed.is_some_and(|WriteOutputFailed(cause)| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints a value as JSON or YAML.
pub(crate) fn document<T: Serialize>(value: &T, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Yaml => text(&yaml(value)?)?,
        Format::Table | Format::Wide | Format::Json => {
            line(&serde_json::to_string_pretty(value).context("cannot write JSON")?)?;
        }
    }
    Ok(())
}

/// A value as YAML text.
pub(crate) fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    serde_yaml_ng::to_string(value).context("cannot write YAML")
}

/// The end of an error about a name that there is not: the ones that it may have been meant for.
pub(crate) fn nearest(wanted: &str, known: &[&str]) -> String {
    const SHOWN: usize = 3;
    const ALIKE: f64 = 0.5;
    let mut alike: Vec<(f64, &str)> = known
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), *name))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .collect();
    alike.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let names: Vec<&str> = alike.into_iter().take(SHOWN).map(|(_, name)| name).collect();
    match names[..] {
        [] => String::new(),
        _ => format!(": did you mean {}?", names.join(" or ")),
    }
}

/// Rows of text under a header, each column as wide as its widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Blanks between two columns.
const GAP: usize = 3;

impl Table {
    pub(crate) fn new<S: AsRef<str>>(header: impl IntoIterator<Item = S>) -> Self {
        let header = header.into_iter().map(|cell| cell.as_ref().to_uppercase()).collect();
        Self { header, rows: Vec::new() }
    }

    /// A table that has more columns when it is wide. Its rows give the cells of all.
    pub(crate) fn with_more(
        format: Format,
        header: impl IntoIterator<Item = &'static str>,
        more: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let more = more.into_iter().filter(|_| format == Format::Wide);
        Self::new(header.into_iter().chain(more))
    }

    /// Adds a row; cells that have no column are left out.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().take(self.header.len()).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without the header when `with_header` is false.
    pub(crate) fn render(&self, with_header: bool) -> String {
        self.render_on(with_header, &mut Vec::new())
    }

    /// Like `render`, with columns at least as wide as those of tables printed before.
    pub(crate) fn render_on(&self, with_header: bool, widths: &mut Vec<usize>) -> String {
        let lines: Vec<&Vec<String>> =
            with_header.then_some(&self.header).into_iter().chain(&self.rows).collect();
        let columns = lines.iter().map(|line| line.len()).max().unwrap_or(0);
        widths.resize(columns.max(widths.len()), 0);
        for (column, width) in widths.iter_mut().enumerate() {
            let cells = lines.iter().filter_map(|line| line.get(column));
            *width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(*width);
        }
        let mut text = String::new();
        for cells in lines {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&*widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    pub(crate) fn print(&self) -> Result<(), WriteOutputFailed> {
        text(&self.render(true))
    }
}

/// Bytes as people read them: `812 KiB`, `63.4 MiB`.
pub(crate) fn memory(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1024 * 1024;
    if bytes >= MEBIBYTE {
        let tenths = bytes * 10 / MEBIBYTE;
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    } else {
        format!("{} KiB", bytes / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_went_away_is_no_failure() {
        let failed = |kind| Err(WriteOutputFailed(io::Error::from(kind)).into());
        assert!(unless_unread(failed(io::ErrorKind::BrokenPipe)).is_ok());
        assert!(unless_unread(failed(io::ErrorKind::StorageFull)).is_err());
        // A pipe of somebody else's.
        assert!(unless_unread(Err(io::Error::from(io::ErrorKind::BrokenPipe).into())).is_err());
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["name", "ready", "age"]);
        table.row(["web-1".into(), "1/1".into(), "3s".into()]);
        table.row(["a-much-longer-name".into(), "0/1".into(), String::new()]);
        let expected = "\
NAME                 READY   AGE
web-1                1/1     3s
a-much-longer-name   0/1
";
        assert_eq!(table.render(true), expected);
        assert_eq!(
            table.render(false),
            "web-1                1/1   3s\na-much-longer-name   0/1\n"
        );
    }

    #[test]
    fn a_wide_table_has_more_columns() {
        for (format, expected) in
            [(Format::Table, "NAME\nweb\n"), (Format::Wide, "NAME   UID\nweb    7\n")]
        {
            let mut table = Table::with_more(format, ["name"], ["uid"]);
            table.row(["web".into(), "7".into()]);
            assert_eq!(table.render(true), expected);
        }
    }

    #[test]
    fn tables_that_follow_keep_the_widths() {
        let mut widths = Vec::new();
        let mut first = Table::new(["name", "ready"]);
        first.row(["a-long-name".into(), "0/1".into()]);
        assert_eq!(first.render_on(false, &mut widths), "a-long-name   0/1\n");
        let mut next = Table::new(["name", "ready"]);
        next.row(["b".into(), "1/1".into()]);
        assert_eq!(next.render_on(false, &mut widths), "b             1/1\n");
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        let mut table = Table::new(["a", "b"]);
        table.row(["é".into(), "x".into()]);
        table.row(["ee".into(), "y".into()]);
        assert_eq!(table.render(false), "é    x\nee   y\n");
    }

    #[test]
    fn memory_is_readable() {
        assert_eq!(memory(812 * 1024), "812 KiB");
        assert_eq!(memory(63 * 1024 * 1024 + 512 * 1024), "63.5 MiB");
    }
}
