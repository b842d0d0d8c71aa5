//! Calls that are bound to their caller: `Generate`, `ScoreTimesteps` and plans. They are not
//! stored; they wait in a small bounded queue, are served by a free slot or between two updates of
//! a slot's job, and end when the caller goes away.

use std::{num::NonZeroUsize, time::Duration};

use tokio::sync::mpsc;

use crate::{
    engine::CancelFlag,
    jobs::Failure,
    outcome::{Drawn, Progress, TimestepScores},
    spec::{GenerateSpec, ScoreSpec, UnlearnSpec},
};

/// What a caller asks of the device.
#[derive(Debug, Clone, PartialEq)]
pub enum InteractiveCall {
    /// Draw pictures.
    Generate {
        /// Name in the catalogue.
        model: String,
        /// What to draw.
        spec: GenerateSpec,
        /// Send previews every so many steps.
        preview_every: Option<NonZeroUsize>,
    },
    /// Score the steps of a concept.
    Score {
        /// Name in the catalogue.
        model: String,
        /// What to measure.
        spec: Box<ScoreSpec>,
    },
    /// Say what an erasure would take, without doing it.
    Plan {
        /// Name in the catalogue.
        base_model: String,
        /// What would be asked.
        spec: Box<UnlearnSpec>,
    },
}

/// What a call's stream brings, in order; it ends after the last one.
#[derive(Debug, Clone, PartialEq)]
pub enum InteractiveUpdate {
    /// Calls that must end before this one begins.
    Position(usize),
    /// The engine advanced.
    Progress(Progress),
    /// A picture, finished or not.
    Drawn(Drawn),
    /// The scores.
    Scores(Box<TimestepScores>),
    /// The plan.
    Plan(PlanEstimate),
}

/// What an erasure would take.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanEstimate {
    /// Updates at most.
    pub updates: usize,
    /// U-Net evaluations, scoring and checks included.
    pub unet_evaluations: u64,
    /// Device memory at the peak.
    pub memory_bytes: u64,
    /// From the rate that this device was seen to reach; `None` until it was.
    pub estimated_duration: Option<Duration>,
    /// Trained parameters.
    pub trainable_parameters: u64,
    /// Trained tensors.
    pub trainable_tensors: usize,
    /// What the plan assumes.
    pub assumptions: Vec<String>,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} calls{} wait for the device, the limit is {limit}; try again in {} s", scope.words(), retry_after.as_secs())]
pub struct InteractiveQueueFull {
    /// Calls that wait.
    pub waiting: usize,
    /// Which calls are counted.
    pub scope: QueueScope,
    /// How many may wait.
    pub limit: usize,
    /// An estimate of when there is room.
    pub retry_after: Duration,
}

/// Which calls a limit of the queue counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueScope {
    /// Those of all callers.
    AllCallers,
    /// This caller's own.
    OneCaller,
}

impl QueueScope {
    fn words(self) -> &'static str {
        match self {
            Self::AllCallers => "",
            Self::OneCaller => " of this caller",
        }
    }
}

/// A call under way. Dropping it cancels the work within one step.
#[derive(Debug)]
pub struct InteractiveStream {
    pub(super) updates: mpsc::Receiver<Result<InteractiveUpdate, Failure>>,
    pub(super) cancel: CancelFlag,
}

impl InteractiveStream {
    /// The next update; `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<InteractiveUpdate, Failure>> {
        self.updates.recv().await
    }
}

impl Drop for InteractiveStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
