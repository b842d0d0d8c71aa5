//! A job as a slot of the device works on it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::sealing::Sealing;
use crate::{
    device::{self, OpenedModel, PictureCache},
    engine::{CancelFlag, PauseFlag},
    jobs::{JobProgress, Milestone, Work},
    outcome::{Notice, TimestepScores},
    run::{ResultFiles, SharedStateStore, StateFiles},
};

/// The device, as jobs use it.
pub type Device = device::Device<DeviceJob>;

/// What a slot of the device needs to know of a job.
#[derive(Debug)]
pub struct DeviceJob {
    pub(super) work: Work,
    pub(super) work_digest: String,
    pub(super) base: OpenedModel,
    /// The model to judge.
    pub(super) edited: Option<OpenedModel>,
    /// Judges beside the base model's own: name and folder.
    pub(super) judges: Vec<(String, PathBuf)>,
    /// Where the base model's judged pictures are kept.
    pub(super) pictures: Option<Arc<dyn PictureCache>>,
    /// Scores that the request cites instead of having them measured again.
    pub(super) cited: Vec<TimestepScores>,
    pub(super) state: StateFiles,
    /// The same in object storage too, where workers share it.
    pub(super) shared_state: Option<SharedStateStore>,
    pub(super) result: ResultFiles,
    /// What makes the result one that others can check, and whose it is.
    pub(super) sealing: Option<Sealing>,
    /// Updates from one save to the next.
    pub(super) save_every: usize,
    /// Least time from one save to the next, where no updates are counted.
    pub(super) save_after: Duration,
    /// Told how far the run has saved.
    pub(super) saved: watch::Sender<Milestone>,
    pub(super) cancel: CancelFlag,
    pub(super) pause: PauseFlag,
    /// Newest wins.
    pub(super) progress: watch::Sender<Option<JobProgress>>,
    /// What became of saved state, and what is odd about the base model.
    pub(super) notices: mpsc::UnboundedSender<Notice>,
}
