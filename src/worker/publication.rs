//! Publishes a finished result, and tries again while the output fails and time is left: training
//! again would cost more than any wait.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    CommitGate, PublishRequest, RunTimes,
    context::RESULT,
    running::{Halt, Running},
    stop::Stop,
};
use crate::{
    jobs::{Failure, FailureReason, JobProgress, JobStore, NewEvent},
    outcome::{FinishedResult, Phase, Published},
    run::ResultStore,
};

/// How often what was read back may differ from what was written: no outage, and so nothing that
/// hours of waiting mend.
const MOST_CORRUPTED: u32 = 3;

impl<S: JobStore + 'static> Running<S> {
    /// Publishes; says whether the output works meanwhile.
    pub(super) async fn publish(
        &self,
        finished: &FinishedResult,
        results: &mut ResultStore,
    ) -> Result<Published, Halt> {
        // Before the first file goes out: whoever takes the job from here publishes the same bytes.
        self.share(finished, results).await?;
        let published = self.publish_in_time(finished, results).await;
        let outputs = &self.context.parts.outputs;
        match &published {
            Err(Halt::Unpublished(failure)) => {
                outputs.publication_given_up(self.job.id, &failure.message);
            }
            _ => outputs.publication_ended(self.job.id),
        }
        published
    }

    async fn publish_in_time(
        &self,
        finished: &FinishedResult,
        results: &mut ResultStore,
    ) -> Result<Published, Halt> {
        let settings = &self.context.settings.publishing;
        let (outputs, signals) = (&self.context.parts.outputs, &self.context.parts.signals);
        let give_up = Instant::now() + settings.retry_for;
        let mut warned_of = None;
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
            outputs.publication_fails(self.job.id, &failure.message);
            let wait = settings.wait(self.job.id, failures).min(left);
            tracing::warn!(failure = failure.message, again_in = ?wait, "a result is not published");
            if warned_of.as_ref() != Some(&failure.message) {
                self.warn_of(&failure).await;
                warned_of = Some(failure.message);
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
            self.share(finished, results).await?;
        }
    }

    /// Stores the result for other workers, where that was not done yet, unless the job is to stop.
    async fn share(
        &self,
        finished: &FinishedResult,
        results: &mut ResultStore,
    ) -> Result<(), Halt> {
        tokio::select! {
            biased;
            () = self.stop.raised(Stop::Cancelled) => Err(Halt::Stopped),
            () = self.context.parts.signals.stop_publishing.cancelled() => {
                self.stop.raise(Stop::Drained);
                Err(Halt::Stopped)
            }
            () = results.share(finished) => Ok(()),
        }
    }

    /// Records for those who watch the job why it takes longer.
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
        let (sender, progress) = watch::channel(None);
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
        let both = async { tokio::join!(publish, self.record_progress(progress, &done)).0 };
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
    JobProgress { phase: Phase::Upload, done, total, ..before.unwrap_or_default() }
}
