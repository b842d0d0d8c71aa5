//! A finished result's way out: tried again while the output fails and time is left, since another
//! training would cost more than any wait.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    CommitGate, FinishedResult, PublishRequest, Published, RunTimes,
    run::{Halt, RESULT, Running},
    stop::Stop,
};
use crate::{
    artifacts::digest::digest_bytes,
    jobs::{Failure, FailureReason, JobId, JobProgress, JobStore, NewEvent, WorkPhase},
};

/// How often what was read back may differ from what was written: no outage, and so nothing that
/// hours of waiting mend.
const MOST_CORRUPTED: u32 = 3;

/// How long a finished result is tried to be published, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishingSettings {
    /// From the first failure on, in this process; the job's deadline may end it earlier.
    pub retry_for: Duration,
    /// The wait after the first failure; doubles with each further one.
    pub first_wait: Duration,
    /// The longest such wait.
    pub longest_wait: Duration,
}

impl Default for PublishingSettings {
    fn default() -> Self {
        Self {
            retry_for: Duration::from_hours(12),
            first_wait: Duration::from_secs(2),
            longest_wait: Duration::from_mins(1),
        }
    }
}

impl PublishingSettings {
    /// The wait after so many failures: between half and the whole of what doubling comes to, by
    /// the job's name, so that daemons that met the same outage do not come back all at once.
    fn wait(&self, id: JobId, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let longest = self.first_wait.saturating_mul(doubled).min(self.longest_wait);
        let digest = digest_bytes(format!("{id} {failures}").as_bytes());
        let share = digest.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
        longest / 2 + longest / 2 * u32::from(share.unwrap_or_default()) / 255
    }
}

impl<S: JobStore + 'static> Running<S> {
    /// Publishes; says whether the output works meanwhile.
    pub(super) async fn publish(&self, finished: &FinishedResult) -> Result<Published, Halt> {
        let published = self.publish_in_time(finished).await;
        let outputs = &self.context.parts.outputs;
        match &published {
            Err(Halt::Unpublished(failure)) => outputs.publication_given_up(&failure.message),
            _ => outputs.publication_ended(),
        }
        published
    }

    async fn publish_in_time(&self, finished: &FinishedResult) -> Result<Published, Halt> {
        let settings = &self.context.settings.publishing;
        let (outputs, signals) = (&self.context.parts.outputs, &self.context.parts.signals);
        let give_up = Instant::now() + settings.retry_for;
        let mut told = None;
        let (mut failures, mut corrupted) = (0, 0);
        loop {
            let failure = match self.publish_once(finished).await {
                Err(Halt::Failed(failure)) => failure,
                done => return done,
            };
            failures += 1;
            match failure.reason {
                FailureReason::StorageCorrupted => corrupted += 1,
                reason if reason.is_outage_of_output() => {}
                _ => return Err(Halt::Failed(failure)),
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() || corrupted >= MOST_CORRUPTED {
                return Err(Halt::Unpublished(failure));
            }
            outputs.publication_fails(&failure.message);
            let wait = settings.wait(self.job.id, failures).min(left);
            tracing::warn!(failure = failure.message, again_in = ?wait, "a result is not published");
            if told.as_ref() != Some(&failure.message) {
                self.warn_of(&failure).await;
                told = Some(failure.message);
            }
            tokio::select! {
                biased;
                () = self.stop.raised(Stop::Drained) => return Err(Halt::Stopped),
                () = signals.stop_publishing.cancelled() => {
                    self.stop.raise(Stop::Drained);
                    return Err(Halt::Stopped);
                }
                () = outputs.recovers() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Tells whoever watches the job why it takes longer.
    async fn warn_of(&self, failure: &Failure) {
        let message = format!(
            "the result is finished and cannot be published yet, it is tried again: {}",
            failure.message
        );
        let event = NewEvent::Warning { reason: "PUBLISHING_RETRIED", message };
        if self.context.parts.store.record(self.hold.id, self.hold.fence, event).await.is_err() {
            tracing::debug!("a warning was not recorded");
        }
    }

    async fn publish_once(&self, finished: &FinishedResult) -> Result<Published, Halt> {
        let (sender, told) = watch::channel(None);
        let before = self.context.parts.store.get(self.job.id).await.ok().flatten();
        let before = before.and_then(|job| job.progress);
        let commit = CommitGate::default();
        let request = PublishRequest {
            commit: commit.clone(),
            job: self.job.clone(),
            folder: self.folder().join(RESULT),
            result: finished.clone(),
            times: RunTimes {
                claimed_at: self.claimed_at,
                finished_at: self.context.settings.clock.now(),
            },
            progress: Arc::new(move |done, total| {
                sender.send_replace(Some(upload_progress(before, done, total)));
            }),
        };
        let done = CancellationToken::new();
        let publish = async {
            let published = self.context.parts.publisher.publish(request).await;
            done.cancel();
            published
        };
        let both = async { tokio::join!(publish, self.record_progress(told, &done)).0 };
        tokio::select! {
            biased;
            () = self.stopped_before(&commit) => Err(Halt::Stopped),
            () = self.context.parts.signals.stop_publishing.cancelled() => {
                self.stop.raise(Stop::Drained);
                Err(Halt::Stopped)
            }
            published = both => Ok(published?),
        }
    }

    /// Waits for a reason to stop that comes before the manifest; never ends where none does.
    async fn stopped_before(&self, commit: &CommitGate) {
        self.stop.raised(Stop::Cancelled).await;
        if !commit.close() {
            std::future::pending::<()>().await;
        }
    }
}

/// Progress of the upload, beside what training came to.
fn upload_progress(before: Option<JobProgress>, done: u64, total: u64) -> JobProgress {
    let none = JobProgress {
        phase: WorkPhase::Upload,
        done,
        total,
        updates_done: 0,
        updates_total: 0,
        key_step: 0,
        loss: 0.0,
        gradient_norm: 0.0,
    };
    before.map_or(none, |before| JobProgress { phase: WorkPhase::Upload, done, total, ..before })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ_by_job() {
        let settings = PublishingSettings::default();
        let (one, other) = (JobId(Uuid::from_u128(1)), JobId(Uuid::from_u128(2)));
        for failures in 1..100 {
            let longest =
                Duration::from_secs(2 << (failures - 1).min(8)).min(settings.longest_wait);
            for id in [one, other] {
                let wait = settings.wait(id, failures);
                assert!((longest / 2..=longest).contains(&wait), "{failures}: {wait:?}");
            }
        }
        assert!(
            (1..20).any(|failures| settings.wait(one, failures) != settings.wait(other, failures))
        );
    }
}
