//! Judges an edited model within a run.

use super::{DeviceEngine, RunError, RunPorts};
use crate::{
    engine::{CancelFlag, EngineError, RunContext},
    outcome::{ConceptVerdict, JudgeReport, Progress},
    spec::JudgeSpec,
};

/// Judges with both flags watched: a judgement is not saved, so that a pause ends it.
pub(super) fn judge<E: DeviceEngine>(
    base: &E,
    edited: &E,
    spec: &JudgeSpec,
    ports: &mut RunPorts<'_>,
) -> Result<JudgeReport, RunError> {
    let stop = CancelFlag::default();
    let (cancel, pause) = (ports.cancel.clone(), ports.pause.clone());
    let progress = &mut *ports.progress;
    let mut report = |event: Progress| {
        progress(event);
        if cancel.is_cancelled() || pause.is_paused() {
            stop.cancel();
        }
    };
    let mut context = RunContext { report: &mut report, cancel: stop.clone(), saving: None };
    match base.judge(spec, edited, &mut *ports.pictures, &mut context) {
        Ok(judged) => {
            let (all, kept) = (judged.unet_evaluations, judged.kept_evaluations);
            tracing::info!(unet_evaluations = all, kept, "a result is judged");
            Ok(judged)
        }
        Err(EngineError::Cancelled) => {
            // Which of the two it was.
            ports.check()?;
            Err(EngineError::Cancelled.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The verdicts of a judgement, each with the concept that it is about.
pub(super) fn verdicts(judged: &JudgeReport) -> impl Iterator<Item = ConceptVerdict> + '_ {
    judged.verdicts.iter().map(|verdict| ConceptVerdict {
        concept: judged.spec.concept.text.clone(),
        verdict: verdict.clone(),
    })
}
