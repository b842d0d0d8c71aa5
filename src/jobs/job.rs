//! A job and its life.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Failure, Fence, JobId, JobProgress, Outcome, Principal, RequestId, Sequence, Timestamp, Work,
    WorkerId,
};

/// A stored request to do work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Who asked.
    pub principal: Principal,
    /// The client's own name for the request.
    pub request_id: RequestId,
    /// SHA-256 of the request's body: tells a repeated request from another one with the same id.
    pub request_digest: String,
    /// SHA-256 of base model, spec and engine version: equal for equal work.
    pub work_digest: String,
    /// What to do.
    pub work: Work,
    /// How to treat it.
    pub options: JobOptions,
    /// Where it stands.
    pub state: JobState,
    /// Claims so far that count.
    pub attempt: u32,
    /// Most claims that count.
    pub max_attempts: u32,
    /// Of the newest claim.
    pub fence: Fence,
    /// Who holds it, while it is in work.
    pub lease: Option<Lease>,
    /// Not to be claimed before; set after a failure that a retry may heal.
    pub not_before: Option<Timestamp>,
    /// Whether a cancel was asked for.
    pub cancel_requested: bool,
    /// Newest progress.
    pub progress: Option<JobProgress>,
    /// Of the newest event.
    pub last_sequence: Sequence,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it is forgotten; set once it is done.
    pub expires_at: Option<Timestamp>,
}

/// How a job is treated; no part of the work itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobOptions {
    /// Free pairs of the client's.
    pub labels: BTreeMap<String, String>,
    /// Higher ones are claimed first.
    pub priority: i32,
    /// The job fails when it is not done by then.
    pub deadline: Option<Timestamp>,
    /// W3C trace context of the request.
    pub trace_parent: Option<String>,
}

/// A worker's hold on a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who.
    pub worker: WorkerId,
    /// Until when, unless it is extended.
    pub until: Timestamp,
}

/// A job's life. Terminal states never change again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// A worker loads weights.
    Preparing,
    /// The engine works.
    Running,
    /// Files are uploaded and verified.
    Publishing,
    /// Done.
    Succeeded(Outcome),
    /// Given up.
    Failed(Failure),
    /// A client asked for it.
    Cancelled,
}

impl JobState {
    /// The state without what it holds.
    pub fn name(&self) -> StateName {
        match self {
            Self::Queued => StateName::Queued,
            Self::Preparing => StateName::Preparing,
            Self::Running => StateName::Running,
            Self::Publishing => StateName::Publishing,
            Self::Succeeded(_) => StateName::Succeeded,
            Self::Failed(_) => StateName::Failed,
            Self::Cancelled => StateName::Cancelled,
        }
    }
}

/// A state's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    /// See [`JobState::Queued`].
    Queued,
    /// See [`JobState::Preparing`].
    Preparing,
    /// See [`JobState::Running`].
    Running,
    /// See [`JobState::Publishing`].
    Publishing,
    /// See [`JobState::Succeeded`].
    Succeeded,
    /// See [`JobState::Failed`].
    Failed,
    /// See [`JobState::Cancelled`].
    Cancelled,
}

impl StateName {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Preparing,
        Self::Running,
        Self::Publishing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// As it is stored, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Publishing => "publishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Everything that can happen to a job. Closed on purpose: read this to know the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// A worker took it.
    Claimed {
        /// Who.
        worker: WorkerId,
        /// One more than the job's.
        fence: Fence,
        /// When the hold ends.
        lease_until: Timestamp,
    },
    /// The weights are there.
    Loaded,
    /// The engine is done.
    EngineDone,
    /// The manifest stands.
    Published(Outcome),
    /// The work failed: queued again where a retry may heal it and attempts are left.
    Failed {
        /// Why.
        failure: Failure,
        /// When to try again, where it is tried again.
        retry_at: Timestamp,
    },
    /// The holder saw the wish to cancel, or nobody held the job.
    CancelObserved,
    /// The holder was not heard of in time.
    LeaseExpired,
    /// The holder gives the job back unfinished, since it goes away; the attempt does not count.
    Released,
    /// The job's deadline passed.
    DeadlinePassed,
}
