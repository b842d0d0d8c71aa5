//! The seam to object storage: a result folder goes out, its addresses come back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::exact_number;
use crate::{
    jobs::{ConceptVerdict, Failure, Job, PublishedFile, Timestamp},
    outcome::{DeviceKind, TrainingLog},
    spec::{LogSnrWindow, StepIndex},
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
    /// stands. Called before the folder's parent is removed, for a job that nobody will take up
    /// again; where it fails, again later.
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
    /// Told bytes sent and bytes in all.
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

/// Decides between a cancel and a manifest: whoever comes first shuts the other out, so that no
/// cancelled job has a manifest and no published one is told to be cancelled. Clones share it.
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

/// What the engine's part of a job came to; kept beside the files as `complete.json`, so that a
/// worker that is lost while it publishes does not train again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishedResult {
    /// Which work this is the result of.
    pub work_digest: String,
    /// Every file to publish, in order of their names.
    pub files: Vec<ResultFile>,
    /// What the judges say, by concept.
    pub verdicts: Vec<ConceptVerdict>,
    /// Steps that were trained at, ascending; none for a judgement.
    pub key_steps: Vec<StepIndex>,
    /// The band that was trained in, where the method has one.
    pub window: Option<LogSnrWindow>,
    /// Updates made.
    pub updates: usize,
    /// U-Net evaluations of the whole job, scoring, checks and judging included.
    pub unet_evaluations: u64,
    /// What the training measured; absent for a judgement.
    pub training: Option<TrainingFigures>,
    /// Where each draw that took place started: "score", "unlearn", "judge".
    #[serde(default)]
    pub seeds: BTreeMap<String, u64>,
    /// What computed it.
    #[serde(default)]
    pub device: DeviceKind,
    /// Files of the base model that are no part of its pipeline, and so not of the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// What a manifest tells of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingFigures {
    /// Whether the erase measure ended the run before its last update.
    pub stopped_early: bool,
    /// Loss of the first update.
    #[serde(with = "exact_number::optional")]
    pub first_loss: Option<f64>,
    /// Loss of the last update.
    #[serde(with = "exact_number::optional")]
    pub last_loss: Option<f64>,
    /// What is left of the concept's guidance.
    #[serde(with = "exact_number")]
    pub erase_measure: f64,
    /// Squared change of unrelated predictions over the squared guidance of the concept.
    #[serde(with = "exact_number")]
    pub damage_measure: f64,
    /// Relative change of the weights in scope.
    #[serde(with = "exact_number")]
    pub weight_change: f64,
    /// The rate that Adam ran at.
    #[serde(with = "exact_number")]
    pub learning_rate: f64,
}

impl From<&TrainingLog> for TrainingFigures {
    fn from(log: &TrainingLog) -> Self {
        Self {
            stopped_early: log.stopped_early,
            first_loss: log.updates.first().map(|update| update.loss),
            last_loss: log.updates.last().map(|update| update.loss),
            erase_measure: log.erase_measure,
            damage_measure: log.damage_measure,
            weight_change: log.weight_change,
            learning_rate: log.learning_rate,
        }
    }
}

/// A file of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultFile {
    /// Path within the result folder, with `/`.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// Where a result stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The commit point.
    pub manifest_uri: String,
    /// Of the manifest itself, hexadecimal.
    pub manifest_sha256: String,
    /// Every file but the manifest.
    pub files: Vec<PublishedFile>,
}
