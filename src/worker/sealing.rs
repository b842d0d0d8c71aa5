//! `ResultSealer`: adds to a result what lets others check it, while the result is still in the making.

use std::{io::Write, sync::Arc};

use crate::{
    artifacts::{StagedFolder, digest::digest_named},
    device::artifact_failure,
    jobs::{Failure, JobId, Timestamp, Work},
    outcome::FinishedResult,
    provenance::SealedFile,
};

/// Makes the files that let others check a result.
pub trait ResultSealer: std::fmt::Debug + Send + Sync {
    /// The files to add to the result. They belong to it from then on and are saved with it, so that
    /// a publication that is taken up again sends the same bytes.
    fn seal(&self, request: &SealRequest<'_>) -> Result<Vec<SealedFile>, Failure>;
}

/// A result that is whole but for its seal. Nothing of it differs between attempts at the same job:
/// neither may their signatures, since attempts with equal files share a folder in the output.
#[derive(Debug, Clone, Copy)]
pub struct SealRequest<'a> {
    /// Whose result.
    pub job: JobId,
    /// What was asked.
    pub work: &'a Work,
    /// When.
    pub accepted_at: Timestamp,
    /// What came out.
    pub result: &'a FinishedResult,
}

/// A sealer, and what it must be told of a job.
#[derive(Debug)]
pub(super) struct Sealing {
    pub(super) sealer: Arc<dyn ResultSealer>,
    pub(super) job: JobId,
    pub(super) accepted_at: Timestamp,
}

/// Writes what the sealer makes, where there is one, into the result's folder.
pub(super) fn seal(
    sealing: Option<&Sealing>,
    work: &Work,
    mut finished: FinishedResult,
    staged: &mut StagedFolder,
) -> Result<FinishedResult, Failure> {
    let Some(Sealing { sealer, job, accepted_at }) = sealing else { return Ok(finished) };
    let request = SealRequest { job: *job, work, accepted_at: *accepted_at, result: &finished };
    for SealedFile { name, bytes } in sealer.seal(&request)? {
        staged
            .write(name, |out: &mut dyn Write| out.write_all(&bytes))
            .map_err(|error| artifact_failure(&error))?;
        finished.files.push(digest_named(name, &bytes));
    }
    finished.files.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(finished)
}
