//! Tables that the server makes: which columns of them to show, and how.

use serde_json::Value;

use crate::output::Table;

/// The media type of a server-side table, with JSON for servers that make none.
pub(crate) const ACCEPT: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// How to show a table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style<'a> {
    /// Also columns that the server marks as less important.
    pub(crate) wide: bool,
    /// A first column with each object's namespace.
    pub(crate) namespaces: bool,
    /// Put before each name, when several types are shown: `pod/`.
    pub(crate) prefix: &'a str,
}

/// Columns of a server's table, kept from the first of several that belong together: in a watch
/// only the first one has definitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    /// Name and whether it is shown, in the order of the cells.
    columns: Vec<(String, bool)>,
}

impl Columns {
    pub(crate) fn of(table: &Value, style: Style<'_>) -> Self {
        let definitions = table["columnDefinitions"].as_array();
        let columns = definitions.into_iter().flatten().map(|definition| {
            let name = definition["name"].as_str().unwrap_or_default().to_owned();
            let shown = style.wide || definition["priority"].as_i64().unwrap_or(0) == 0;
            (name, shown)
        });
        Self { columns: columns.collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The rows of a server's table as one that can be printed.
    pub(crate) fn rows(&self, table: &Value, style: Style<'_>) -> Table {
        let shown = self.columns.iter().filter(|(_, shown)| *shown).map(|(name, _)| name.as_str());
        let mut printed =
            Table::new(style.namespaces.then_some("namespace").into_iter().chain(shown));
        for row in table["rows"].as_array().into_iter().flatten() {
            let cells = row["cells"].as_array().into_iter().flatten();
            let mut shown: Vec<String> = cells
                .zip(&self.columns)
                .filter(|(_, (_, shown))| *shown)
                .map(|(cell, _)| text(cell))
                .collect();
            if let Some(name) = shown.first_mut() {
                name.insert_str(0, style.prefix);
            }
            if style.namespaces {
                shown.insert(0, text(&row["object"]["metadata"]["namespace"]));
            }
            printed.row(shown);
        }
        printed
    }
}

fn text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Value {
        json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0},
                {"name": "Ready", "priority": 0},
                {"name": "IP", "priority": 1},
            ],
            "rows": [
                {"cells": ["a", 1, "10.0.0.1"], "object": {"metadata": {"namespace": "x"}}},
                {"cells": ["bb", null, "10.0.0.2"], "object": {"metadata": {"namespace": "y"}}},
            ],
        })
    }

    fn printed(style: Style<'_>) -> String {
        let table = table();
        Columns::of(&table, style).rows(&table, style).render(true)
    }

    #[test]
    fn less_important_columns_are_for_wide() {
        assert_eq!(printed(Style::default()), "NAME   READY\na      1\nbb\n");
        let wide = Style { wide: true, ..Style::default() };
        assert_eq!(
            printed(wide),
            "NAME   READY   IP\na      1       10.0.0.1\nbb             10.0.0.2\n"
        );
    }

    #[test]
    fn namespaces_and_prefixes() {
        let style = Style { namespaces: true, prefix: "pod/", ..Style::default() };
        assert_eq!(
            printed(style),
            "NAMESPACE   NAME     READY\nx           pod/a    1\ny           pod/bb\n"
        );
    }

    #[test]
    fn later_events_have_no_definitions() {
        let columns = Columns::of(&table(), Style::default());
        let event = json!({"columnDefinitions": null, "rows": [{"cells": ["c", 2, "-"]}]});
        assert_eq!(columns.rows(&event, Style::default()).render(false), "c   2\n");
    }
}
