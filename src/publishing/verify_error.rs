//! Why a result is not believed.

use std::{io, path::PathBuf};

use super::{MANIFEST, ManifestError};
use crate::{
    provenance::Untrue,
    storage::{StorageError, StorageErrorKind},
};

/// Why a result is not believed, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not what was signed.
    #[error(transparent)]
    Untrue(#[from] Untrue),
    /// The manifest is none.
    #[error("{MANIFEST}: {0}")]
    Manifest(#[from] ManifestError),
    /// The manifest says something else than what was signed.
    #[error("{MANIFEST} says otherwise than what was signed: {what}")]
    SaysOtherwise {
        /// About what.
        what: String,
    },
    /// A name that leads elsewhere.
    #[error("{name:?} is no name of a file in the result's folder")]
    BadName {
        /// The name.
        name: String,
    },
    /// A link, a pipe or a device where a file belongs.
    #[error("{name} is a link or no plain file: nobody signed what it leads to")]
    Link {
        /// The file's path below the result's folder.
        name: String,
    },
    /// A file that is far larger than any of its kind.
    #[error("{name} has more than {most} bytes, which no such file has")]
    TooLong {
        /// The file's path below the result's folder.
        name: String,
        /// The limit in bytes.
        most: u64,
    },
    /// More than a result has.
    #[error("the folder has more than {most} entries, which no result has")]
    TooMany {
        /// The limit.
        most: usize,
    },
    /// A file went away while it was looked at.
    #[error("{name} was removed while it was read")]
    Vanished {
        /// The file's path below the result's folder.
        name: String,
    },
    /// There is nothing.
    #[error("nothing lies at {place}")]
    Nothing {
        /// Where.
        place: String,
    },
    /// The disk says no.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Object storage says no.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl VerifyError {
    /// Whether the result was looked at and is not what was signed; else nobody knows.
    pub fn is_untrue(&self) -> bool {
        match self {
            Self::Untrue(_)
            | Self::Manifest(_)
            | Self::SaysOtherwise { .. }
            | Self::BadName { .. }
            | Self::Link { .. }
            | Self::TooLong { .. }
            | Self::TooMany { .. } => true,
            Self::Storage(error) => error.kind() == StorageErrorKind::Corrupted,
            Self::Vanished { .. } | Self::Nothing { .. } | Self::Unreadable { .. } => false,
        }
    }
}
