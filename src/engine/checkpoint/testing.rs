//! A model folder in memory, for tests of what reads model folders.

use std::{collections::BTreeMap, io::Cursor};

use crate::spec::{FileError, ModelFiles, ReadSeek};

/// Files by name, called "memory" in messages.
#[derive(Debug)]
pub(in crate::engine) struct MemoryModel {
    names: Vec<String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl MemoryModel {
    pub(in crate::engine) fn new(
        files: impl IntoIterator<Item = (impl Into<String>, Vec<u8>)>,
    ) -> Self {
        let files: BTreeMap<String, _> =
            files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect();
        Self { names: files.keys().cloned().collect(), files }
    }

    /// A file's bytes; there must be one of that name.
    pub(in crate::engine) fn bytes(&self, name: &str) -> &[u8] {
        &self.files[name]
    }
}

impl ModelFiles for MemoryModel {
    fn location(&self) -> &'static str {
        "memory"
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        let bytes = self.files.get(name).ok_or_else(|| FileError::Missing {
            location: "memory".to_owned(),
            name: name.to_owned(),
        })?;
        Ok((Box::new(Cursor::new(bytes.clone())), bytes.len() as u64))
    }
}
