//! A running job, as all parts of its run share it, and the list of jobs that the worker works on.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    DeviceJob,
    context::{Hold, WorkerContext},
    stop::StopSignal,
};
use crate::{
    device::JobSlot,
    jobs::{Failure, Job, JobId, JobProgress, JobStore, NewEvent, Timestamp},
};

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerState {
    /// Works on these jobs, and claims more where slots are free.
    Working(BTreeSet<JobId>),
    /// Takes no more and has none.
    Stopped,
}

impl WorkerState {
    pub(super) fn jobs(&self) -> BTreeSet<JobId> {
        match self {
            Self::Working(jobs) => jobs.clone(),
            Self::Stopped => BTreeSet::new(),
        }
    }
}

/// Lists a job among those that the worker works on, until it is dropped.
pub(super) struct ListedJob {
    state: Arc<watch::Sender<WorkerState>>,
    id: JobId,
}

impl ListedJob {
    pub(super) fn new(state: &Arc<watch::Sender<WorkerState>>, id: JobId) -> Self {
        let listed = Self { state: state.clone(), id };
        listed.change(|jobs| jobs.insert(id));
        listed
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<JobId>) -> bool) {
        self.state.send_if_modified(|state| match state {
            WorkerState::Working(jobs) => change(jobs),
            WorkerState::Stopped => false,
        });
    }
}

impl Drop for ListedJob {
    fn drop(&mut self) {
        self.change(|jobs| jobs.remove(&self.id));
    }
}

/// Why a job does not go on.
pub(super) enum Halt {
    /// It failed.
    Failed(Failure),
    /// Its result is finished, and the output failed for as long as it is tried.
    Unpublished(Failure),
    /// It is not to go on: the stop signal says why.
    Stopped,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A job under way.
pub(super) struct Running<S> {
    pub(super) context: Arc<WorkerContext<S>>,
    pub(super) job: Job,
    pub(super) hold: Hold,
    /// Dropped before the slot, so that the next job is claimed only once this one's end is seen.
    _listed: ListedJob,
    /// Where the engine's part is done; this job's own to the end.
    pub(super) slot: JobSlot<DeviceJob>,
    pub(super) stop: StopSignal,
    pub(super) claimed_at: Timestamp,
}

impl<S: JobStore + 'static> Running<S> {
    pub(super) fn new(
        context: Arc<WorkerContext<S>>,
        job: Job,
        listed: ListedJob,
        slot: JobSlot<DeviceJob>,
    ) -> Self {
        let hold = Hold { id: job.id, fence: job.fence };
        let claimed_at = context.settings.clock.now();
        Self { context, job, hold, _listed: listed, slot, stop: StopSignal::new(), claimed_at }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.context.folder(self.job.id)
    }

    /// Records progress as it comes, the newest where it comes too fast, the last in any case.
    pub(super) async fn record_progress(
        &self,
        mut reports: watch::Receiver<Option<JobProgress>>,
        done: &CancellationToken,
    ) {
        loop {
            tokio::select! {
                biased;
                changed = reports.changed() => if changed.is_err() { return },
                () = done.cancelled() => return,
            }
            let Some(progress) = *reports.borrow_and_update() else { continue };
            let event = NewEvent::Progress(progress);
            let hold = self.hold;
            if self.context.parts.store.record(hold.id, hold.fence, event).await.is_err() {
                // The heartbeat finds out what that means; progress alone is no reason to wait.
                tracing::debug!("progress was not recorded");
            }
            tokio::select! {
                () = tokio::time::sleep(self.context.settings.progress_every) => {}
                () = done.cancelled() => {}
            }
        }
    }
}
