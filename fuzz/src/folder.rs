//! A model folder whose files are bytes in memory.

use std::{collections::BTreeMap, io::Cursor};

use keystep::spec::{FileError, ModelFiles, ReadSeek};

/// A model folder whose files are bytes in memory.
#[derive(Debug, Default)]
pub struct Folder {
    names: Vec<String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Folder {
    /// The files by their paths.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let files: BTreeMap<_, _> =
            files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        Self { names: files.keys().cloned().collect(), files }
    }
}

impl ModelFiles for Folder {
    fn location(&self) -> &str {
        "fuzzed"
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let missing =
            || FileError::Missing { location: "fuzzed".to_owned(), name: name.to_owned() };
        let bytes = self.files.get(name).ok_or_else(missing)?.clone();
        let length = bytes.len() as u64;
        Ok((Box::new(Cursor::new(bytes)), length))
    }
}
