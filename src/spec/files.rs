//! `ModelFiles`: a model's files, wherever they lie. `artifacts` implements it over bytes, and
//! `engine` reads tensors through it.

use std::io::{Read, Seek};

/// A file that can be read from any position, so that tensors are read one by one.
pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// The files of one diffusers folder.
pub trait ModelFiles: std::fmt::Debug + Send + Sync {
    /// How messages name the folder, such as its path or `builtin:emoji-canvas`.
    fn location(&self) -> &str;
    /// Every file, as paths with `/` relative to the folder, sorted.
    fn names(&self) -> &[String];
    /// Opens one of [`ModelFiles::names`]; gives the reader and its length in bytes.
    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError>;
}

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No such file in the folder.
    #[error("{location} has no file \"{name}\"")]
    Missing {
        /// The model folder.
        location: String,
        /// The file that was asked for.
        name: String,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {location}/{name}: {source}")]
    Unreadable {
        /// The model folder.
        location: String,
        /// Name of the file.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
}
