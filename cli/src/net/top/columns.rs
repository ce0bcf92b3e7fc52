//! Which columns there is room for, and what is in them.

use super::By;
use super::view::Line;

/// Stands for what is not known.
const UNKNOWN: &str = "-";

/// A name that is longer is cut in the middle of a screen, never in a pipe.
const NAME_WIDTH: usize = 24;
const NUMBER_WIDTH: usize = 8;
const NODE_WIDTH: usize = 10;
const ADDRESS_WIDTH: usize = 24;

/// Blanks between two columns.
pub(super) const GAP: usize = 2;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    Node,
    Rate(By),
    Amount(By),
    Address,
}

impl Column {
    /// What it takes at least, the gap before it included.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Name => NAME_WIDTH,
            Self::Node => NODE_WIDTH + GAP,
            Self::Rate(_) | Self::Amount(_) => NUMBER_WIDTH + GAP,
            Self::Address => ADDRESS_WIDTH + GAP,
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Rate(_) | Self::Amount(_))
    }

    fn name(self, kind: &str) -> &str {
        match self {
            Self::Name => kind,
            Self::Node => "node",
            Self::Rate(By::Connections) => "conn/s",
            Self::Rate(By::Packets) => "packet/s",
            Self::Rate(By::Bytes) => "bytes/s",
            Self::Rate(By::Drops) => "drop/s",
            Self::Amount(By::Connections) => "conns",
            Self::Amount(by) => by.name(),
            Self::Address => "address",
        }
    }

    pub(super) fn cell(self, line: &Line) -> String {
        let unknown = || UNKNOWN.to_owned();
        match self {
            Self::Name => line.name.clone(),
            Self::Node => line.node.clone().unwrap_or_else(unknown),
            Self::Rate(by) => {
                let rate = line.per_second.map(|rates| by.rate(&rates));
                rate.map_or_else(unknown, short)
            }
            Self::Amount(by) => {
                let amount = line.so_far.map(|so_far| by.amount(&so_far));
                amount.map_or_else(unknown, |amount| short(amount as f64))
            }
            Self::Address if line.address.is_empty() => unknown(),
            Self::Address => line.address.clone(),
        }
    }
}

/// The columns that there is room for; the order is the least that is shown. Names come first, and
/// what is wide comes last.
pub(super) fn columns(width: usize, with_node: bool, order: By) -> Vec<Column> {
    let others = By::ALL.into_iter().filter(|by| *by != order);
    let mut wanted = vec![Column::Name, Column::Rate(order)];
    wanted.extend(others.map(Column::Rate));
    wanted.extend(with_node.then_some(Column::Node));
    wanted.extend(By::ALL.map(Column::Amount));
    wanted.push(Column::Address);
    fitting(width, wanted)
}

/// The same for reasons of drops, which have no connections, no packets beside those that were
/// dropped, and no address.
pub(super) fn reason_columns(width: usize) -> Vec<Column> {
    let counted = [By::Drops, By::Bytes];
    let rates = counted.into_iter().map(Column::Rate);
    let amounts = counted.into_iter().map(Column::Amount);
    fitting(width, std::iter::once(Column::Name).chain(rates).chain(amounts))
}

/// Those of the first that there is room for, in their order on the screen.
fn fitting(width: usize, wanted: impl IntoIterator<Item = Column>) -> Vec<Column> {
    let mut left = width;
    let mut chosen: Vec<Column> = wanted
        .into_iter()
        .take_while(|column| {
            let fits = column.width() <= left;
            left = left.saturating_sub(column.width());
            fits
        })
        .collect();
    let place = |column: &Column| match column {
        Column::Name => 0,
        Column::Node => 1,
        Column::Rate(by) => 2 + *by as usize,
        Column::Amount(by) => 6 + *by as usize,
        Column::Address => 10,
    };
    chosen.sort_by_key(place);
    chosen
}

/// Their names, for lines of this kind.
pub(super) fn column_names<'a>(columns: &[Column], kind: &'a str) -> Vec<&'a str> {
    columns.iter().map(|column| column.name(kind)).collect()
}

/// At most seven characters: `0`, `0.5`, `9999`, `12.3k`, `4.5M`.
fn short(number: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    if number < 9_999.5 {
        let whole = number.fract() == 0.0 || number >= 100.0;
        return if whole { format!("{number:.0}") } else { format!("{number:.1}") };
    }
    let (mut number, mut unit) = (number, 0);
    while number >= 999.95 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    format!("{number:.1}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.25, 42.0, 99.96, 123.4, 9_999.0, 9_999.5, 12_345.0, 999_950.0, 4.5e9];
        let expected = ["0", "0.2", "42", "100.0", "123", "9999", "10.0k", "12.3k", "1.0M", "4.5G"];
        assert_eq!(numbers.map(short), expected);
        assert!(short(u64::MAX as f64).len() <= NUMBER_WIDTH);
    }

    #[test]
    fn a_narrow_screen_keeps_what_it_is_sorted_by() {
        let all = columns(usize::MAX, true, By::Bytes);
        assert_eq!(all.len(), 11);
        assert_eq!(all[..3], [Column::Name, Column::Node, Column::Rate(By::Connections)]);
        let narrow = columns(35, true, By::Bytes);
        assert_eq!(narrow, [Column::Name, Column::Rate(By::Bytes)]);
        let eighty = columns(80, false, By::Connections);
        assert_eq!(eighty.len(), 6, "{eighty:?}");
        assert!(columns(10, false, By::Drops).is_empty());
    }

    #[test]
    fn reasons_have_only_what_is_counted_for_them() {
        let all = reason_columns(usize::MAX);
        let names = column_names(&all, "reason");
        assert_eq!(names, ["reason", "bytes/s", "drop/s", "bytes", "drops"]);
        assert_eq!(reason_columns(35), [Column::Name, Column::Rate(By::Drops)]);
    }

    #[test]
    fn what_is_not_known_has_a_dash() {
        let line = Line { name: "default/web".to_owned(), ..Line::default() };
        let cells: Vec<String> = columns(usize::MAX, true, By::Bytes)
            .into_iter()
            .map(|column| column.cell(&line))
            .collect();
        assert_eq!(cells[0], "default/web");
        assert!(cells[1..].iter().all(|cell| cell == "-"), "{cells:?}");
    }
}
