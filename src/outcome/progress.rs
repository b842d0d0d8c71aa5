//! What a job reports on its way: how far it is, and what is worth knowing.

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
    /// Attacking an edited model; units are thousandths of the attacks' budgets and their controls'.
    Attack,
    /// Sending files to object storage, after the engine's part; units are bytes.
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

/// What stops no run and is worth knowing: what became of saved state, for a log, since the result is
/// the same either way; and what is odd about the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something about the base model's folder is read otherwise than it stands there, or not at all.
    OddModel {
        /// What, in words.
        warning: String,
    },
    /// Training goes on from saved state.
    Resumed {
        /// The update that comes next, from 0.
        update: usize,
    },
    /// Saved state was found and cannot be used; what it holds is computed anew.
    StateIgnored {
        /// The part's file.
        file: &'static str,
        /// What was wrong with it.
        reason: String,
    },
    /// State could not be saved; the run goes on.
    StateNotSaved {
        /// The part's file.
        file: &'static str,
        /// What was wrong with it.
        reason: String,
    },
}

impl Notice {
    /// A short name, for machines to sort by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OddModel { .. } => "odd_model",
            Self::Resumed { .. } => "resumed",
            Self::StateIgnored { .. } => "state_ignored",
            Self::StateNotSaved { .. } => "state_not_saved",
        }
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OddModel { warning } => f.write_str(warning),
            Self::Resumed { update } => write!(f, "training goes on at update {update}"),
            Self::StateIgnored { file, reason } => {
                write!(f, "the saved {file} is not used, what it holds is computed anew: {reason}")
            }
            Self::StateNotSaved { file, reason } => {
                write!(f, "{file} was not saved, the run goes on: {reason}")
            }
        }
    }
}
