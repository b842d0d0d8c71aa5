//! A file's rows before anybody knows what its columns mean.

use super::error::Place;

/// Rows of text.
#[derive(Debug)]
pub(super) struct Table {
    /// Names of the columns; none where there is one column without a name.
    pub(super) header: Option<Vec<String>>,
    pub(super) rows: Vec<Row>,
}

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) cells: Vec<String>,
}

impl Row {
    /// A cell; empty where the row has none.
    pub(super) fn cell(&self, column: usize) -> &str {
        self.cells.get(column).map_or("", String::as_str)
    }
}

impl Table {
    /// One prompt a line; empty lines are none.
    pub(super) fn of_lines(text: &str) -> Self {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let rows = lines.map(|(index, line)| Row {
            place: Place::Line(index + 1),
            cells: vec![line.to_owned()],
        });
        Self { header: None, rows: rows.collect() }
    }
}
