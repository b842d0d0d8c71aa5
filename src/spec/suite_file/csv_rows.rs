//! The rows of a CSV file (RFC 4180; pandas' `to_csv`).

use csv::ReaderBuilder;

use super::{
    columns::Columns,
    error::{Place, SuiteFileError},
    table::{Row, Table},
};
use crate::spec::Suite;

/// A record of its own behind the file's last: a quote that nothing closes swallows it.
const SENTINEL: &str = "\u{1}end\u{1}";

/// Reads every record. The first is the header where it names a column that is known; a file without
/// one may have a single column.
pub(super) fn read(text: &str, delimiter: u8) -> Result<Table, SuiteFileError> {
    let whole = format!("{text}\n{SENTINEL}\n");
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(whole.as_bytes());
    let mut lines = Lines { text: &whole, counted: 0, line: 1 };
    let mut header: Option<Vec<String>> = None;
    let mut rows: Vec<Row> = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let refuse =
            |line, problem: String| SuiteFileError::Row { place: Place::Line(line), problem };
        // Not reachable: the text is UTF-8, and any number of fields is taken.
        let record = record.map_err(|error| refuse(lines.line, error.to_string()))?;
        let start = record.position().map_or(0, csv::Position::byte);
        let line = lines.of(usize::try_from(start).unwrap_or(usize::MAX));
        let cells: Vec<String> = record.iter().map(str::to_owned).collect();
        if lines.counted >= text.len() {
            return finish(header, rows);
        }
        if cells.iter().any(|cell| cell.contains(SENTINEL)) {
            let problem = "opens a quote that nothing closes; close it, or write it twice";
            return Err(refuse(line, problem.to_owned()));
        }
        if index == 0 && Columns::are_named_by(&cells) {
            header = Some(cells);
            continue;
        }
        if let Some(header) = &header
            && cells.len() != header.len()
        {
            let problem = format!(
                "has {} fields, the header has {}; a field with a comma or a line break needs \
                 quotes around it",
                cells.len(),
                header.len()
            );
            return Err(refuse(line, problem));
        }
        rows.push(Row { place: Place::Line(line), cells });
        if rows.len() > Suite::MAX_PROMPTS {
            return Err(SuiteFileError::TooManyPrompts { limit: Suite::MAX_PROMPTS });
        }
    }
    // Not reachable: the last record is the one that was added.
    finish(header, rows)
}

/// Without a header there is one column.
fn finish(header: Option<Vec<String>>, rows: Vec<Row>) -> Result<Table, SuiteFileError> {
    if header.is_none() && rows.iter().any(|row| row.cells.len() > 1) {
        // The error names what there is and what is missing.
        let first = rows.first().map(|row| row.cells.clone()).unwrap_or_default();
        Columns::find(&first, crate::spec::Expectation::Gone)?;
        // Not reachable: a line that has what is needed would be a header.
        return Err(SuiteFileError::Empty);
    }
    Ok(Table { header, rows })
}

/// Counts lines on the way, each once.
struct Lines<'a> {
    text: &'a str,
    counted: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of the record that begins at a byte, or behind the line breaks there. Bytes must
    /// ascend.
    fn of(&mut self, byte: usize) -> usize {
        let rest = self.text.as_bytes().get(byte..).unwrap_or_default();
        let blank = rest.iter().take_while(|byte| [b'\r', b'\n'].contains(byte)).count();
        let until = (byte + blank).min(self.text.len());
        let passed = self.text.as_bytes().get(self.counted..until).unwrap_or_default();
        self.line += passed.split(|byte| *byte == b'\n').count() - 1;
        self.counted = until;
        self.line
    }
}
