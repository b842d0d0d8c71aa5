//! The engine's part of a job, on a slot's thread: calls the use cases of `run` and passes them the
//! slot's ports.

use std::path::PathBuf;

use super::{
    device_job::DeviceJob,
    kept_pictures::PictureFiles,
    progress::{ProgressLine, RateMeter},
    saving::MilestoneStore,
    sealing::seal,
};
use crate::{
    artifacts::ModelFolder,
    device::{EngineSource, Slot, artifact_failure, engine_failure, run_failure},
    engine::{StateStore, WorkMemory, judge::GivenJudge},
    jobs::{EvaluateWork, Failure, FailureReason, UnlearnWork, Work},
    outcome::{FinishedResult, Notice, Progress},
    run::{DeviceEngine, EvaluateRequest, RunPorts, Saving, UnlearnRequest, evaluate, unlearn},
};

/// Works until the result folder stands, or until one of the flags is seen.
pub(super) fn run_job<S: EngineSource>(
    slot: &Slot<S>,
    job: &DeviceJob,
) -> Result<FinishedResult, Failure> {
    let mut line = ProgressLine::new(&job.progress);
    let mut meter = RateMeter::default();
    let mut progress = |progress: Progress| {
        line.tell(&progress);
        meter.see(&progress, slot.clock.monotonic());
        if slot.give_way() {
            meter.interrupt();
        }
    };
    let mut notice = |notice| send_notice(job, notice);
    let mut pictures = PictureFiles { cache: job.pictures.clone(), model: job.base.digest.clone() };
    let models: Vec<_> = [&job.base].into_iter().chain(&job.edited).collect();
    let mut admit = |memory: WorkMemory| slot.admit_job(&models, memory);
    let mut ports = RunPorts {
        admit: Some(&mut admit),
        progress: &mut progress,
        notice: &mut notice,
        pictures: &mut pictures,
        cancel: job.cancel.clone(),
        pause: job.pause.clone(),
        measurements: None,
    };
    let finished = match &job.work {
        Work::Unlearn(work) => run_unlearn(slot, job, work, &mut ports),
        Work::Evaluate(work) => run_evaluate(slot, job, work, &mut ports),
    };
    if let Some(rate) = meter.rate() {
        slot.note_rate(&job.base.digest, rate);
    }
    finished
}

fn run_unlearn<S: EngineSource>(
    slot: &Slot<S>,
    job: &DeviceJob,
    work: &UnlearnWork,
    ports: &mut RunPorts<'_>,
) -> Result<FinishedResult, Failure> {
    let engine = slot.engine(&job.base)?;
    send_warnings(engine.as_ref(), job);
    let mut staged = job.result.begin().map_err(|error| artifact_failure(&error))?;
    let request = UnlearnRequest {
        base: job.base.files.as_ref(),
        // How the base is named on this machine is no part of the result.
        base_model: &work.base_model,
        base_digest: &work.base_digest,
        ancestors: &job.base.ancestors,
        spec: &work.spec,
        work_digest: &job.work_digest,
        cited: &job.cited,
        formats: &work.formats,
        evaluation: work.evaluation,
        sampler: work.evaluation_sampler,
        show: None,
        distances: false,
    };
    let (mut files, mut shared) = (job.state.clone(), job.shared_state.clone());
    let store: &mut dyn StateStore = match &mut shared {
        Some(shared) => shared,
        None => &mut files,
    };
    let mut store = MilestoneStore { store, saved: &job.saved };
    let saving = Saving {
        store: &mut store,
        every: job.save_every,
        after: job.save_after,
        clock: slot.clock.clone(),
    };
    let erasure = unlearn(&request, engine.as_ref(), &mut staged, saving, ports)
        .map_err(|unfinished| run_failure(unfinished.error))?;
    let finished = seal(job.sealing.as_ref(), &job.work, erasure.result, &mut staged)?;
    job.result.complete(staged, finished).map_err(|error| artifact_failure(&error))
}

fn run_evaluate<S: EngineSource>(
    slot: &Slot<S>,
    job: &DeviceJob,
    work: &EvaluateWork,
    ports: &mut RunPorts<'_>,
) -> Result<FinishedResult, Failure> {
    let Some(edited) = &job.edited else {
        let message = format!("{} was not opened", work.edited_model);
        return Err(Failure::new(FailureReason::ModelNotFound, message));
    };
    let base = slot.engine(&job.base)?;
    let judged = with_judges(base.as_ref(), &job.judges)?;
    // They are read for this job alone, and no loaded model counts them.
    let judge_bytes = judged.as_ref().map_or(0, DeviceEngine::own_bytes);
    let base = judged.as_ref().unwrap_or(base.as_ref());
    send_warnings(base, job);
    base.check_judges(&work.spec).map_err(|error| engine_failure(&error))?;
    let edited = slot.engine(edited)?;
    let request = EvaluateRequest {
        base_model: &work.base_model,
        edited_model: &work.edited_model,
        spec: &work.spec,
        judge_bytes,
    };
    let judgement = evaluate(&request, base, edited.as_ref(), ports).map_err(run_failure)?;
    let mut staged = job.result.begin().map_err(|error| artifact_failure(&error))?;
    let finished = judgement.write(&job.work_digest, &mut staged).map_err(run_failure)?;
    let finished = seal(job.sealing.as_ref(), &job.work, finished, &mut staged)?;
    job.result.complete(staged, finished).map_err(|error| artifact_failure(&error))
}

/// The base model with these judges beside its own; none where there are no such.
fn with_judges<E: DeviceEngine>(
    base: &E,
    judges: &[(String, PathBuf)],
) -> Result<Option<E>, Failure> {
    if judges.is_empty() {
        return Ok(None);
    }
    let mut opened = Vec::with_capacity(judges.len());
    for (name, folder) in judges {
        let files = ModelFolder::open_judge(folder).map_err(|error| artifact_failure(&error))?;
        opened.push((name, files));
    }
    let given: Vec<_> = opened.iter().map(|(name, files)| GivenJudge { name, files }).collect();
    base.with_judges(&given).map(Some).map_err(|error| engine_failure(&error))
}

/// What is odd about the base model, for the job's events.
fn send_warnings<E: DeviceEngine>(base: &E, job: &DeviceJob) {
    for warning in base.warnings() {
        send_notice(job, Notice::OddModel { warning: warning.clone() });
    }
}

fn send_notice(job: &DeviceJob, notice: Notice) {
    // A job that was given up needs no notices.
    let _ = job.notices.send(notice);
}
