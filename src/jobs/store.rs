//! What keeps jobs. One conformance suite runs against every implementation.

use std::{collections::BTreeMap, future::Future, time::Duration};

use tokio::sync::watch;

use super::{
    Fence, Job, JobEvent, JobId, JobOptions, NewEvent, Principal, RequestId, Sequence, StateName,
    Timestamp, Work, WorkerId,
};

/// Where jobs live. Every method is one transaction; a sweep is one for every few jobs.
pub trait JobStore: Send + Sync {
    /// Stores a job with its first event, or gives the one that the same request made before.
    fn insert(
        &self,
        job: NewJob,
        limits: QueueLimits,
    ) -> impl Future<Output = Result<Inserted, StoreError>> + Send;

    /// One job.
    fn get(&self, id: JobId) -> impl Future<Output = Result<Option<Job>, StoreError>> + Send;

    /// The job that a principal's request made before, if it did.
    fn find_request(
        &self,
        principal: &Principal,
        request_id: RequestId,
    ) -> impl Future<Output = Result<Option<Job>, StoreError>> + Send;

    /// Jobs, newest first.
    fn list(&self, query: &ListQuery) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// The newest finished job of a principal that did the same work and succeeded.
    fn find_finished(
        &self,
        principal: &Principal,
        work_digest: &str,
    ) -> impl Future<Output = Result<Option<Job>, StoreError>> + Send;

    /// Takes the queued job of the highest priority, the oldest among equals; the claim's event is
    /// stored with it.
    fn claim(
        &self,
        worker: &WorkerId,
        lease: Duration,
    ) -> impl Future<Output = Result<Option<Job>, StoreError>> + Send;

    /// Prolongs a hold and tells what the holder must know.
    fn extend(
        &self,
        id: JobId,
        fence: Fence,
        lease: Duration,
    ) -> impl Future<Output = Result<LeaseStatus, StoreError>> + Send;

    /// Appends to the log and moves the job on; refused with [`StoreError::FenceIsOld`] where
    /// another claim came after.
    fn record(
        &self,
        id: JobId,
        fence: Fence,
        event: NewEvent,
    ) -> impl Future<Output = Result<Job, StoreError>> + Send;

    /// A piece of the log.
    fn events_after(
        &self,
        id: JobId,
        after: Sequence,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<JobEvent>, StoreError>> + Send;

    /// Asks for a cancel: at once where nobody holds the job, else seen by the holder's next
    /// [`JobStore::extend`]. Of a job that is done, nothing changes.
    fn request_cancel(&self, id: JobId) -> impl Future<Output = Result<Job, StoreError>> + Send;

    /// Forgets a job that is done.
    fn delete(&self, id: JobId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What time alone brings about: expired leases, passed deadlines, ended retention.
    fn sweep(&self) -> impl Future<Output = Result<Swept, StoreError>> + Send;

    /// Ends every hold of a worker whose process is known to be gone, without waiting for its
    /// leases; gives the jobs.
    fn expire_worker(
        &self,
        worker: &WorkerId,
    ) -> impl Future<Output = Result<Vec<JobId>, StoreError>> + Send;

    /// Jobs that will be claimed before this one.
    fn queue_position(&self, id: JobId) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// The same of several jobs at once, for a page of a list; those that do not wait are left out.
    fn queue_positions(
        &self,
        ids: &[JobId],
    ) -> impl Future<Output = Result<BTreeMap<JobId, u64>, StoreError>> + Send;

    /// Jobs by state.
    fn counts(&self) -> impl Future<Output = Result<BTreeMap<StateName, u64>, StoreError>> + Send;

    /// Keeps scores under their digest, so that a later request can cite them.
    fn put_scores(
        &self,
        principal: &Principal,
        digest: &str,
        scores_json: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Scores that the principal measured.
    fn get_scores(
        &self,
        principal: &Principal,
        digest: &str,
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send;

    /// Writes, reads back and compares: whether the store works.
    fn probe(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Changes whenever anything was stored; only wakes, the store is the truth.
    fn subscribe(&self) -> watch::Receiver<u64>;
}

/// A request that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Who asks.
    pub principal: Principal,
    /// The client's name for it.
    pub request_id: RequestId,
    /// SHA-256 of its body.
    pub request_digest: String,
    /// SHA-256 of base model, spec and engine version.
    pub work_digest: String,
    /// What to do.
    pub work: Work,
    /// How to treat it.
    pub options: JobOptions,
    /// Most claims that count.
    pub max_attempts: u32,
}

/// How many jobs may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Of everybody.
    pub total: u64,
    /// Of the principal who asks.
    pub of_principal: u64,
}

/// What became of an insert.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// A new job.
    Created(Box<Job>),
    /// The job that this request made before.
    Existing(Box<Job>),
}

/// What a holder must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Whether to stop.
    pub cancel_requested: bool,
    /// When the job fails if it is not done.
    pub deadline: Option<Timestamp>,
}

/// Which jobs to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListQuery {
    /// Of whom; `None` lists everybody's.
    pub principal: Option<Principal>,
    /// In one of these states; empty means any.
    pub states: Vec<StateName>,
    /// "unlearn" or "evaluate".
    pub kind: Option<String>,
    /// With these labels.
    pub labels: BTreeMap<String, String>,
    /// On this base model.
    pub base_model: Option<String>,
    /// Older than this job.
    pub before: Option<JobId>,
    /// Most jobs; at least 1 and at most 1,000 are given, whatever stands here.
    pub limit: u32,
}

/// A piece of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Newest first.
    pub jobs: Vec<Job>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<JobId>,
}

/// What a sweep did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Jobs whose holder was lost, now queued again or failed.
    pub expired_leases: Vec<JobId>,
    /// Jobs that ran out of time.
    pub missed_deadlines: Vec<JobId>,
    /// Jobs that were forgotten: what they left on disk can go.
    pub forgotten: Vec<JobId>,
}

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such job.
    #[error("there is no operation {0}")]
    NotFound(JobId),
    /// The request's id was used for another request.
    #[error(
        "request id {request_id:?} was used before for another request (operation {existing}); make a new id"
    )]
    RequestIdReused {
        /// The id.
        request_id: RequestId,
        /// What it made.
        existing: JobId,
    },
    /// Too many jobs wait.
    #[error("{queued} jobs are queued, the limit is {limit}; try again later")]
    QueueFull {
        /// Jobs that wait.
        queued: u64,
        /// The limit that was hit.
        limit: u64,
        /// Whether it is the principal's own limit.
        of_principal: bool,
    },
    /// Another claim came after: the holder must drop its result.
    #[error(
        "the hold on {id} under fence {} is lost (the newest claim has {}); drop the result",
        given.0, current.0
    )]
    FenceIsOld {
        /// The job.
        id: JobId,
        /// The caller's.
        given: Fence,
        /// The job's.
        current: Fence,
    },
    /// This cannot happen to a job in that state.
    #[error("operation {id} is {state:?}: {what}")]
    IllegalTransition {
        /// The job.
        id: JobId,
        /// Where it stands.
        state: StateName,
        /// What was tried, and what would do.
        what: String,
    },
    /// The database is away or damaged.
    #[error("the job store failed: {0}")]
    Backend(String),
}
