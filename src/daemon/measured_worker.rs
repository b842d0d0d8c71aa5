//! What the worker does, measured.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    jobs::{JobProgress, StateName, WorkPhase},
    telemetry,
};

/// Before the first progress of a job: models are brought and loaded.
const PREPARING: &str = "preparing";
/// From claim to end.
const WHOLE: &str = "whole";

/// Tells telemetry what the worker does; it has one job at a time.
#[derive(Debug, Default)]
pub(super) struct MeasuredWorker(Mutex<Option<Underway>>);

/// The job under way.
#[derive(Debug)]
struct Underway {
    phase: Option<WorkPhase>,
    since: Instant,
    updates: u32,
    bytes: u64,
    told: Instant,
}

impl MeasuredWorker {
    /// A job was claimed after waiting so long for it.
    pub(super) fn job_claimed(&self, waited: Duration) {
        telemetry::queue_waited(waited);
        let now = Instant::now();
        *self.underway() =
            Some(Underway { phase: None, since: now, updates: 0, bytes: 0, told: now });
    }

    /// A job advanced.
    pub(super) fn job_advanced(&self, progress: &JobProgress) {
        let now = Instant::now();
        let mut underway = self.underway();
        let Some(job) = underway.as_mut() else { return };
        if job.phase == Some(progress.phase) {
            let made = progress.updates_done.saturating_sub(job.updates);
            if made > 0 {
                telemetry::iterations(made.into(), now - job.told);
                telemetry::loss(progress.loss);
            }
        } else {
            telemetry::job_phase_finished(name(job.phase), "done", now - job.since);
            // A resumed run begins with what an earlier one made: nothing is counted yet.
            (job.phase, job.since, job.bytes) = (Some(progress.phase), now, 0);
        }
        if progress.phase == WorkPhase::Upload {
            telemetry::artifact_bytes(progress.done.saturating_sub(job.bytes));
            job.bytes = job.bytes.max(progress.done);
        }
        (job.updates, job.told) = (progress.updates_done, now);
    }

    /// A job left the worker's hands so long after its claim: done, or queued again.
    pub(super) fn job_ended(&self, state: StateName, lasted: Duration) {
        telemetry::job_phase_finished(WHOLE, state.name(), lasted);
        self.finish(state.name());
    }

    /// Another claim came after.
    pub(super) fn job_lost(&self) {
        telemetry::lease_lost(1);
        self.finish("lost");
    }

    /// Ends the last phase.
    fn finish(&self, outcome: &'static str) {
        if let Some(job) = self.underway().take() {
            telemetry::job_phase_finished(name(job.phase), outcome, job.since.elapsed());
        }
    }

    fn underway(&self) -> MutexGuard<'_, Option<Underway>> {
        // Figures are whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(phase: Option<WorkPhase>) -> &'static str {
    match phase {
        None => PREPARING,
        Some(WorkPhase::Score) => "score",
        Some(WorkPhase::SwitchCurve) => "switch_curve",
        Some(WorkPhase::Walk) => "walk",
        Some(WorkPhase::Train) => "train",
        Some(WorkPhase::Draw) => "draw",
        Some(WorkPhase::Judge) => "judge",
        Some(WorkPhase::Upload) => "upload",
    }
}
