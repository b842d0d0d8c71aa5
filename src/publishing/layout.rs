//! Where a result lies below its destination.

use std::fmt::Write as _;

use crate::{
    artifacts::digest::digest_bytes,
    jobs::{Job, Work},
    outcome::{
        FileDigest,
        result_layout::{CHECKPOINTS, EVALUATIONS, is_seal},
    },
    publishing::MANIFEST,
    storage::{StorageError, StorageLocation, Storages},
};

/// Letters of the content's digest that name its folder.
const NAME_LETTERS: usize = 16;

/// Bytes of the longest name below a destination: kind, job and content, then the file's own, for
/// which there is room as for the name of a file on most disks.
pub(super) const LONGEST_NAME: usize = EVALUATIONS.len() + 1 + 36 + 1 + NAME_LETTERS + 1 + 255;

/// A job's folder in object storage.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The job's folder.
    pub(super) folder: StorageLocation,
    /// The commit point.
    pub(super) manifest: StorageLocation,
}

impl Layout {
    pub(super) fn of(storages: &Storages, job: &Job) -> Result<Self, StorageError> {
        let kind = match &job.work {
            Work::Unlearn(_) => CHECKPOINTS,
            Work::Evaluate(_) => EVALUATIONS,
        };
        let folder =
            storages.open(job.work.destination())?.child(kind)?.child(&job.id.to_string())?;
        let manifest = folder.child(MANIFEST)?;
        Ok(Self { folder, manifest })
    }
}

/// The folder that files of this content share, from whichever attempt they come. What seals them is no
/// part of it: equal results stay equal, signed or not.
pub(super) fn content_folder(files: &[FileDigest]) -> String {
    let mut list = String::new();
    for file in files.iter().filter(|file| !is_seal(&file.name)) {
        // Writing to a string cannot fail. A name may hold anything but ends with its line.
        let _ = writeln!(list, "{}  {:?}", file.sha256, file.name);
    }
    digest_bytes(list.as_bytes()).chars().take(NAME_LETTERS).collect()
}
