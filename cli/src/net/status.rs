//! `bowline net status`: features, maps and programs of a node, for people.

use bowline_agent::datapath::{
    FeatureRow, LoopStatus, MapShape, MapStatus, ProgramStatus, RecentDrops, Status,
};

use super::reasons::meaning;
use crate::output::{self, Format, Table};

/// Stands for what is not known.
const UNKNOWN: &str = "-";

/// Prints all of it; as tables one after the other.
pub(super) fn print(status: &Status, format: Format) -> anyhow::Result<()> {
    if !format.is_table() {
        return output::document(status, format);
    }
    features(&status.features).print()?;
    output::line("")?;
    maps(&status.maps, status.map_bytes, format).print()?;
    output::line("")?;
    programs(&status.programs, format).print()?;
    if let Some(hint) = uncounted(&status.programs) {
        output::line(hint)?;
    }
    output::line("")?;
    loops(&status.loops, format).print()?;
    for text in status.recent_drops.iter().map(|recent| dropped(recent, format)) {
        output::text(&format!("\n{text}"))?;
    }
    for line in without_room(&status.maps) {
        output::line(&format!("\n{line}"))?;
    }
    for remark in &status.remarks {
        output::line(&format!("\n{remark}"))?;
    }
    let health = match status.problems.len() {
        0 => "\nhealthy".to_owned(),
        _ => format!("\nnot healthy:\n  {}", status.problems.join("\n  ")),
    };
    Ok(output::line(&health)?)
}

/// Prints the features alone.
pub(super) fn print_features(rows: &[FeatureRow], format: Format) -> anyhow::Result<()> {
    match format.is_table() {
        true => Ok(features(rows).print()?),
        false => output::document(&rows, format),
    }
}

/// Prints the programs alone.
pub(super) fn print_programs(rows: &[ProgramStatus], format: Format) -> anyhow::Result<()> {
    if !format.is_table() {
        return output::document(&rows, format);
    }
    programs(rows, format).print()?;
    if let Some(hint) = uncounted(rows) {
        output::line(&format!("\n{hint}"))?;
    }
    Ok(())
}

fn features(rows: &[FeatureRow]) -> Table {
    let mut table = Table::new(["feature", "needed from", "present", "used", "otherwise"]);
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for row in rows {
        let otherwise = row.otherwise.clone().unwrap_or_else(|| "(required)".to_owned());
        let since = format!("Linux {}", row.needed_from);
        table.row([row.name.clone(), since, yes(row.present), yes(row.used), otherwise]);
    }
    table
}

fn maps(rows: &[MapStatus], total: u64, format: Format) -> Table {
    let columns = ["map", "used", "size", "memory", "full", "raised by"];
    let mut table = Table::with_more(format, columns, SHAPE);
    for row in rows {
        let cells = [
            row.name.clone(),
            row.used.map_or_else(|| UNKNOWN.to_owned(), |used| used.to_string()),
            row.size.to_string(),
            bytes(row.bytes),
            fill(row.used, row.size, row.pressure, row.full.is_some()),
            row.flag.unwrap_or(UNKNOWN).to_owned(),
        ];
        table.row(cells.into_iter().chain(shape(&row.shape)));
    }
    let empty = String::new;
    table.row(["(all)".to_owned(), empty(), empty(), bytes(total), empty(), empty()]);
    table
}

/// More columns of maps.
pub(super) const SHAPE: [&str; 5] = ["id", "type", "key", "value", "flags"];

/// Their cells.
pub(super) fn shape(shape: &MapShape) -> [String; 5] {
    let MapShape { id, r#type, key_bytes, value_bytes, kernel_flags } = shape;
    [
        id.to_string(),
        r#type.clone(),
        format!("{key_bytes} B"),
        format!("{value_bytes} B"),
        list(kernel_flags),
    ]
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    if items.is_empty() { UNKNOWN.to_owned() } else { items.join(",") }
}

fn programs(rows: &[ProgramStatus], format: Format) -> Table {
    let columns =
        ["program", "id", "hook", "instructions", "verified", "runs", "ns per run", "attached to"];
    let more = ["tag", "machine code", "loaded", "maps"];
    let mut table = Table::with_more(format, columns, more);
    let count = |count: Option<u64>| count.map_or_else(|| UNKNOWN.to_owned(), |n| n.to_string());
    for row in rows {
        table.row([
            row.name.clone(),
            row.id.to_string(),
            row.hook.clone(),
            count(row.instructions.map(Into::into)),
            count(row.verified.map(Into::into)),
            count(row.runs),
            count(row.nanoseconds_per_run),
            if row.attached.is_empty() { UNKNOWN.to_owned() } else { row.attached.join(", ") },
            row.tag.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
            row.machine_bytes.map_or_else(|| UNKNOWN.to_owned(), |count| bytes(count.into())),
            row.loaded_seconds_ago.map_or_else(|| UNKNOWN.to_owned(), |n| format!("{n} s ago")),
            list(&row.maps),
        ]);
    }
    table
}

/// How to have runs counted, where none of any program is known.
fn uncounted(rows: &[ProgramStatus]) -> Option<&'static str> {
    let unknown = !rows.is_empty() && rows.iter().all(|row| row.runs.is_none());
    unknown.then_some(
        "no run was counted: with `sysctl kernel.bpf_stats_enabled=1` they are, at some ns a run",
    )
}

/// How full a map is; what is wrong stands out.
pub(super) fn fill(used: Option<u32>, size: u32, pressure: bool, full: bool) -> String {
    let percent = used.map(|used| u64::from(used) * 100 / u64::from(size.max(1)));
    match (percent, full) {
        (_, true) => "FULL".to_owned(),
        (Some(percent), _) if pressure => format!("HIGH, {percent} %"),
        (Some(percent), _) => format!("{percent} %"),
        (None, _) => UNKNOWN.to_owned(),
    }
}

fn loops(rows: &[LoopStatus], format: Format) -> Table {
    let columns = ["loop", "last round", "took", "result"];
    let mut table = Table::with_more(format, columns, ["ended"]);
    for row in rows {
        let result = match &row.failure {
            Some(failure) => format!("failed ({} in a row): {failure}", row.failures),
            None => "done".to_owned(),
        };
        let took = format!("{:.1} ms", row.microseconds as f64 / 1000.0);
        let (ago, ended) = (format!("{} s ago", row.seconds_ago), format!("{:.3}", row.ended));
        table.row([row.name.clone(), ago, took, result, ended]);
    }
    table
}

fn dropped(recent: &RecentDrops, format: Format) -> String {
    let seconds = recent.seconds;
    if recent.rows.is_empty() {
        return format!("nothing was dropped in the last {seconds} s\n");
    }
    let columns = ["dropped", "direction", "packets", "bytes"];
    let mut table = Table::with_more(format, columns, ["meaning"]);
    for row in &recent.rows {
        let (packets, bytes) = (row.packets.to_string(), row.bytes.to_string());
        let (reason, direction) = (row.reason.to_owned(), row.direction.to_owned());
        let meaning = meaning(row.reason).to_owned();
        table.row([reason, direction, packets, bytes, meaning]);
    }
    format!("in the last {seconds} s:\n{}", table.render(true))
}

/// What found no room.
fn without_room(rows: &[MapStatus]) -> Vec<String> {
    const NAMED: usize = 5;
    let line = |map: &MapStatus| {
        let full = map.full.as_ref()?;
        let named: Vec<&str> = full.refused.iter().take(NAMED).map(String::as_str).collect();
        let more = match full.refused.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!("without room in {}: {}{more}", map.name, named.join(", ")))
    };
    rows.iter().filter_map(line).collect()
}

/// A size as people read it.
fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 2] = [(1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use bowline_agent::datapath::FullMap;

    use super::*;

    fn slots() -> MapStatus {
        let message = "map SLOTS is full (4 entries)".to_owned();
        let refused = (0..7).map(|number| format!("default/web{number}")).collect();
        MapStatus {
            name: "SLOTS".to_owned(),
            used: Some(4),
            size: 4,
            pressure: true,
            bytes: 3 << 19,
            flag: Some("--map-size SLOTS="),
            full: Some(FullMap { message, refused }),
            shape: MapShape { id: 7, r#type: "array".to_owned(), ..MapShape::default() },
        }
    }

    #[test]
    fn a_full_map_is_shown_with_what_it_refused() {
        let text = maps(&[slots()], 3 << 19, Format::Table).render(false);
        let first = text.lines().next().unwrap_or_default();
        let words: Vec<&str> = first.split_whitespace().collect();
        assert_eq!(words, ["SLOTS", "4", "4", "1.5", "MiB", "FULL", "--map-size", "SLOTS="]);
        let wide = maps(&[slots()], 3 << 19, Format::Wide).render(false);
        assert!(wide.contains("SLOTS=   7   array   0 B   0 B   -\n"), "{wide}");
        let lines = without_room(&[slots()]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with("default/web4 and 2 more"), "{lines:?}");
    }

    #[test]
    fn what_is_nearly_full_stands_out() {
        assert_eq!(fill(Some(4), 4, true, true), "FULL");
        assert_eq!(fill(Some(85), 100, true, false), "HIGH, 85 %");
        assert_eq!(fill(Some(85), 100, false, false), "85 %");
        assert_eq!(fill(None, 100, false, false), "-");
    }

    #[test]
    fn the_last_minute_is_told() {
        let round = |failure: Option<&str>, failures| LoopStatus {
            name: "network".to_owned(),
            ended: jiff::Timestamp::UNIX_EPOCH,
            seconds_ago: 2,
            microseconds: 1250,
            failure: failure.map(str::to_owned),
            failures,
        };
        let rows = [round(None, 0), round(Some("no link"), 3)];
        let text = loops(&rows, Format::Table).render(false);
        assert!(text.starts_with("network   2 s ago   1.2 ms   done\n"), "{text}");
        assert!(text.ends_with("failed (3 in a row): no link\n"), "{text}");
        let row = bowline_agent::datapath::CounterRow {
            reason: "no-backend",
            direction: "socket",
            dropped: true,
            packets: 7,
            bytes: 0,
        };
        let recent = RecentDrops { seconds: 60, rows: vec![row] };
        let text = dropped(&recent, Format::Table);
        assert!(text.starts_with("in the last 60 s:\nDROPPED"), "{text}");
        assert!(text.ends_with("no-backend   socket      7         0\n"), "{text}");
        let wide = dropped(&recent, Format::Wide);
        assert!(wide.ends_with("7         0       the service has no ready backend\n"), "{wide}");
        let nothing = dropped(&RecentDrops { seconds: 9, rows: Vec::new() }, Format::Table);
        assert_eq!(nothing, "nothing was dropped in the last 9 s\n");
    }

    #[test]
    fn who_sees_no_runs_is_told_how_to_have_them_counted() {
        let program = |runs: Option<u64>| ProgramStatus {
            name: "from_pod".to_owned(),
            id: 7,
            hook: "tcx".to_owned(),
            attached: Vec::new(),
            instructions: None,
            verified: None,
            runs,
            nanoseconds_per_run: runs.map(|_| 90),
            tag: None,
            machine_bytes: None,
            loaded_seconds_ago: None,
            maps: Vec::new(),
        };
        let text = programs(&[program(None)], Format::Table).render(false);
        assert_eq!(text, "from_pod   7   tcx   -   -   -   -   -\n");
        let hint = uncounted(&[program(None)]).unwrap_or_default();
        assert!(hint.contains("kernel.bpf_stats_enabled=1"), "{hint}");
        for counted in [&[][..], &[program(Some(3)), program(None)]] {
            assert_eq!(uncounted(counted), None);
        }
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([bytes(12), bytes(2048), bytes(5 << 20)], ["12 B", "2.0 KiB", "5.0 MiB"]);
    }
}
