//! One claimed job, from its lease to its end.

use std::path::PathBuf;

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    clearing::clear,
    context::{Hold, LeaseLost, RESULT, STATE},
    device_job::DeviceJob,
    heartbeat,
    job_run::run_job,
    running::{Halt, Running},
    saving::RESULT_STANDS,
    sealing::Sealing,
    stop::Stop,
};
use crate::{
    artifacts::remove_folder,
    device::{EngineSource, OpenedModel, Slot, SlotWork, disk_failure},
    jobs::{
        Evaluated, Failure, FailureReason, JobStore, JobSummary, Milestone, NewEvent, Outcome,
        StateName, StoredScores, Timestamp, Transition, Unlearned, Work,
    },
    outcome::{FinishedResult, Notice, Published, TimestepScores},
    run::{CopyProblem, FoundResult, ResultFiles, ResultStore, SharedStateStore, StateFiles},
};

impl SlotWork for DeviceJob {
    type Output = FinishedResult;

    fn run<S: EngineSource>(&self, slot: &Slot<S>) -> Result<FinishedResult, Failure> {
        run_job(slot, self)
    }
}

impl<S: JobStore + 'static> Running<S> {
    /// Does the job's work and records what became of it.
    pub(super) async fn run(self) {
        let ended = CancellationToken::new();
        let _ends = ended.clone().drop_guard();
        let (context, job, stop) = (self.context.clone(), self.job.clone(), self.stop.clone());
        self.context.parts.tracker.spawn(async move {
            ended.run_until_cancelled(heartbeat::keep(&context, &job, &stop)).await;
        });
        let worked = self.work().await;
        self.settle(worked).await;
    }

    async fn work(&self) -> Result<Outcome, Halt> {
        let mut results = self.results()?;
        let FoundResult { result, problem } = self.find_finished(&mut results).await?;
        if self.job.state.name() == StateName::Publishing {
            let finished = result.ok_or_else(|| not_found(problem))?;
            tracing::info!("a finished result is published again");
            let published = self.publish(&finished, &mut results).await?;
            return Ok(outcome(&self.job.work, finished, published));
        }
        let finished = if let Some(finished) = result {
            tracing::info!("an earlier attempt left the whole result: it is published");
            self.record(Transition::Loaded).await?;
            finished
        } else {
            if let Some(CopyProblem::Refused(reason)) = problem {
                self.record_notice(Notice::StateIgnored { file: "result", reason }).await;
            }
            self.context.parts.publisher.check(self.job.work.destination())?;
            let (base, edited) = self.unless_stopped(self.open_models()).await??;
            for model in std::iter::once(&base).chain(&edited) {
                let load = self.slot.load(model.clone(), self.stop.flags());
                self.unless_stopped(load).await??;
            }
            self.record(Transition::Loaded).await?;
            self.engine_part(base, edited, results.files().clone()).await?
        };
        // A drain comes too late here: what is left is short, and has a limit of its own.
        self.check(Stop::Cancelled)?;
        self.record(Transition::EngineDone).await?;
        let published = self.publish(&finished, &mut results).await?;
        Ok(outcome(&self.job.work, finished, published))
    }

    /// Clears the folder of what a lost attempt left half done; gives what it left whole, here or
    /// where workers share it.
    async fn find_finished(&self, results: &mut ResultStore) -> Result<FoundResult, Halt> {
        let folder = self.folder();
        let cleared = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let is_known = [STATE, RESULT].iter().any(|name| entry.file_name() == *name);
                if !is_known && entry.file_type()?.is_dir() {
                    remove_folder(&entry.path())?;
                }
            }
            Ok::<_, std::io::Error>(())
        })
        .await;
        let cleared = cleared.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        cleared.map_err(|error| disk_failure("the job's folder", &error))?;
        self.unless_stopped(results.find(&self.job.work_digest)).await
    }

    async fn open_models(&self) -> Result<(OpenedModel, Option<OpenedModel>), Failure> {
        let (base, digest, edited) = match &self.job.work {
            Work::Unlearn(work) => (&work.base_model, &work.base_digest, None),
            Work::Evaluate(work) => (&work.base_model, &work.base_digest, Some(&work.edited_model)),
        };
        let models = &self.context.parts.models;
        let base = models.open(base).await?;
        if base.digest != *digest {
            let message = format!(
                "{} has the digest {} now, the job was accepted with {digest}; ask again",
                base.name, base.digest
            );
            return Err(Failure::new(FailureReason::ModelChanged, message)
                .with("model", &base.name)
                .with("digest", &base.digest)
                .with("accepted", digest));
        }
        let edited = match edited {
            Some(name) => Some(models.open(name).await?),
            None => None,
        };
        Ok((base, edited))
    }

    async fn engine_part(
        &self,
        base: OpenedModel,
        edited: Option<OpenedModel>,
        result: ResultFiles,
    ) -> Result<FinishedResult, Halt> {
        let state = StateFiles::new(self.folder().join(STATE));
        let cited = self.cited_scores().await;
        let (progress, reports) = watch::channel(None);
        let (notices, sent_notices) = mpsc::unbounded_channel();
        let (saved, saves) = watch::channel(Milestone(0));
        let job = DeviceJob {
            work: self.job.work.clone(),
            work_digest: self.job.work_digest.clone(),
            base,
            edited,
            judges: self.judges()?,
            pictures: self.context.parts.models.pictures(),
            cited,
            shared_state: self.shared_state(&state)?,
            state,
            result,
            sealing: self.context.settings.sealer.clone().map(|sealer| Sealing {
                sealer,
                job: self.job.id,
                accepted_at: self.job.created_at,
            }),
            save_every: self.context.settings.save_every,
            save_after: self.context.settings.save_after,
            saved,
            cancel: self.stop.cancel.clone(),
            pause: self.stop.pause.clone(),
            progress,
            notices,
        };
        let done = CancellationToken::new();
        // Never given up before the device answers: until then it may write into the folder.
        let run = async {
            let finished = self.slot.run(job, self.stop.flags()).await;
            done.cancel();
            finished
        };
        let (finished, (), (), ()) = tokio::join!(
            run,
            self.record_progress(reports, &done),
            self.record_notices(sent_notices),
            self.record_saves(saves)
        );
        let finished = finished?;
        self.note_saved(RESULT_STANDS).await;
        Ok(finished)
    }

    /// Names and folders of the judges that a judgement asks for beside the base model's own.
    fn judges(&self) -> Result<Vec<(String, PathBuf)>, Failure> {
        let Work::Evaluate(work) = &self.job.work else { return Ok(Vec::new()) };
        let known = &self.context.settings.judges;
        let folder = |name: &String| {
            let folder = known.get(name).ok_or_else(|| {
                let message = format!(
                    "the judge \"{name}\" was taken out of the configuration since the job was \
                     accepted; ask again without it"
                );
                Failure::new(FailureReason::InvalidSpec, message)
            })?;
            Ok((name.clone(), folder.clone()))
        };
        work.judges.iter().map(folder).collect()
    }

    /// The store of this attempt, where workers share state.
    fn shared_state(&self, files: &StateFiles) -> Result<Option<SharedStateStore>, Failure> {
        let Some(shared) = &self.context.settings.shared_state else { return Ok(None) };
        let (job, attempt) = (self.job.id.to_string(), self.hold.fence.0);
        let pause = self.stop.pause.clone();
        let opened = shared.open(&job, attempt, files.clone(), Handle::current(), pause);
        opened
            .map(Some)
            .map_err(|error| Failure::new(FailureReason::EngineFault, error.to_string()))
    }

    /// Where this attempt's finished result goes, and that of earlier ones is looked for.
    fn results(&self) -> Result<ResultStore, Failure> {
        let files = ResultFiles::new(self.folder().join(RESULT));
        let Some(shared) = &self.context.settings.shared_state else {
            return Ok(ResultStore::local(files));
        };
        shared
            .results(&self.job.id.to_string(), self.hold.fence.0, files)
            .map_err(|error| Failure::new(FailureReason::EngineFault, error.to_string()))
    }

    /// The scores that the request cites. Its window is in the spec already: without them the
    /// result lacks a plot and no more.
    async fn cited_scores(&self) -> Vec<TimestepScores> {
        let Work::Unlearn(work) = &self.job.work else { return Vec::new() };
        let Some(digest) = &work.score_digest else { return Vec::new() };
        let store = &self.context.parts.store;
        let found = store.get_scores(&self.job.principal, digest).await.ok().flatten();
        let parsed = found.and_then(|json| serde_json::from_str::<StoredScores>(&json).ok());
        if parsed.is_none() {
            tracing::warn!(digest, "the scores that the request cites are gone");
        }
        parsed.map(|stored| stored.scores).into_iter().collect()
    }

    /// Records how far the run has saved, so that a loss is not charged to it.
    async fn record_saves(&self, mut saves: watch::Receiver<Milestone>) {
        while saves.changed().await.is_ok() {
            let milestone = *saves.borrow_and_update();
            self.note_saved(milestone).await;
        }
    }

    async fn note_saved(&self, milestone: Milestone) {
        let Hold { id, fence } = self.hold;
        if let Err(error) = self.context.parts.store.note_saved(id, fence, milestone).await {
            // The next save is noted as well, and the heartbeat finds out what the error means.
            tracing::debug!(%error, "a save was not noted");
        }
    }

    async fn record_notices(&self, mut notices: mpsc::UnboundedReceiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            self.record_notice(notice).await;
        }
    }

    async fn record_notice(&self, notice: Notice) {
        tracing::info!(%notice, reason = notice.reason(), "a notice of the run");
        let reason = match notice {
            Notice::OddModel { .. } => "MODEL_ODD",
            Notice::Resumed { .. } => "STATE_RESUMED",
            Notice::StateIgnored { .. } => "STATE_IGNORED",
            Notice::StateNotSaved { .. } => "STATE_NOT_SAVED",
        };
        let event = NewEvent::Warning { reason, message: notice.to_string() };
        let hold = self.hold;
        if self.context.parts.store.record(hold.id, hold.fence, event).await.is_err() {
            tracing::debug!("a notice was not recorded");
        }
    }

    /// What something comes to, unless the job is to stop before.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Halt> {
        tokio::select! {
            biased;
            () = self.stop.raised(Stop::Drained) => Err(Halt::Stopped),
            result = work => Ok(result),
        }
    }

    fn check(&self, least: Stop) -> Result<(), Halt> {
        if self.stop.reason() >= Some(least) { Err(Halt::Stopped) } else { Ok(()) }
    }

    async fn record(&self, transition: Transition) -> Result<JobSummary, Halt> {
        self.check(Stop::Cancelled)?;
        let event = NewEvent::Transition(transition);
        self.context.record(self.hold, event).await.map_err(|LeaseLost| {
            self.stop.raise(Stop::Lost);
            Halt::Stopped
        })
    }

    /// Records the end, and clears what nobody needs any more.
    async fn settle(&self, worked: Result<Outcome, Halt>) {
        let transition = match (self.stop.reason(), worked) {
            // The state is kept: the next claim may be ours.
            (Some(Stop::Lost), _) => {
                return tracing::warn!("the lease was lost; nothing is recorded");
            }
            (_, Ok(outcome)) => Transition::Published(outcome),
            (Some(Stop::Cancelled), Err(_)) => Transition::CancelObserved,
            (Some(Stop::DeadlinePassed), Err(_)) => Transition::DeadlinePassed,
            (Some(Stop::Drained) | None, Err(Halt::Stopped)) => Transition::Released,
            (_, Err(Halt::Failed(failure))) if failure.reason == FailureReason::Draining => {
                Transition::Released
            }
            (_, Err(Halt::Unpublished(failure))) => {
                let message = &failure.message;
                tracing::warn!(message, "the result is kept, and could not be published in time");
                Transition::Unpublished { failure }
            }
            (_, Err(Halt::Failed(failure))) => {
                tracing::warn!(reason = ?failure.reason, message = failure.message, "the job failed");
                Transition::Failed { failure, retry_at: self.retry_at() }
            }
        };
        match self.context.record(self.hold, NewEvent::Transition(transition)).await {
            Ok(job) if job.state.name().is_terminal() => {
                clear(&self.context, job.id, Some(&job)).await;
            }
            Ok(_) | Err(LeaseLost) => {}
        }
    }

    fn retry_at(&self) -> Timestamp {
        let settings = &self.context.settings;
        let doubled = 2_u32.saturating_pow(self.job.attempt.saturating_sub(1));
        let wait = settings.first_backoff.saturating_mul(doubled).min(settings.max_backoff);
        settings.clock.now() + wait
    }
}

/// Why a kept result is not published after all. One that is out of reach is not lost.
fn not_found(problem: Option<CopyProblem>) -> Halt {
    let not_kept = |message| Halt::Failed(Failure::new(FailureReason::ResultNotKept, message));
    let not_here = "the finished result does not lie on this machine's disk any more";
    match problem {
        None => not_kept(format!("{not_here}, nor is it shared; submit again")),
        Some(CopyProblem::Refused(reason)) => {
            not_kept(format!("{not_here}, and its copy is damaged: {reason}; submit again"))
        }
        Some(CopyProblem::OutOfReach(reason)) => Halt::Unpublished(Failure::new(
            FailureReason::StorageUnavailable,
            format!("{not_here}, and its copy cannot be fetched now: {reason}"),
        )),
    }
}

fn outcome(work: &Work, finished: FinishedResult, published: Published) -> Outcome {
    match work {
        Work::Unlearn(_) => Outcome::Unlearned(Box::new(Unlearned {
            published,
            verdicts: finished.verdicts,
            key_steps: finished.key_steps,
            window: finished.window,
            updates: finished.updates,
            unet_evaluations: finished.unet_evaluations,
            evaluation: finished.evaluation,
        })),
        Work::Evaluate(_) => Outcome::Evaluated(Box::new(Evaluated {
            published,
            verdicts: finished.verdicts,
            unet_evaluations: finished.unet_evaluations,
            evaluation: finished.evaluation,
        })),
    }
}
