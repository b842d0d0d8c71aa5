//! `Publisher`: sends a result folder to object storage and gives back its addresses.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use futures::future::BoxFuture;

use crate::{
    jobs::{Failure, Job, Timestamp},
    outcome::{FinishedResult, Published},
};

/// Publishes results.
///
/// May be called again for the same job after a failure, a drain or a lost worker, with files of the
/// same bytes. Dropping the future stops the publication; what a stopped one left behind is harmless
/// as long as no manifest stands.
pub trait Publisher: std::fmt::Debug + Send + Sync {
    /// Uploads every file, reads them back, and writes the manifest last. Where a manifest of the
    /// job stands already, that one's addresses are the answer.
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, Failure>>;

    /// Takes back the manifest of a job that was cancelled, where one stands: its worker was lost
    /// after it had written the manifest and before it could say so.
    fn retract<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>>;

    /// Whether results may be published below this destination, and could be: looks at the operator's
    /// prefixes and at the lengths of names, and reaches nothing.
    fn check(&self, destination: &str) -> Result<(), Failure>;

    /// Discards what a publication left in the output, half sent or whole, unless its manifest
    /// stands. Called before the folder's parent is removed, for a job that will not be
    /// taken up again; where it fails, again later.
    fn abandon<'a>(&'a self, leavings: Leavings<'a>) -> BoxFuture<'a, Result<(), Failure>>;
}

/// What a job that is over may have left in the output.
#[derive(Debug, Clone, Copy)]
pub struct Leavings<'a> {
    /// The folder of its result, as it was in [`PublishRequest::folder`].
    pub folder: &'a Path,
    /// Whether it was cancelled: then not even a manifest stays.
    pub is_cancelled: bool,
}

/// A result that is ready to go out.
#[derive(Clone)]
pub struct PublishRequest {
    /// Whose result; its fence names the attempt, its work says where to.
    pub job: Job,
    /// Where the files lie.
    pub folder: PathBuf,
    /// What came out, for the manifest: the same for equal work.
    pub result: FinishedResult,
    /// When it came about, for the manifest: the one part that differs between equal runs.
    pub times: RunTimes,
    /// Called with the bytes sent and the bytes in all.
    pub progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
    /// To be entered before the manifest is written.
    pub commit: CommitGate,
}

impl std::fmt::Debug for PublishRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishRequest")
            .field("job", &self.job.id)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Decides between a cancel and a manifest: the first shuts the other out, so that no cancelled job
/// has a manifest and no published job is reported as cancelled. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CommitGate(Arc<AtomicU8>);

impl CommitGate {
    const OPEN: u8 = 0;
    const ENTERED: u8 = 1;
    const CLOSED: u8 = 2;

    /// Whether the manifest may be written. Once it may, the publication runs to its end.
    pub fn enter(&self) -> bool {
        self.turn(Self::ENTERED)
    }

    /// Shuts it; `false` where the manifest is being written already.
    pub fn close(&self) -> bool {
        self.turn(Self::CLOSED)
    }

    /// Whether it stands, or stood before, as wanted.
    fn turn(&self, wanted: u8) -> bool {
        match self.0.compare_exchange(Self::OPEN, wanted, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(stands) => stands == wanted,
        }
    }
}

/// When a run took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTimes {
    /// When the job was claimed by the attempt that publishes it.
    pub claimed_at: Timestamp,
    /// When its result was whole.
    pub finished_at: Timestamp,
}
