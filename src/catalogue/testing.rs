//! A catalogue for tests of what is built on it.

use std::{path::PathBuf, sync::Arc};

use super::{CacheSettings, Catalogue};
use crate::{
    jobs::Store,
    storage::{StorageSettings, Storages},
};

impl Catalogue {
    /// The built-in model and what the store's jobs published; nothing is fetched.
    pub(crate) fn of_builtin(store: Arc<Store>) -> Self {
        let cache = CacheSettings { folder: PathBuf::from("unused"), max_bytes: 1 };
        let storages = Arc::new(Storages::new(StorageSettings::default()));
        Self::new(Vec::new(), cache, storages, store)
    }
}
