//! The engine's part of a job, on the device thread: train, judge, write the result folder.

use super::{
    FinishedResult, StateFiles,
    device_job::DeviceJob,
    kept_pictures::PictureFiles,
    progress::{ProgressLine, RateMeter},
    result_files::{ErasedResult, check_before, write_erased, write_judged},
    saving::{SavePace, ToldFiles},
};
use crate::{
    device::{DeviceEngine, EngineSource, Slot as DeviceState, Undertaking, engine_failure},
    engine::{CancelFlag, CheckpointPolicy, EngineError, RunContext, WorkMemory},
    jobs::{EvaluateWork, Evaluation, Failure, FailureReason, UnlearnWork, Work},
    outcome::{JudgeReport, Notice, Progress},
    spec::JudgeSpec,
};

/// Works until the result folder stands, or until one of the flags is seen.
pub(super) fn run_job<S: EngineSource>(
    device_state: &DeviceState<S>,
    job: &DeviceJob,
) -> Result<FinishedResult, Failure> {
    match &job.work {
        Work::Unlearn(work) => unlearn(device_state, job, work),
        Work::Evaluate(work) => evaluate(device_state, job, work),
    }
}

fn unlearn<S: EngineSource>(
    device_state: &DeviceState<S>,
    job: &DeviceJob,
    work: &UnlearnWork,
) -> Result<FinishedResult, Failure> {
    let engine = device_state.engine(&job.base)?;
    tell_warnings(engine.as_ref(), job);
    // Before the training, so that a wish that cannot be met costs nothing.
    let judging = judge_specs(engine.as_ref(), work)?;
    check_before(job, work, engine.as_ref())?;
    // The edited tensors lie beside the base's while both are judged, widened where they are stored
    // in half precision.
    let edited = engine.edited_bytes(&work.spec).delta.saturating_mul(2);
    let judged = judging.iter().map(|spec| (Undertaking::Judge(spec), edited));
    let erased = [(Undertaking::Unlearn(&work.spec), 0)];
    admit(device_state, job, engine.as_ref(), erased.into_iter().chain(judged))?;

    let mut line = ProgressLine::new(&job.progress);
    let mut meter = RateMeter::default();
    let mut report = |progress: Progress| {
        line.tell(&progress);
        meter.see(&progress, device_state.clock.monotonic());
        if device_state.give_way() {
            meter.interrupt();
        }
    };
    let mut notice = |told| {
        // Whoever gave the job up needs no notices.
        let _ = job.notices.send(told);
    };
    let pace = SavePace::new(device_state.clock.clone(), job.save_after);
    let files = StateFiles::new(&job.state_folder);
    let mut store = ToldFiles { files, pace: &pace, told: &job.saved };
    let mut due = || pace.is_due();
    let saving = CheckpointPolicy {
        store: &mut store,
        every: job.save_every,
        due: &mut due,
        pause: job.pause.clone(),
        notice: &mut notice,
    };
    let mut context =
        RunContext { report: &mut report, cancel: job.cancel.clone(), saving: Some(saving) };
    let erased =
        engine.unlearn(&work.spec, &mut context).map_err(|error| engine_failure(&error))?;
    if let Some(rate) = meter.rate() {
        device_state.note_rate(&job.base.digest, rate);
    }

    let mut judged = Vec::new();
    if !judging.is_empty() {
        let edited = engine.with_erased(&erased).map_err(|error| engine_failure(&error))?;
        for spec in &judging {
            judged.push(judge(device_state, job, engine.as_ref(), &edited, spec, &mut line)?);
        }
    }
    check_flags(job)?;
    let result = ErasedResult::<S::Engine> {
        job,
        work,
        erased: &erased,
        judged: &judged,
        device: engine.device_kind(),
    };
    write_erased(&result)
}

/// Before any work: a job holds its memory from its beginning to its end. Each part comes with the
/// bytes that lie beside it.
fn admit<'a, S: EngineSource>(
    device_state: &DeviceState<S>,
    job: &DeviceJob,
    engine: &S::Engine,
    parts: impl IntoIterator<Item = (Undertaking<'a>, u64)>,
) -> Result<(), Failure> {
    let mut most = WorkMemory { program: 0, work: 0 };
    for (part, beside) in parts {
        let memory = engine.memory(part).map_err(|error| engine_failure(&error))?;
        most.program = most.program.max(memory.program);
        most.work = most.work.max(memory.work.saturating_add(beside));
    }
    let models: Vec<_> = [&job.base].into_iter().chain(&job.edited).collect();
    device_state.admit_job(&models, most)
}

/// What is odd about the base model, for the job's events.
fn tell_warnings<E: DeviceEngine>(base: &E, job: &DeviceJob) {
    for warning in base.warnings() {
        // Whoever gave the job up needs no notices.
        let _ = job.notices.send(Notice::OddModel { warning: warning.clone() });
    }
}

/// What is judged: every concept that the model's judge knows.
fn judge_specs<E: DeviceEngine>(engine: &E, work: &UnlearnWork) -> Result<Vec<JudgeSpec>, Failure> {
    if work.evaluation == Evaluation::Skipped {
        return Ok(Vec::new());
    }
    let mut specs = Vec::new();
    for concept in &work.spec.concepts {
        let words = engine.vocabulary().canonical();
        let spec = JudgeSpec {
            sampler: work.evaluation_sampler,
            ..JudgeSpec::new(concept.canonical(), words)
        };
        if engine.can_judge() && spec.validate().is_ok() {
            match engine.judge_sampler(&spec) {
                Ok(_) => specs.push(spec),
                // Nobody asked for this sampler, nor for a judgement at any price.
                Err(error)
                    if work.evaluation == Evaluation::WherePossible && spec.sampler.is_none() =>
                {
                    tracing::warn!(%error, "the result is not judged: the model's own sampler cannot draw it");
                }
                Err(error) => return Err(engine_failure(&error)),
            }
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
    device_state: &DeviceState<S>,
    job: &DeviceJob,
    base: &S::Engine,
    edited: &S::Engine,
    spec: &JudgeSpec,
    line: &mut ProgressLine<'_>,
) -> Result<JudgeReport, Failure> {
    let stop = CancelFlag::default();
    let mut report = |progress: Progress| {
        line.tell(&progress);
        device_state.give_way();
        if job.cancel.is_cancelled() || job.pause.is_paused() {
            stop.cancel();
        }
    };
    let mut context = RunContext { report: &mut report, cancel: stop.clone(), saving: None };
    let mut pictures = PictureFiles { cache: job.pictures.clone(), model: job.base.digest.clone() };
    let judged = base.judge(spec, edited, &mut pictures, &mut context);
    match judged {
        Ok(judged) => {
            let (all, kept) = (judged.unet_evaluations, judged.kept_evaluations);
            tracing::info!(unet_evaluations = all, kept, "a result is judged");
            Ok(judged)
        }
        Err(EngineError::Cancelled) => {
            check_flags(job)?;
            Err(engine_failure(&EngineError::Cancelled))
        }
        Err(error) => Err(engine_failure(&error)),
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
    device_state: &DeviceState<S>,
    job: &DeviceJob,
    work: &EvaluateWork,
) -> Result<FinishedResult, Failure> {
    let Some(edited) = &job.edited else {
        let message = format!("{} was not opened", work.edited_model);
        return Err(Failure::new(FailureReason::ModelNotFound, message));
    };
    let base = device_state.engine(&job.base)?;
    tell_warnings(base.as_ref(), job);
    let edited = device_state.engine(edited)?;
    admit(device_state, job, base.as_ref(), [(Undertaking::Judge(&work.spec), 0)])?;
    let mut line = ProgressLine::new(&job.progress);
    let judged = judge(device_state, job, base.as_ref(), edited.as_ref(), &work.spec, &mut line)?;
    check_flags(job)?;
    write_judged(job, work, &judged, base.device_kind())
}
