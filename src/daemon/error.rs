//! Why the daemon does not start or go on.

use std::{io, path::PathBuf};

use crate::{auth::TokenFileError, jobs::StoreError, server::ServerError, storage::StorageError};

/// Why the daemon does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder of its own state cannot be used.
    #[error("cannot use the data folder {}; give another one with --data-dir", .path.display())]
    DataFolder {
        /// Path of the folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no room for the daemon's own state.
    #[error(
        "the disk of the data folder {} is full ({reason}); make room, or give another folder with \
         --data-dir",
        .path.display()
    )]
    DiskFull {
        /// Path of the folder.
        path: PathBuf,
        /// What the system and the database say.
        reason: String,
    },
    /// Another daemon works in that folder.
    #[error(
        "another keystep works in {}; stop it, or give another folder with --data-dir",
        .path.display()
    )]
    DataFolderTaken {
        /// Path of the folder.
        path: PathBuf,
    },
    /// The folder's path cannot be written as a URL.
    #[error("{} cannot be written as a file:// URL; set storage.outputs", .path.display())]
    NoUrl {
        /// Path of the folder.
        path: PathBuf,
    },
    /// The store knows less than lies in the folder.
    #[error(
        "the job store in {} does not know this folder's work: saved work of {jobs} jobs \
         (such as {example}) lies here, and none of them is in jobs.sqlite; bring jobs.sqlite back \
         with its -wal file, or a backup of it, or start with --begin-anew, which removes that work",
        .path.display()
    )]
    StoreLost {
        /// Path of the folder.
        path: PathBuf,
        /// Jobs with saved work.
        jobs: usize,
        /// One of them.
        example: String,
    },
    /// The job store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An output cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The key that signs results cannot be read, or does not sign.
    #[error("signing.key_file, {}: {problem}", .path.display())]
    Signing {
        /// Path of the key.
        path: PathBuf,
        /// What is wrong, and what helps.
        problem: String,
    },
    /// The device's thread cannot be started.
    #[error("cannot start the device's thread")]
    Device(#[source] io::Error),
    /// The token file cannot be read.
    #[error(transparent)]
    Callers(#[from] TokenFileError),
    /// Nothing can be served.
    #[error(transparent)]
    Server(#[from] ServerError),
}
