//! Why the daemon does not start or go on.

use std::{io, path::PathBuf};

use crate::{auth::TokenFileError, jobs::StoreError, server::ServerError, storage::StorageError};

/// Why the daemon does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder of its own state cannot be used.
    #[error("cannot use the data folder {}; give another one with --data-dir", .path.display())]
    DataFolder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another daemon works in that folder.
    #[error(
        "another keystep works in {}; stop it, or give another folder with --data-dir",
        .path.display()
    )]
    DataFolderTaken {
        /// The folder.
        path: PathBuf,
    },
    /// The folder's path cannot be written as a URL.
    #[error("{} cannot be written as a file:// URL; set storage.outputs", .path.display())]
    NoUrl {
        /// The folder.
        path: PathBuf,
    },
    /// The jobs cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A place for results is none.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The device's thread cannot be started.
    #[error("cannot start the device's thread")]
    Device(#[source] io::Error),
    /// Who may call cannot be told.
    #[error(transparent)]
    Callers(#[from] TokenFileError),
    /// Nothing can be served.
    #[error(transparent)]
    Server(#[from] ServerError),
}
