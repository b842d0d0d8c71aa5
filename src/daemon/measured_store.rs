//! The worker's view of the job store: passes every call on and records metrics of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    jobs::{
        Clock, Fence, Inserted, Job, JobEvent, JobId, JobState, JobStore, JobSummary, LeaseStatus,
        ListQuery, Milestone, NewEvent, NewJob, Page, Principal, QueueLimits, RequestId,
        ScoresJson, Sequence, StateName, StoreError, StoreResult, Swept, WorkerId, WorkerLoss,
    },
    telemetry,
};

/// A store that measures its worker by what it claims and records.
#[derive(Debug)]
pub(super) struct MeasuredStore<S> {
    inner: Arc<S>,
    clock: Clock,
    jobs: Mutex<HashMap<JobId, MeasuredJob>>,
}

/// A job that this worker holds, as far as its metrics need it.
#[derive(Debug, Clone, Copy)]
struct MeasuredJob {
    state: StateName,
    since: Instant,
    /// Updates that were reported, and when.
    updates: (u32, Instant),
}

impl<S: JobStore> MeasuredStore<S> {
    pub(super) fn new(inner: Arc<S>, clock: Clock) -> Self {
        Self { inner, clock, jobs: Mutex::default() }
    }

    fn claimed(&self, job: &Job) {
        if job.fence == Fence(1) {
            telemetry::queue_waited(self.clock.now().since(job.created_at));
        }
        let now = Instant::now();
        // What an earlier attempt made is not made again by being claimed.
        let done = job.progress.map_or(0, |progress| progress.updates_done);
        let measured = MeasuredJob { state: job.state.name(), since: now, updates: (done, now) };
        self.with_jobs(|jobs| jobs.insert(job.id, measured));
    }

    fn recorded(&self, job: &JobSummary) {
        let now = Instant::now();
        self.with_jobs(|jobs| {
            let Some(measured) = jobs.get_mut(&job.id) else { return };
            if let Some(progress) = job.progress {
                let (before, since) = measured.updates;
                // Fewer than before: the state that was saved is older.
                let made = progress.updates_done.saturating_sub(before);
                if made > 0 {
                    telemetry::iterations(made.into(), now - since);
                    telemetry::loss(progress.loss);
                }
                // The time before the first update belongs to no update.
                measured.updates = (progress.updates_done, now);
            }
            let state = job.state.name();
            if state != measured.state {
                telemetry::job_phase_finished(
                    measured.state.name(),
                    state.name(),
                    now - measured.since,
                );
                (measured.state, measured.since) = (state, now);
            }
            if state.is_terminal() || state == StateName::Queued {
                jobs.remove(&job.id);
            }
        });
        if let JobState::Succeeded(outcome) = &job.state {
            let files = &outcome.published().files;
            telemetry::artifact_bytes(files.iter().map(|file| file.size).sum());
        }
    }

    fn refused(&self, id: JobId, error: &StoreError) {
        if matches!(error, StoreError::FenceIsOld { .. }) && self.dropped(id) {
            telemetry::lease_lost(1);
        }
    }

    /// Forgets a job, and returns whether this worker held it.
    fn dropped(&self, id: JobId) -> bool {
        self.with_jobs(|jobs| jobs.remove(&id)).is_some()
    }

    fn with_jobs<T>(&self, change: impl FnOnce(&mut HashMap<JobId, MeasuredJob>) -> T) -> T {
        // Figures of a job are whole after any panic.
        change(&mut self.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts failures of the store itself.
fn counted<T>(result: StoreResult<T>) -> StoreResult<T> {
    if let Err(error) = &result {
        telemetry::store_failed(match error {
            StoreError::Backend(_) => "backend",
            StoreError::FenceIsOld { .. } => "fence_is_old",
            StoreError::IllegalTransition { .. } => "illegal_transition",
            StoreError::NotFound(_) => "not_found",
            StoreError::QueueFull { .. } => "queue_full",
            StoreError::RequestIdReused { .. } => "request_id_reused",
            StoreError::ResultNotKept { .. } => "result_not_kept",
            StoreError::PrincipalStorageFull { .. } => "principal_storage_full",
            StoreError::QueryTooLong { .. } => "query_too_long",
        });
    }
    result
}

macro_rules! pass_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $output:ty;)*) => {
        $(async fn $name(&self, $($argument: $kind),*) -> StoreResult<$output> {
            counted(self.inner.$name($($argument),*).await)
        })*
    };
}

impl<S: JobStore> JobStore for MeasuredStore<S> {
    pass_on! {
        insert(job: NewJob, limits: QueueLimits) -> Inserted;
        get(id: JobId) -> Option<JobSummary>;
        get_whole(id: JobId) -> Option<Job>;
        find_request(principal: &Principal, request_id: RequestId) -> Option<JobSummary>;
        expire_worker(worker: &WorkerId, worked_on: &[JobId], loss: WorkerLoss) -> Vec<JobId>;
        list(query: &ListQuery) -> Page;
        find_finished(principal: &Principal, work_digest: &str) -> Option<JobSummary>;
        events_after(id: JobId, after: Sequence, limit: u32) -> Vec<JobEvent>;
        request_cancel(id: JobId) -> JobSummary;
        publish_again(id: JobId) -> JobSummary;
        delete(id: JobId) -> ();
        queue_position(id: JobId) -> u64;
        queue_positions(ids: &[JobId]) -> BTreeMap<JobId, u64>;
        counts() -> BTreeMap<StateName, u64>;
        put_scores(principal: &Principal, scores: ScoresJson<'_>, most_bytes: u64) -> ();
        get_scores(principal: &Principal, digest: &str) -> Option<String>;
        note_saved(id: JobId, fence: Fence, milestone: Milestone) -> ();
        probe() -> ();
    }

    async fn claim(&self, worker: &WorkerId, lease: Duration) -> StoreResult<Option<Job>> {
        let claimed = counted(self.inner.claim(worker, lease).await)?;
        if let Some(job) = &claimed {
            self.claimed(job);
        }
        Ok(claimed)
    }

    async fn extend(&self, id: JobId, fence: Fence, lease: Duration) -> StoreResult<LeaseStatus> {
        let extended = counted(self.inner.extend(id, fence, lease).await);
        extended.inspect_err(|error| self.refused(id, error))
    }

    async fn record(&self, id: JobId, fence: Fence, event: NewEvent) -> StoreResult<JobSummary> {
        let recorded = counted(self.inner.record(id, fence, event).await);
        recorded.inspect(|job| self.recorded(job)).inspect_err(|error| self.refused(id, error))
    }

    async fn sweep(&self, alive: Option<&WorkerId>) -> StoreResult<Swept> {
        let swept = counted(self.inner.sweep(alive).await)?;
        // An expired lease is counted once, whether the worker or the sweep notices it.
        let lost = swept.expired_leases.len() as u64;
        for id in &swept.expired_leases {
            self.dropped(*id);
        }
        if lost > 0 {
            telemetry::lease_lost(lost);
        }
        Ok(swept)
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.subscribe()
    }
}
