//! Why a file is no suite of prompts.

use std::fmt;

/// Where in a file a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of text, from 1.
    Line(usize),
    /// An entry of a JSON list, from 1.
    Entry(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry(entry) => write!(f, "entry {entry}"),
        }
    }
}

/// Why a file is no suite of prompts; the file's name is the caller's to say.
#[derive(Debug, thiserror::Error)]
pub enum SuiteFileError {
    /// Larger than any suite.
    #[error("has {bytes} bytes, the limit is {limit}; split it")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The most that is read.
        limit: usize,
    },
    /// More prompts than a suite may have.
    #[error("has more than {limit} prompts, the limit of a suite; split it")]
    TooManyPrompts {
        /// The limit.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error(
        "line {line} holds the byte 0x{byte:02x} at offset {offset}, which is no UTF-8{}; save the \
         file as UTF-8",
        if *.is_utf16 { " (the file begins like UTF-16)" } else { "" }
    )]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
        /// The byte's place in the file, from 0.
        offset: usize,
        /// The byte.
        byte: u8,
        /// Whether the file begins with a mark of UTF-16.
        is_utf16: bool,
    },
    /// No prompt at all.
    #[error("holds no prompt; give a header and at least a row, or one prompt a line")]
    Empty,
    /// What is needed is not among the columns.
    #[error("has no column {wanted}; it has {found}")]
    MissingColumn {
        /// Names that would do, and the remedy.
        wanted: String,
        /// Those that there are.
        found: String,
    },
    /// A column that is read stands there twice.
    #[error("has two columns \"{column}\"; rename or remove one")]
    DuplicateColumn {
        /// The column's heading, as the file gives it.
        column: String,
    },
    /// Pictures without a word for what they should keep.
    #[error(
        "has prompts alone, so that nobody knows what its pictures should keep; give it a header \
         with the columns prompt and object or style"
    )]
    NothingKept,
    /// A row that cannot be drawn.
    #[error("{place}: {problem}")]
    Row {
        /// Where it stands.
        place: Place,
        /// What is wrong with it.
        problem: String,
    },
    /// No JSON, or JSON that is no list.
    #[error("is no JSON list of prompts")]
    Json(#[source] serde_json::Error),
}
