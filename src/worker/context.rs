//! What all tasks of a worker share.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Device, OutputHealth, Publisher, PublishingSettings, ResultSealer};
use crate::{
    device::ModelProvider,
    jobs::{Clock, Fence, JobId, JobStore, JobSummary, NewEvent, StoreError, WorkerId},
    run::SharedState,
};

/// A job's saved state, below its folder.
pub(super) const STATE: &str = "state";
/// A job's finished result, below its folder.
pub(super) const RESULT: &str = "result";

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Names the worker in leases.
    pub worker_id: WorkerId,
    /// Where saved state and finished results lie until they are published. Of this process alone.
    pub data_dir: PathBuf,
    /// How long a hold on a job lasts without being extended.
    pub lease: Duration,
    /// How often it is extended.
    pub extend_every: Duration,
    /// Updates from one save of a run's state to the next; 0 saves on a drain alone.
    pub save_every: usize,
    /// Least time from one save to the next, where no updates are counted.
    pub save_after: Duration,
    /// Where state is saved as well, for workers with other disks.
    pub shared_state: Option<SharedState>,
    /// Folders of judges by the names that work calls them by.
    pub judges: BTreeMap<String, PathBuf>,
    /// Makes results ones that others can check; without one they are published unsigned.
    pub sealer: Option<Arc<dyn ResultSealer>>,
    /// Wait before a failed job is tried again; doubles with each further failure.
    pub first_backoff: Duration,
    /// Longest such wait.
    pub max_backoff: Duration,
    /// How long a finished result is tried to be published, and how often.
    pub publishing: PublishingSettings,
    /// Least time between two records of progress.
    pub progress_every: Duration,
    /// How often the store is asked for work where nothing wakes the worker.
    pub poll_every: Duration,
    /// How often the store is swept.
    pub sweep_every: Duration,
    /// Whether the last process on this folder was lost while it served a call
    /// ([`crate::device::ServingMark`]): the call may be what killed it, and not the job that it held.
    pub lost_while_serving: bool,
    /// Where the time comes from.
    pub clock: Clock,
}

impl WorkerSettings {
    /// The defaults.
    pub fn new(worker_id: WorkerId, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            worker_id,
            data_dir: data_dir.into(),
            lease: Duration::from_mins(1),
            extend_every: Duration::from_secs(15),
            save_every: 50,
            save_after: Duration::from_secs(2),
            shared_state: None,
            judges: BTreeMap::new(),
            sealer: None,
            first_backoff: Duration::from_secs(5),
            max_backoff: Duration::from_mins(5),
            publishing: PublishingSettings::default(),
            progress_every: Duration::from_millis(250),
            poll_every: Duration::from_secs(1),
            sweep_every: Duration::from_secs(5),
            lost_while_serving: false,
            clock: Clock::System,
        }
    }
}

/// What a worker works with.
#[derive(Debug)]
pub struct WorkerParts<S> {
    /// Where the jobs are.
    pub store: Arc<S>,
    /// What runs them.
    pub device: Device,
    /// Where models come from.
    pub models: Arc<dyn ModelProvider>,
    /// Where results go.
    pub publisher: Arc<dyn Publisher>,
    /// Whether they can go there now; while they cannot, no job is claimed.
    pub outputs: OutputHealth,
    /// Holds every task of the worker.
    pub tracker: TaskTracker,
    /// How the worker is stopped.
    pub signals: WorkerSignals,
}

/// The steps of stopping a worker, each weightier than the one before.
#[derive(Debug, Clone, Default)]
pub struct WorkerSignals {
    /// Take no further job.
    pub stop_claiming: CancellationToken,
    /// Save the job under way and give it back; one that is publishing goes on.
    pub pause_jobs: CancellationToken,
    /// Give back a job that is publishing as well.
    pub stop_publishing: CancellationToken,
}

/// Settings and parts, shared by the worker's tasks.
#[derive(Debug)]
pub(super) struct WorkerContext<S> {
    pub(super) settings: WorkerSettings,
    pub(super) parts: WorkerParts<S>,
}

/// A claimed job, as its holder names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    pub(super) id: JobId,
    pub(super) fence: Fence,
}

/// The hold is lost, or the store is away for longer than the lease: a task that finds this drops what
/// it has and records nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseLost;

impl<S: JobStore> WorkerContext<S> {
    /// Where a job's saved state and result lie.
    pub(super) fn folder(&self, id: JobId) -> PathBuf {
        self.jobs_folder().join(id.to_string())
    }

    pub(super) fn jobs_folder(&self) -> PathBuf {
        self.settings.data_dir.join("jobs")
    }

    /// Records what must be recorded: tries again while the store is away and the lease may hold.
    pub(super) async fn record(
        &self,
        hold: Hold,
        event: NewEvent,
    ) -> Result<JobSummary, LeaseLost> {
        const FIRST_WAIT: Duration = Duration::from_millis(100);
        const LONGEST_WAIT: Duration = Duration::from_secs(5);
        let give_up = tokio::time::Instant::now() + self.settings.lease;
        let mut wait = FIRST_WAIT;
        loop {
            match self.parts.store.record(hold.id, hold.fence, event.clone()).await {
                Ok(job) => return Ok(job),
                Err(StoreError::Backend(message)) if tokio::time::Instant::now() < give_up => {
                    tracing::warn!(job = %hold.id, message, again_in = ?wait, "cannot record");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(error) => {
                    tracing::warn!(job = %hold.id, %error, "the job is given up");
                    return Err(LeaseLost);
                }
            }
        }
    }
}
