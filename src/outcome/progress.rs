//! How far a job has come.

use serde::{Deserialize, Serialize};

use super::UpdateRecord;

/// A part of a job, for progress bars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Walking trajectories and comparing predictions.
    #[default]
    Score,
    /// Sampling the switch curve.
    SwitchCurve,
    /// Walking the frozen model's trajectories that training reads.
    Walk,
    /// Optimising.
    Train,
    /// Denoising pictures.
    Draw,
    /// Naming what the pictures show.
    Judge,
    /// Sending files to object storage; units are bytes. Jobs alone do so, the engine never.
    Upload,
}

/// One report of a running job.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Units done, at most `total`.
    pub done: usize,
    /// Units in all; may shrink when a run stops early.
    pub total: usize,
    /// What the latest update measured, while training.
    pub update: Option<UpdateRecord>,
}
