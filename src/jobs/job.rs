//! A job and its life.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::{
    Failure, Fence, JobId, JobProgress, Milestone, Outcome, Principal, RequestId, Sequence,
    Timestamp, Work, WorkSummary, WorkerId,
};

/// A job without the bulk of its request: what lists show, and all that its life depends on.
pub type JobSummary = Job<WorkSummary>;

/// A stored request to do work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job<W = Work> {
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
    pub work: W,
    /// How to treat it.
    pub options: JobOptions,
    /// Where it stands.
    pub state: JobState,
    /// Claims so far that count: of those that ended, the ones that failed.
    pub attempt: u32,
    /// Most claims that count, and most losses in a row.
    pub max_attempts: u32,
    /// Workers that were lost in a row before one of them saved anything new.
    pub losses: u32,
    /// The furthest that any claim has saved.
    pub milestone: Milestone,
    /// Whether the newest claim has come further than any before it.
    pub advanced: bool,
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

impl<W> Job<W> {
    /// The same job with its work in another form.
    pub fn with_work<V>(self, work: V) -> Job<V> {
        Job {
            id: self.id,
            principal: self.principal,
            request_id: self.request_id,
            request_digest: self.request_digest,
            work_digest: self.work_digest,
            work,
            options: self.options,
            state: self.state,
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            losses: self.losses,
            milestone: self.milestone,
            advanced: self.advanced,
            fence: self.fence,
            lease: self.lease,
            not_before: self.not_before,
            cancel_requested: self.cancel_requested,
            progress: self.progress,
            last_sequence: self.last_sequence,
            created_at: self.created_at,
            updated_at: self.updated_at,
            expires_at: self.expires_at,
        }
    }
}

impl Job {
    /// Without the bulk of its request.
    pub fn summary(&self) -> JobSummary {
        self.clone().with_work(self.work.summary())
    }
}

/// Priorities that a job may have.
pub const PRIORITIES: RangeInclusive<i32> = -100..=100;

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
    /// The worker that holds it.
    pub worker: WorkerId,
    /// Until when, unless it is extended.
    pub until: Timestamp,
}

/// A job's life. Terminal states never change again, but that a failed job's finished result, while
/// it is kept, may be published again.
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
#[derive(strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
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
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// As it is stored, in lower case.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it is done: nothing but [`Transition::PublishAgain`] changes it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Everything that can happen to a job. Closed on purpose: read this to know the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Transition {
    /// A worker took it.
    Claimed {
        /// The worker that holds it.
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
        /// What went wrong.
        failure: Failure,
        /// When to try again, where it is tried again.
        retry_at: Timestamp,
    },
    /// The result is finished, and the output failed for as long as it is tried: the job fails, and
    /// its result is kept.
    Unpublished {
        /// What went wrong.
        failure: Failure,
    },
    /// A client wants a failed job's result, which is kept, to be published. The job's deadline,
    /// which may have passed, holds no more.
    PublishAgain,
    /// The holder saw the wish to cancel, or nobody held the job.
    CancelObserved,
    /// The holder was not heard of in time.
    LeaseExpired,
    /// The holder gives the job back unfinished, since it goes away; the attempt does not count.
    Released,
    /// The job's deadline passed.
    DeadlinePassed,
}
