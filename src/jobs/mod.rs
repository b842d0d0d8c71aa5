//! Jobs that are never lost and never doubled: the state machine, the append-only log, leases and
//! fences, and the stores that keep them. Knows no tensors and no wire.
//!
//! Channels only wake; the log is the truth. A state changes only through [`Job::apply`], under a
//! fence, in one transaction with its event.

mod backend;
mod clock;
mod event;
mod failure;
mod filter;
mod identity;
mod job;
mod machine;
mod memory;
mod progress;
mod sqlite;
mod step;
mod store;
mod turns;
mod work;

pub use backend::Store;
pub use clock::{Clock, Identifiers, Monotonic, ScriptedClock, Timestamp};
pub use event::{EventBody, JobEvent, NewEvent};
pub use failure::{Failure, FailureReason};
pub use filter::{Filter, FilterError};
pub use identity::{Fence, JobId, Milestone, Principal, RequestId, Sequence, WorkerId};
pub use job::{Job, JobOptions, JobState, JobSummary, Lease, PRIORITIES, StateName, Transition};
pub use machine::IllegalTransition;
pub use memory::MemoryStore;
pub use progress::JobProgress;
pub use sqlite::SqliteStore;
pub use step::StoreSettings;
pub use store::{
    Inserted, JobStore, LeaseStatus, ListQuery, NewJob, Page, QueueLimits, ScoresJson, StoreError,
    StoreResult, Swept, WorkerLoss,
};
pub use work::{
    EvaluateSummary, EvaluateWork, Evaluated, Evaluation, Outcome, StoredScores, UnlearnSummary,
    UnlearnWork, Unlearned, Work, WorkSummary,
};
