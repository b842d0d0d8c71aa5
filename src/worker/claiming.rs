//! The worker's tasks: one claims jobs and runs each in a task of its own, one sweeps.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::Instrument;

use super::{
    WorkerParts, WorkerSettings, WorkerState,
    clearing::clear,
    context::WorkerContext,
    running::{ListedJob, Running},
};
use crate::jobs::{FailureReason, JobId, JobState, JobStore, JobSummary, StateName, WorkerLoss};

/// Sweeps between two looks for folders that no job owns.
const SWEEPS_A_TIDYING: u32 = 120;

/// A worker's tasks, seen from outside. They live in the tracker, not in this.
#[derive(Debug, Clone)]
pub struct Worker {
    state: watch::Receiver<WorkerState>,
}

impl Worker {
    /// Starts the tasks. Stop them by the signals; the tracker holds them until they are done.
    pub fn start<S: JobStore + std::fmt::Debug + 'static>(
        settings: WorkerSettings,
        parts: WorkerParts<S>,
    ) -> Self {
        let context = Arc::new(WorkerContext { settings, parts });
        let (sender, state) = watch::channel(WorkerState::Working(BTreeSet::new()));
        let tracker = &context.parts.tracker;
        tracker.spawn(claim(context.clone(), Arc::new(sender)));
        tracker.spawn(sweep(context.clone(), state.clone()));
        Self { state }
    }

    /// What the worker does, now and as it changes.
    pub fn state(&self) -> watch::Receiver<WorkerState> {
        self.state.clone()
    }

    /// Waits until the worker takes no more jobs and has none.
    pub async fn stopped(&self) {
        // Without a sender the task is gone, which is as good.
        let _ = self.state.clone().wait_for(|state| *state == WorkerState::Stopped).await;
    }
}

/// Claims a job for each slot that is free, while the device and the output work, and runs them side
/// by side.
async fn claim<S: JobStore + 'static>(
    context: Arc<WorkerContext<S>>,
    state: Arc<watch::Sender<WorkerState>>,
) {
    let WorkerParts { store, device, outputs, signals, .. } = &context.parts;
    let settings = &context.settings;
    let mut wakeups = store.subscribe();
    let mut jobs = JoinSet::new();
    // Whether nothing is held that is not worked on: no sweep ends a hold of a worker that lives.
    let mut is_recovered = false;
    // Jobs that were worked on at the last look: the end of one may not have been recorded.
    let mut seen = BTreeSet::new();
    let mut loss =
        if settings.lost_while_serving { WorkerLoss::BesideCall } else { WorkerLoss::Unexplained };
    loop {
        let slot = tokio::select! {
            biased;
            () = signals.stop_claiming.cancelled() => break,
            Some(_) = jobs.join_next() => continue,
            slot = device.free_slot() => slot,
        };
        // Without one the device is gone.
        let Some(slot) = slot else { break };
        // What is trained while nothing can be published only waits.
        if signals.stop_claiming.run_until_cancelled(outputs.works()).await.is_none() {
            break;
        }
        // Before the look, so that nothing that comes after it is missed.
        wakeups.borrow_and_update();
        let worked_on = state.borrow().jobs();
        is_recovered &= seen.is_subset(&worked_on);
        if !is_recovered {
            is_recovered = recover(&context, &worked_on, loss).await;
            if is_recovered {
                // What is lost from now on is not the last process's.
                loss = WorkerLoss::Unexplained;
            }
        }
        seen = worked_on;
        let claimed = if is_recovered {
            store.claim(&settings.worker_id, settings.lease).await
        } else {
            Ok(None)
        };
        match claimed {
            Ok(Some(job)) => {
                seen.insert(job.id);
                // Where another claim came after ours and was lost as well, our run may not have ended.
                let mut ended = state.subscribe();
                let _ = ended.wait_for(|state| !state.jobs().contains(&job.id)).await;
                let listed = ListedJob::new(&state, job.id);
                let span = tracing::info_span!(
                    "job", id = %job.id, attempt = job.attempt, fence = job.fence.0
                );
                let running = Running::new(context.clone(), job, listed, slot);
                jobs.spawn(running.run().instrument(span));
                continue;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot claim a job"),
        }
        tokio::select! {
            () = signals.stop_claiming.cancelled() => {}
            () = sleep(settings.poll_every) => {}
            // A store that is gone wakes nobody: the poll is then all there is.
            Ok(()) = wakeups.changed() => {}
            Some(_) = jobs.join_next() => {}
        }
    }
    while jobs.join_next().await.is_some() {}
    state.send_replace(WorkerState::Stopped);
}

/// Gives back what is held under this worker's name but not worked on: after the loss of the last
/// process, or of a lease. A process that starts under a worker's name is the only one of that name.
/// Says whether nothing of it is held any more.
async fn recover<S: JobStore>(
    context: &WorkerContext<S>,
    worked_on: &BTreeSet<JobId>,
    loss: WorkerLoss,
) -> bool {
    let worker = &context.settings.worker_id;
    let worked_on: Vec<_> = worked_on.iter().copied().collect();
    match context.parts.store.expire_worker(worker, &worked_on, loss).await {
        Ok(lost) => {
            for id in lost {
                tracing::warn!(job = %id, ?loss, "the job was held, and nobody worked on it any more");
                retract(context, id).await;
            }
            true
        }
        Err(error) => {
            tracing::warn!(%error, "cannot give back what was held; nothing is claimed before");
            false
        }
    }
}

/// Of a job that was cancelled when its lease ended, no manifest may stand.
async fn retract<S: JobStore>(context: &WorkerContext<S>, id: JobId) {
    let Ok(Some(job)) = context.parts.store.get_whole(id).await else { return };
    if job.state.name() == StateName::Cancelled
        && let Err(failure) = context.parts.publisher.retract(&job).await
    {
        tracing::error!(job = %id, %failure, "a cancelled job may have a manifest; remove it");
    }
}

/// Lets the store do what time alone brings about, and removes what no job owns any more.
async fn sweep<S: JobStore + 'static>(
    context: Arc<WorkerContext<S>>,
    mut state: watch::Receiver<WorkerState>,
) {
    let mut ticks = interval(context.settings.sweep_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0_u32;
    loop {
        // Goes on while a job is under way, however long a drain takes.
        tokio::select! {
            _ = ticks.tick() => {}
            _ = state.wait_for(|state| *state == WorkerState::Stopped) => return,
        }
        match context.parts.store.sweep(Some(&context.settings.worker_id)).await {
            Ok(swept) => {
                for id in swept.expired_leases {
                    retract(&context, id).await;
                }
                for id in swept.forgotten {
                    clear(&context, id, None).await;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot sweep the store"),
        }
        if round.is_multiple_of(SWEEPS_A_TIDYING) {
            let worked_on = state.borrow().jobs();
            tidy(&context, &worked_on).await;
        }
        round = round.wrapping_add(1);
    }
}

/// Clears what jobs left that are done or unknown: of a process that was killed, of an output that
/// was away, and finished results whose time is up.
async fn tidy<S: JobStore>(context: &WorkerContext<S>, worked_on: &BTreeSet<JobId>) {
    let Ok(entries) = std::fs::read_dir(context.jobs_folder()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<JobId>().ok()) else { continue };
        if worked_on.contains(&id) {
            continue;
        }
        match context.parts.store.get(id).await {
            Ok(None) => clear(context, id, None).await,
            Ok(Some(job)) if leaves_nothing(&job) => clear(context, id, Some(&job)).await,
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// Whether what the job left on the disk is of no use any more. Where workers were lost too often,
/// it stays until the job is forgotten: nothing in it is wrong.
fn leaves_nothing(job: &JobSummary) -> bool {
    match &job.state {
        JobState::Failed(failure) => failure.reason != FailureReason::AttemptsExhausted,
        state => state.name().is_terminal(),
    }
}
