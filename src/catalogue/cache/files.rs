//! Cached files as a model's, kept from eviction for as long as somebody holds them.

use std::sync::Arc;

use super::{Held, InUse};
use crate::{
    artifacts::ModelFolder,
    spec::{FileError, ModelFiles, ReadSeek},
};

/// A base model that lies whole in the cache.
#[derive(Debug)]
pub(in crate::catalogue) struct CachedModel {
    files: ModelFolder,
    _in_use: InUse,
}

impl CachedModel {
    /// Under its name in the catalogue: where it lies on this machine is nobody's business.
    pub(in crate::catalogue) fn new(name: &str, held: Held) -> Self {
        let names = held.files.iter().map(|file| file.name.clone()).collect();
        let files = ModelFolder::listed(name.to_owned(), held.files_folder(), names);
        Self { files, _in_use: held.in_use }
    }
}

impl ModelFiles for CachedModel {
    fn location(&self) -> &str {
        self.files.location()
    }

    fn names(&self) -> &[String] {
        self.files.names()
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        self.files.open(name)
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
