//! The engine's part of a job, on the device thread: train, judge, write the result folder.

use std::path::PathBuf;

use tokio::sync::{mpsc, watch};

use super::{
    DeviceEngine, EngineSource, FinishedResult, OpenedModel, StateFiles,
    desk::Desk,
    failure::engine_failure,
    progress::{ProgressLine, RateMeter},
    result_files::{ErasedResult, write_erased, write_judged},
};
use crate::{
    engine::{CancelFlag, EngineError, PauseFlag, RunContext, Saving},
    jobs::{EvaluateWork, Evaluation, Failure, FailureReason, JobProgress, UnlearnWork, Work},
    outcome::{JudgeReport, Notice, Progress, TimestepScores},
    spec::JudgeSpec,
};

/// What the device thread needs to know of a job.
#[derive(Debug)]
pub(super) struct DeviceJob {
    pub(super) work: Work,
    pub(super) work_digest: String,
    pub(super) base: OpenedModel,
    /// The model to judge.
    pub(super) edited: Option<OpenedModel>,
    /// Scores that the request cites instead of having them measured again.
    pub(super) cited: Vec<TimestepScores>,
    pub(super) state_folder: PathBuf,
    pub(super) result_folder: PathBuf,
    /// Updates from one save to the next.
    pub(super) save_every: usize,
    pub(super) cancel: CancelFlag,
    pub(super) pause: PauseFlag,
    /// Newest wins.
    pub(super) progress: watch::Sender<Option<JobProgress>>,
    /// What became of saved state.
    pub(super) notices: mpsc::UnboundedSender<Notice>,
}

/// Works until the result folder stands, or until one of the flags is seen.
pub(super) fn run_job<S: EngineSource>(
    desk: &Desk<S>,
    job: &DeviceJob,
) -> Result<FinishedResult, Failure> {
    match &job.work {
        Work::Unlearn(work) => unlearn(desk, job, work),
        Work::Evaluate(work) => evaluate(desk, job, work),
    }
}

fn unlearn<S: EngineSource>(
    desk: &Desk<S>,
    job: &DeviceJob,
    work: &UnlearnWork,
) -> Result<FinishedResult, Failure> {
    let engine = desk.engine(&job.base)?;
    // Before the training, so that a wish that cannot be met costs nothing.
    let judging = judge_specs(engine.as_ref(), work)?;

    let mut line = ProgressLine::new(&job.progress);
    let mut meter = RateMeter::default();
    let mut report = |progress: Progress| {
        line.tell(&progress);
        meter.see(&progress, desk.clock.now());
        if desk.serve_next() {
            meter.interrupt();
        }
    };
    let mut notice = |told| {
        // Whoever gave the job up needs no notices.
        let _ = job.notices.send(told);
    };
    let mut store = StateFiles::new(&job.state_folder);
    let saving = Saving {
        store: &mut store,
        every: job.save_every,
        pause: job.pause.clone(),
        notice: &mut notice,
    };
    let mut context =
        RunContext { report: &mut report, cancel: job.cancel.clone(), saving: Some(saving) };
    let erased =
        engine.unlearn(&work.spec, &mut context).map_err(|error| engine_failure(&error))?;
    if let Some(rate) = meter.rate() {
        desk.note_rate(&job.base.digest, rate);
    }

    let mut judged = Vec::new();
    if !judging.is_empty() {
        let edited = engine.with_erased(&erased).map_err(|error| engine_failure(&error))?;
        for spec in &judging {
            judged.push(judge(desk, job, engine.as_ref(), &edited, spec, &mut line)?);
        }
    }
    check_flags(job)?;
    let result = ErasedResult::<S::Engine> { job, work, erased: &erased, judged: &judged };
    write_erased(&result)
}

/// What is judged: every concept that the model's judge knows.
fn judge_specs<E: DeviceEngine>(engine: &E, work: &UnlearnWork) -> Result<Vec<JudgeSpec>, Failure> {
    if work.evaluation == Evaluation::Skipped {
        return Ok(Vec::new());
    }
    let mut specs = Vec::new();
    for concept in &work.spec.concepts {
        let spec = JudgeSpec::new(concept.clone(), engine.vocabulary().clone());
        if engine.can_judge() && spec.validate().is_ok() {
            specs.push(spec);
        } else if work.evaluation == Evaluation::Required {
            let message = format!(
                "{} has no judge that knows one of the concepts; leave evaluate unset, or use a \
                 model that has one",
                work.base_model
            );
            return Err(
                Failure::new(FailureReason::NoJudge, message).with("baseModel", &work.base_model)
            );
        }
    }
    Ok(specs)
}

/// Judges with both flags watched: a judgement is not saved, so that a pause ends it.
fn judge<S: EngineSource>(
    desk: &Desk<S>,
    job: &DeviceJob,
    base: &S::Engine,
    edited: &S::Engine,
    spec: &JudgeSpec,
    line: &mut ProgressLine<'_>,
) -> Result<JudgeReport, Failure> {
    let stop = CancelFlag::default();
    let mut report = |progress: Progress| {
        line.tell(&progress);
        desk.serve_next();
        if job.cancel.is_cancelled() || job.pause.is_paused() {
            stop.cancel();
        }
    };
    let mut context = RunContext { report: &mut report, cancel: stop.clone(), saving: None };
    let judged = base.judge(spec, edited, &mut context);
    match judged {
        Err(EngineError::Cancelled) => {
            check_flags(job)?;
            Err(engine_failure(&EngineError::Cancelled))
        }
        other => other.map_err(|error| engine_failure(&error)),
    }
}

fn check_flags(job: &DeviceJob) -> Result<(), Failure> {
    if job.cancel.is_cancelled() {
        Err(engine_failure(&EngineError::Cancelled))
    } else if job.pause.is_paused() {
        Err(engine_failure(&EngineError::Paused))
    } else {
        Ok(())
    }
}

fn evaluate<S: EngineSource>(
    desk: &Desk<S>,
    job: &DeviceJob,
    work: &EvaluateWork,
) -> Result<FinishedResult, Failure> {
    let Some(edited) = &job.edited else {
        let message = format!("{} was not opened", work.edited_model);
        return Err(Failure::new(FailureReason::ModelNotFound, message));
    };
    let base = desk.engine(&job.base)?;
    let edited = desk.engine(edited)?;
    let mut line = ProgressLine::new(&job.progress);
    let judged = judge(desk, job, base.as_ref(), edited.as_ref(), &work.spec, &mut line)?;
    check_flags(job)?;
    write_judged(job, work, &judged)
}
