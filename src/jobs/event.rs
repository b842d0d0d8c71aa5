//! A job's append-only log.

use serde::{Deserialize, Serialize};

use super::{Failure, JobProgress, Sequence, StateName, Timestamp, Transition};

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// From 1, without gaps.
    pub sequence: Sequence,
    /// When it was stored.
    pub recorded_at: Timestamp,
    /// What happened.
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventBody {
    /// The job entered another state. The first event of every job.
    StateChanged {
        /// The new state.
        state: StateName,
        /// Which try this is, from 1; 0 before the first.
        attempt: u32,
        /// Why it failed, or why it went back into the queue.
        failure: Option<Failure>,
    },
    /// The engine advanced.
    Progress(JobProgress),
    /// Something worth knowing that did not stop the job.
    Warning {
        /// Stable, in `UPPER_SNAKE_CASE`.
        reason: String,
        /// English, for a developer.
        message: String,
    },
}

/// What a worker records.
#[derive(Debug, Clone, PartialEq)]
pub enum NewEvent {
    /// The job moves on.
    Transition(Transition),
    /// The engine advanced.
    Progress(JobProgress),
    /// Something worth knowing.
    Warning {
        /// Stable, in `UPPER_SNAKE_CASE`.
        reason: &'static str,
        /// English, for a developer.
        message: String,
    },
}
