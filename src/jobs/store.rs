//! What keeps jobs. One conformance suite runs against every implementation.

use std::{collections::BTreeMap, future::Future, time::Duration};

use tokio::sync::watch;

use super::{
    Fence, Job, JobEvent, JobId, JobOptions, JobSummary, Milestone, NewEvent, Principal, RequestId,
    Sequence, StateName, Timestamp, Work, WorkerId,
};

/// What is known of how a worker's process was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerLoss {
    /// Nothing: a job that it held may be why, and counts the loss.
    Unexplained,
    /// It served a call, which may be why: the jobs that it held are given back as they were.
    BesideCall,
}

/// Where jobs live. Every method is one transaction; a sweep is one for every few jobs.
pub trait JobStore: Send + Sync {
    /// Stores a job with its first event, or gives the one that the same request made before.
    fn insert(
        &self,
        job: NewJob,
        limits: QueueLimits,
    ) -> impl Future<Output = StoreResult<Inserted>> + Send;

    /// One job.
    fn get(&self, id: JobId) -> impl Future<Output = StoreResult<Option<JobSummary>>> + Send;

    /// One job with its whole request; `None` also where that is gone, since the job was done with
    /// before anybody claimed it.
    fn get_whole(&self, id: JobId) -> impl Future<Output = StoreResult<Option<Job>>> + Send;

    /// The job that a principal's request made before, if it did.
    fn find_request(
        &self,
        principal: &Principal,
        request_id: RequestId,
    ) -> impl Future<Output = StoreResult<Option<JobSummary>>> + Send;

    /// Jobs, newest first. A page may hold fewer than were asked for, where they are long.
    fn list(&self, query: &ListQuery) -> impl Future<Output = StoreResult<Page>> + Send;

    /// The newest finished job of a principal that did the same work and succeeded.
    fn find_finished(
        &self,
        principal: &Principal,
        work_digest: &str,
    ) -> impl Future<Output = StoreResult<Option<JobSummary>>> + Send;

    /// Takes a job whose finished result waits to be published again, else the queued job of the
    /// highest priority; among equals the principals take turns, and of one principal the oldest job
    /// comes first. The claim's event is stored with it.
    fn claim(
        &self,
        worker: &WorkerId,
        lease: Duration,
    ) -> impl Future<Output = StoreResult<Option<Job>>> + Send;

    /// Prolongs a hold and tells what the holder must know.
    fn extend(
        &self,
        id: JobId,
        fence: Fence,
        lease: Duration,
    ) -> impl Future<Output = StoreResult<LeaseStatus>> + Send;

    /// Appends to the log and moves the job on; refused with [`StoreError::FenceIsOld`] where
    /// another claim came after.
    fn record(
        &self,
        id: JobId,
        fence: Fence,
        event: NewEvent,
    ) -> impl Future<Output = StoreResult<JobSummary>> + Send;

    /// Notes that the holder has saved its work as far as this; changes nothing where that is no
    /// further than before. Refused as [`JobStore::record`] is.
    fn note_saved(
        &self,
        id: JobId,
        fence: Fence,
        milestone: Milestone,
    ) -> impl Future<Output = StoreResult<()>> + Send;

    /// A piece of the log.
    fn events_after(
        &self,
        id: JobId,
        after: Sequence,
        limit: u32,
    ) -> impl Future<Output = StoreResult<Vec<JobEvent>>> + Send;

    /// Asks for a cancel: at once where nobody holds the job, else seen by the holder's next
    /// [`JobStore::extend`]. Of a job that is done, nothing changes.
    fn request_cancel(&self, id: JobId) -> impl Future<Output = StoreResult<JobSummary>> + Send;

    /// Asks for the publication of a result that is finished and could not be published. Of a job
    /// that is under way or has succeeded, nothing changes; refused with
    /// [`StoreError::ResultNotKept`] where there is no such result.
    fn publish_again(&self, id: JobId) -> impl Future<Output = StoreResult<JobSummary>> + Send;

    /// Forgets a job that is done.
    fn delete(&self, id: JobId) -> impl Future<Output = StoreResult<()>> + Send;

    /// What time alone brings about: expired leases, passed deadlines, ended retention. No lease of
    /// a worker that is known to be `alive` expires: it is the worker's to give back, by
    /// [`JobStore::expire_worker`].
    fn sweep(&self, alive: Option<&WorkerId>) -> impl Future<Output = StoreResult<Swept>> + Send;

    /// Ends, without waiting for leases, every hold of a worker but those on jobs that are worked on
    /// under its name; gives the jobs. Of a worker whose process is known to be gone, that is all.
    fn expire_worker(
        &self,
        worker: &WorkerId,
        worked_on: &[JobId],
        loss: WorkerLoss,
    ) -> impl Future<Output = StoreResult<Vec<JobId>>> + Send;

    /// Jobs that will be claimed before this one.
    fn queue_position(&self, id: JobId) -> impl Future<Output = StoreResult<u64>> + Send;

    /// The same of several jobs at once, for a page of a list; those that do not wait are left out.
    fn queue_positions(
        &self,
        ids: &[JobId],
    ) -> impl Future<Output = StoreResult<BTreeMap<JobId, u64>>> + Send;

    /// Jobs by state.
    fn counts(&self) -> impl Future<Output = StoreResult<BTreeMap<StateName, u64>>> + Send;

    /// Keeps scores under their digest, so that a later request can cite them; refused where more
    /// than `most_bytes` would be stored for the principal.
    fn put_scores(
        &self,
        principal: &Principal,
        scores: ScoresJson<'_>,
        most_bytes: u64,
    ) -> impl Future<Output = StoreResult<()>> + Send;

    /// Scores that the principal measured.
    fn get_scores(
        &self,
        principal: &Principal,
        digest: &str,
    ) -> impl Future<Output = StoreResult<Option<String>>> + Send;

    /// Writes, reads back and compares: whether the store works.
    fn probe(&self) -> impl Future<Output = StoreResult<()>> + Send;

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

/// Scores on their way into a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoresJson<'a> {
    /// By which they are cited.
    pub digest: &'a str,
    /// What is kept.
    pub json: &'a str,
}

/// How many jobs may wait, and how much may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Jobs of everybody that wait.
    pub total: u64,
    /// Jobs of the principal who asks that wait.
    pub of_principal: u64,
    /// Bytes of the principal's jobs and scores, done or not.
    pub stored_bytes: u64,
}

/// What became of an insert.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// A new job.
    Created(Box<JobSummary>),
    /// The job that this request made before.
    Existing(Box<JobSummary>),
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
    pub jobs: Vec<JobSummary>,
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

/// What a store answers.
pub type StoreResult<T> = Result<T, StoreError>;

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
    /// Too much is stored for the principal.
    #[error(
        "{stored} bytes are stored for the caller, {adds} more would exceed the limit of {limit} \
         (limits.stored_bytes_of_principal); delete operations that are done"
    )]
    PrincipalStorageFull {
        /// Bytes of the principal's jobs and scores.
        stored: u64,
        /// Bytes that were to come.
        adds: u64,
        /// Most bytes.
        limit: u64,
    },
    /// The query costs too much.
    #[error(
        "the list took longer than the {limit:?} that a list may take; ask for less: fewer labels, \
         one state, or a smaller page"
    )]
    QueryTooLong {
        /// The longest that a list may be looked for.
        limit: Duration,
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
    /// There is nothing that could be published.
    #[error("operation {id} is {state:?} and has no finished result that is kept; submit it again")]
    ResultNotKept {
        /// The job.
        id: JobId,
        /// Where it stands.
        state: StateName,
    },
    /// The database is away or damaged.
    #[error("the job store failed: {0}")]
    Backend(String),
}
