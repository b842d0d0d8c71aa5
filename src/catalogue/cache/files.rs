//! Cached files as a model's, kept from eviction for as long as somebody holds them.

use std::{fs::File, io, path::PathBuf, sync::Arc};

use super::{Held, InUse};
use crate::spec::{FileError, ModelFiles, ReadSeek};

/// A base model that lies whole in the cache.
#[derive(Debug)]
pub(in crate::catalogue) struct CachedModel {
    /// Its name in the catalogue: where it lies on this machine is nobody's business.
    location: String,
    folder: PathBuf,
    names: Vec<String>,
    _in_use: InUse,
}

impl CachedModel {
    pub(in crate::catalogue) fn new(name: &str, held: Held) -> Self {
        let mut names: Vec<_> = held.files.iter().map(|file| file.name.clone()).collect();
        names.sort();
        let folder = held.files_folder();
        Self { location: name.to_owned(), folder, names, _in_use: held.in_use }
    }
}

impl ModelFiles for CachedModel {
    fn location(&self) -> &str {
        &self.location
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        if self.names.binary_search_by(|known| known.as_str().cmp(name)).is_err() {
            return Err(FileError::Missing {
                location: self.location.clone(),
                name: name.to_owned(),
            });
        }
        let open = || -> io::Result<(File, u64)> {
            let file = File::open(self.folder.join(name))?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = open().map_err(|source| FileError::Unreadable {
            location: self.location.clone(),
            name: name.to_owned(),
            source,
        })?;
        Ok((Box::new(file), length))
    }
}

/// The files of an erased model's base, which keep its edited tensors in the cache as well.
#[derive(Debug)]
pub(in crate::catalogue) struct EditedModel {
    pub(in crate::catalogue) base: Arc<dyn ModelFiles>,
    pub(in crate::catalogue) _edited: InUse,
}

impl ModelFiles for EditedModel {
    fn location(&self) -> &str {
        self.base.location()
    }

    fn names(&self) -> &[String] {
        self.base.names()
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        self.base.open(name)
    }
}
