//! What can go wrong with files, by meaning for the user.

use std::{io, path::PathBuf};

use crate::spec::FileError;

/// Why a model could not be opened or a result could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    // Models.
    /// No such model is compiled in.
    #[error("there is no built-in model \"{name}\"; use one of {known}")]
    UnknownBuiltin {
        /// What was asked for.
        name: String,
        /// Those that there are, such as `builtin:emoji-canvas`.
        known: String,
    },
    /// A kind of place that we cannot reach.
    #[error(
        "\"{location}\": {scheme}:// is not supported yet; give builtin:NAME, the path of a local folder or a file:// URL (download the model first, such as with `hf download`)"
    )]
    UnsupportedScheme {
        /// What was asked for.
        location: String,
        /// The part before `://`.
        scheme: String,
    },
    /// A `file://` URL that names no local path.
    #[error("\"{location}\" {message}; write file:///path/to/folder")]
    BadUrl {
        /// What was asked for.
        location: String,
        /// What is wrong.
        message: String,
    },
    /// There is no such folder, or it holds no model.
    #[error(
        "{} {message}; give the folder of a diffusers pipeline, the one with model_index.json",
        path.display()
    )]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file or folder is there and cannot be read.
    #[error("cannot read {}: {source}; check its permissions", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One of a model's files could not be opened.
    #[error(transparent)]
    File(#[from] FileError),

    // Results.
    /// The target is taken.
    #[error("{} exists already; name another output, or move it away first", path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// A name that cannot be written.
    #[error("\"{}\" cannot be an output: {message}", path.display())]
    BadTarget {
        /// The target.
        path: PathBuf,
        /// What is wrong, and what would do.
        message: String,
    },
    /// The target's folder refuses new files.
    #[error(
        "cannot write {}: {source}; choose an output in a folder that exists and that you may write to",
        path.display()
    )]
    Unwritable {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or the user's share of it is used up.
    #[error(
        "the disk is full: cannot write {} ({source}); free some space or choose an output on another disk; nothing was left behind",
        path.display()
    )]
    DiskFull {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the result holds weights that the edit changed, as they were before.
    #[error(
        "{} holds weights of the base model's U-Net as they were before the erasure; nothing was committed; remove that file from the base model's folder",
        path.display()
    )]
    HoldsErasedWeights {
        /// Path of the file.
        path: PathBuf,
    },
    /// The result will not fit, as is known before it is computed.
    #[error(
        "the result {} takes {} and its disk has {} free; free some space or choose an output on \
         another disk; nothing was computed yet",
        path.display(),
        mebibytes(*needed),
        mebibytes(*free)
    )]
    TooLittleRoom {
        /// The target.
        path: PathBuf,
        /// Bytes of the result.
        needed: u64,
        /// Bytes that are free there.
        free: u64,
    },
    /// A result lacks a file: a fault of ours.
    #[error(
        "the result {} lacks {name}; nothing was left behind; this is a fault of Keystep",
        path.display()
    )]
    Incomplete {
        /// The target.
        path: PathBuf,
        /// Name of the file.
        name: String,
    },
}

/// Bytes for a reader.
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl ArtifactError {
    /// What a failed write means.
    pub fn from_write(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, source }
            }
            _ => Self::Unwritable { path, source },
        }
    }
}
