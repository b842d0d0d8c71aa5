//! Reads suites of prompts from the files that they are published in: CSV with a header, JSON lists,
//! and one prompt a line. Columns go by name; those that nobody asks for are ignored.

mod columns;
mod csv_rows;
mod error;
mod json_rows;
mod number;
mod table;
#[cfg(test)]
mod tests;

pub use error::SuiteFileError;

use self::{
    columns::Columns,
    number::{read_guidance, read_seed},
    table::{Row, Table},
};
use super::{Expectation, Suite, SuitePrompt};

/// Most bytes of a file: more than ten thousand prompts take.
const MAX_BYTES: usize = 16 << 20;

/// Reads a suite. The ending of the file's name says what it is: `.json` a list of texts or of
/// objects, `.txt` one prompt a line, `.tsv` columns parted by tabs, all else CSV; its stem is the
/// suite's name.
///
/// A file without seeds has the seeds 0, 1, 2, … in the order of its rows. Nothing is read past the
/// first thing that is wrong, and a suite is given whole or not at all.
///
/// ```
/// use keystep::spec::{Expectation, read_suite};
///
/// let file = "prompt,evaluation_seed,case_number\n\"a cat, sleeping\",42,0\n";
/// let suite = read_suite("found.csv", file.as_bytes(), Expectation::Gone)?;
/// assert_eq!((suite.name.as_str(), suite.prompts[0].seed), ("found", 42));
/// assert_eq!(suite.columns, ["prompt", "evaluation_seed"]);
/// # Ok::<_, keystep::spec::SuiteFileError>(())
/// ```
pub fn read_suite(
    file_name: &str,
    bytes: &[u8],
    expects: Expectation,
) -> Result<Suite, SuiteFileError> {
    let text = decode(bytes)?;
    let (stem, ending) = match file_name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => (stem, ending.to_ascii_lowercase()),
        _ => (file_name, String::new()),
    };
    let table = match ending.as_str() {
        "json" => json_rows::read(text)?,
        "txt" => Table::of_lines(text),
        "tsv" => csv_rows::read(text, b'\t')?,
        _ => csv_rows::read(text, b',')?,
    };
    if table.rows.is_empty() {
        return Err(SuiteFileError::Empty);
    }
    if table.rows.len() > Suite::MAX_PROMPTS {
        return Err(SuiteFileError::TooManyPrompts { limit: Suite::MAX_PROMPTS });
    }
    let columns = match &table.header {
        None if expects == Expectation::Kept => return Err(SuiteFileError::NothingKept),
        None => Columns::PROMPT_ALONE,
        Some(header) => Columns::find(header, expects)?,
    };
    let used = table.header.as_deref().map(|header| columns.names(header)).unwrap_or_default();
    let prompts = (0..).zip(&table.rows).map(|(index, row)| {
        let refuse = |problem| SuiteFileError::Row { place: row.place, problem };
        let prompt = read_row(&columns, row, index).map_err(refuse)?;
        prompt.check(expects).map_err(|message| refuse(format!("its prompt {message}")))?;
        Ok(prompt)
    });
    Ok(Suite {
        name: stem.to_owned(),
        expects,
        prompts: prompts.collect::<Result<_, _>>()?,
        columns: used,
    })
}

/// The text without its byte-order mark.
fn decode(bytes: &[u8]) -> Result<&str, SuiteFileError> {
    if bytes.len() > MAX_BYTES {
        return Err(SuiteFileError::TooLarge { bytes: bytes.len(), limit: MAX_BYTES });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        let before = bytes.get(..offset).unwrap_or_default();
        let line = before.split(|byte| *byte == b'\n').count();
        let byte = bytes.get(offset).copied().unwrap_or_default();
        let is_utf16 = bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]);
        SuiteFileError::NotUtf8 { line, offset, byte, is_utf16 }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// One row as a picture; without a seed its place among the rows is the seed.
fn read_row(columns: &Columns, row: &Row, index: u64) -> Result<SuitePrompt, String> {
    let cell = |column: Option<usize>| column.map(|column| row.cell(column));
    let word = |column| cell(column).map(|word| word.trim().replace('_', " "));
    let (object, style) = (word(columns.object), word(columns.style));
    let prompt = match (cell(columns.prompt), &object, &style) {
        (Some(prompt), ..) => prompt.to_owned(),
        // UnlearnCanvas's own sentence (arXiv 2402.11846).
        (None, Some(object), Some(style)) => format!("A {object} image in {style} style."),
        (None, ..) => String::new(),
    };
    Ok(SuitePrompt {
        prompt,
        seed: cell(columns.seed).map_or(Ok(index), read_seed)?,
        guidance_scale: cell(columns.guidance).map(read_guidance).transpose()?,
        object,
        style,
    })
}
