//! A finished result in a folder: committed with `complete.json`, so that a worker that is lost
//! while it publishes finds it again. Equal work gives equal bytes: no time and no path is in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::attempt_note::{forget_attempt, note_attempt, noted_attempt};
use crate::{
    artifacts::{ArtifactError, StagedFolder, digest::list_digests, remove_folder, sync_folder},
    outcome::FinishedResult,
};

/// The marker that is written last.
pub(super) const COMPLETE: &str = "complete.json";

/// The folder of a finished result. Its parent belongs to the same run.
#[derive(Debug, Clone)]
pub struct ResultFiles {
    folder: PathBuf,
}

impl ResultFiles {
    /// In a folder, which is made by [`ResultFiles::complete`].
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where they lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins the folder, in place of what an earlier attempt left.
    pub fn begin(&self) -> Result<StagedFolder, ArtifactError> {
        let unwritable = |source| ArtifactError::from_write(&self.folder, source);
        if let Some(parent) = self.folder.parent() {
            fs::create_dir_all(parent).map_err(unwritable)?;
        }
        remove_folder(&self.folder).map_err(unwritable)?;
        forget_attempt(&self.folder).map_err(unwritable)?;
        StagedFolder::create(&self.folder, &[COMPLETE])
    }

    /// Writes the marker and puts the folder in its place.
    pub fn complete(
        &self,
        mut staged: StagedFolder,
        finished: FinishedResult,
    ) -> Result<FinishedResult, ArtifactError> {
        let marker = serde_json::to_vec_pretty(&finished)
            .map_err(|error| ArtifactError::from_write(self.marker(), error.into()))?;
        staged.write(COMPLETE, |out| out.write_all(&marker))?;
        staged.commit()?;
        Ok(finished)
    }

    /// The result that an earlier attempt at the same work left whole, if there is one: every file
    /// has the digest that the marker says, and there is no other.
    pub fn find(&self, work_digest: &str) -> Option<FinishedResult> {
        let marker = fs::read(self.marker()).ok()?;
        let finished: FinishedResult = serde_json::from_slice(&marker).ok()?;
        let mut found = list_digests(&self.folder).ok()?;
        found.retain(|file| file.name != COMPLETE);
        let same = finished.work_digest == work_digest && found == finished.files;
        same.then_some(finished)
    }

    pub(super) fn marker(&self) -> PathBuf {
        self.folder.join(COMPLETE)
    }

    /// The attempt that made the result, 0 where none was noted.
    pub(super) fn attempt(&self) -> u64 {
        noted_attempt(&self.folder)
    }

    pub(super) fn note_attempt(&self, attempt: u64) -> io::Result<()> {
        note_attempt(&self.folder, attempt)
    }

    /// Begins a copy beside the folder, which stays until the copy is whole.
    pub(super) fn begin_copy(&self) -> Result<StagedFolder, ArtifactError> {
        let copy = self.copy();
        let unwritable = |source| ArtifactError::from_write(&copy, source);
        if let Some(parent) = copy.parent() {
            fs::create_dir_all(parent).map_err(unwritable)?;
        }
        remove_folder(&copy).map_err(unwritable)?;
        StagedFolder::create(&copy, &[COMPLETE])
    }

    /// Puts a copy of an attempt's result in the folder's place.
    pub(super) fn adopt(&self, staged: StagedFolder, attempt: u64) -> Result<(), ArtifactError> {
        let unwritable = |source| ArtifactError::from_write(&self.folder, source);
        staged.commit()?;
        remove_folder(&self.folder).map_err(unwritable)?;
        forget_attempt(&self.folder).map_err(unwritable)?;
        fs::rename(self.copy(), &self.folder).map_err(unwritable)?;
        if let Some(parent) = self.folder.parent() {
            sync_folder(parent).map_err(unwritable)?;
        }
        self.note_attempt(attempt).map_err(unwritable)
    }

    fn copy(&self) -> PathBuf {
        let mut name = self.folder.file_name().unwrap_or_default().to_owned();
        name.push(".fetched");
        self.folder.with_file_name(name)
    }
}
