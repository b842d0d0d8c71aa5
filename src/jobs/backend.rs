//! `Store`: all job stores as one enum, so that callers need neither generics nor boxed futures.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::watch;

use super::{
    Fence, Inserted, Job, JobEvent, JobId, JobStore, JobSummary, LeaseStatus, ListQuery,
    MemoryStore, Milestone, NewEvent, NewJob, Page, Principal, QueueLimits, RequestId, ScoresJson,
    Sequence, SqliteStore, StateName, StoreResult, Swept, WorkerId, WorkerLoss,
};

/// Where this process keeps its jobs.
#[derive(Debug)]
pub enum Store {
    /// Lost with the process.
    Memory(MemoryStore),
    /// In one file of this machine.
    Sqlite(SqliteStore),
}

impl Store {
    /// Waits for what is under way and closes files; later calls fail.
    pub async fn close(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Sqlite(store) => store.close().await,
        }
    }
}

impl From<MemoryStore> for Store {
    fn from(store: MemoryStore) -> Self {
        Self::Memory(store)
    }
}

impl From<SqliteStore> for Store {
    fn from(store: SqliteStore) -> Self {
        Self::Sqlite(store)
    }
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $output:ty;)*) => {
        impl JobStore for Store {
            $(async fn $name(&self, $($argument: $kind),*) -> StoreResult<$output> {
                match self {
                    Self::Memory(store) => store.$name($($argument),*).await,
                    Self::Sqlite(store) => store.$name($($argument),*).await,
                }
            })*

            fn subscribe(&self) -> watch::Receiver<u64> {
                match self {
                    Self::Memory(store) => store.subscribe(),
                    Self::Sqlite(store) => store.subscribe(),
                }
            }
        }
    };
}

delegate! {
    insert(job: NewJob, limits: QueueLimits) -> Inserted;
    get(id: JobId) -> Option<JobSummary>;
    get_whole(id: JobId) -> Option<Job>;
    find_request(principal: &Principal, request_id: RequestId) -> Option<JobSummary>;
    list(query: &ListQuery) -> Page;
    find_finished(principal: &Principal, work_digest: &str) -> Option<JobSummary>;
    claim(worker: &WorkerId, lease: Duration) -> Option<Job>;
    extend(id: JobId, fence: Fence, lease: Duration) -> LeaseStatus;
    record(id: JobId, fence: Fence, event: NewEvent) -> JobSummary;
    note_saved(id: JobId, fence: Fence, milestone: Milestone) -> ();
    events_after(id: JobId, after: Sequence, limit: u32) -> Vec<JobEvent>;
    request_cancel(id: JobId) -> JobSummary;
    publish_again(id: JobId) -> JobSummary;
    delete(id: JobId) -> ();
    sweep(alive: Option<&WorkerId>) -> Swept;
    expire_worker(worker: &WorkerId, worked_on: &[JobId], loss: WorkerLoss) -> Vec<JobId>;
    queue_position(id: JobId) -> u64;
    queue_positions(ids: &[JobId]) -> BTreeMap<JobId, u64>;
    counts() -> BTreeMap<StateName, u64>;
    put_scores(principal: &Principal, scores: ScoresJson<'_>, most_bytes: u64) -> ();
    get_scores(principal: &Principal, digest: &str) -> Option<String>;
    probe() -> ();
}
