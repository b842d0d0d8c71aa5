//! Holds the token file as last read, and reads it again when it changes.

use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{TokenFileError, TokenTableError, table::Table};

/// A token file: its table, and a channel that announces the next one.
pub(super) struct TokenFile {
    path: PathBuf,
    pub(super) table: ArcSwap<Table>,
    /// Receives a value with each new table.
    pub(super) changes: watch::Sender<()>,
    /// What was read last, valid or not, so that each version is parsed, and reported, once.
    seen: tokio::sync::Mutex<Vec<u8>>,
}

impl TokenFile {
    pub(super) async fn open(path: &Path) -> Result<Self, TokenFileError> {
        let bytes = read(path).await?;
        let table = parse(path, &bytes)?;
        log_read(path, &table);
        Ok(Self {
            path: path.to_owned(),
            table: ArcSwap::from_pointee(table),
            changes: watch::Sender::new(()),
            seen: tokio::sync::Mutex::new(bytes),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again, and returns whether its table changed. `prepare` sees the new table
    /// before it takes effect. A file that cannot be used changes nothing.
    pub(super) async fn reload(
        &self,
        prepare: impl FnOnce(&Table),
    ) -> Result<bool, TokenFileError> {
        let mut seen = self.seen.lock().await;
        let bytes = read(&self.path).await?;
        if *seen == bytes {
            return Ok(false);
        }
        let parsed = parse(&self.path, &bytes);
        *seen = bytes;
        let table = parsed?;
        prepare(&table);
        log_read(&self.path, &table);
        self.table.store(table.into());
        self.changes.send_replace(());
        Ok(true)
    }
}

fn log_read(path: &Path, table: &Table) {
    let (tokens, certificates) = table.counts();
    tracing::info!(path = %path.display(), tokens, certificates, "read the token file");
}

async fn read(path: &Path) -> Result<Vec<u8>, TokenFileError> {
    let unreadable = |source| TokenFileError::Unreadable { path: path.to_owned(), source };
    tokio::fs::read(path).await.map_err(unreadable)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Table, TokenFileError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TokenTableError::NotText);
    let invalid = |source| TokenFileError::Invalid { path: path.to_owned(), source };
    text.and_then(Table::parse).map_err(invalid)
}
