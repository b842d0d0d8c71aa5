//! A job's result folder: committed with `complete.json`, so that a worker that is lost while it
//! publishes finds it again. Equal work gives equal bytes: no time and no path is in it.

use std::{fs, io, path::Path};

use crate::{
    artifacts::{StagedFolder, digest::list_digests},
    device::{artifact_failure, disk_failure},
    jobs::{Failure, FailureReason},
    outcome::FinishedResult,
};

/// The marker that is written last.
const COMPLETE: &str = "complete.json";

/// Begins the folder, in place of what an earlier attempt left.
pub(super) fn begin(folder: &Path) -> Result<StagedFolder, Failure> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|error| disk_failure("the job's folder", &error))?;
    }
    remove(folder).map_err(|error| disk_failure("the result folder", &error))?;
    StagedFolder::create(folder, &[COMPLETE]).map_err(|error| artifact_failure(&error))
}

/// Writes the marker and puts the folder in its place.
pub(super) fn complete(
    mut staged: StagedFolder,
    finished: FinishedResult,
) -> Result<FinishedResult, Failure> {
    let marker = serde_json::to_vec_pretty(&finished)
        .map_err(|error| Failure::new(FailureReason::EngineFault, error.to_string()))?;
    staged
        .write(COMPLETE, |out| out.write_all(&marker))
        .and_then(|()| staged.commit())
        .map_err(|error| artifact_failure(&error))?;
    Ok(finished)
}

/// The result that an earlier attempt at the same work left whole, if there is one.
pub(super) fn find_finished(folder: &Path, work_digest: &str) -> Option<FinishedResult> {
    let marker = fs::read(folder.join(COMPLETE)).ok()?;
    let finished: FinishedResult = serde_json::from_slice(&marker).ok()?;
    let mut found = list_digests(folder).ok()?;
    found.retain(|file| file.name != COMPLETE);
    let same = finished.work_digest == work_digest && found == finished.files;
    same.then_some(finished)
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
