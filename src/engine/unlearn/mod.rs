//! Erasing concepts: the published methods exactly, and our own.

mod augmentation;
mod erased;
mod esd;
mod key_steps;
mod keystep;
mod kscu;
mod lone_steps;
mod objective;
mod probe;
mod run;
pub(super) mod trainer;
mod training;
mod trajectory_bank;
mod walked;

use std::collections::BTreeMap;

pub use erased::ErasedCheckpoint;
pub use lone_steps::{Batch, LoneSteps};
// What decides a run's cost, for a plan of it.
pub(super) use esd::drawn_step;
pub(super) use key_steps::{KeyStep, key_step_table};
pub(super) use keystep::{looks_after, steps_inside};
pub(super) use probe::{
    SAMPLES as PROBE_SAMPLES, STEPS as PROBE_STEPS, TRAJECTORIES as PROBE_TRAJECTORIES,
};
pub(super) use trajectory_bank::concept_walks;

use super::{
    EngineError, Pipeline, RunContext, SavePoint, StatePart,
    denoise::EvaluationCounter,
    schedule::NoiseSource,
    score::score_timesteps,
    state::{Checkpointer, Contents, Identity, SaveOccasion, ignore},
};
use crate::{
    outcome::{TimestepScores, TrainingLog},
    spec::{Concept, KeySteps, LogSnrWindow, Method, ScoreSpec, StepIndex, UnlearnSpec},
};
use probe::{LEAST_ERASURE, LEAST_WEIGHT_CHANGE, MOST_DAMAGE, Probe};
use run::Run;
use trainer::Trainer;

/// Erases the spec's concepts from the pipeline's denoiser; the pipeline itself stays as it is.
pub(super) fn unlearn(
    pipeline: &Pipeline,
    spec: &UnlearnSpec,
    context: &mut RunContext<'_>,
) -> Result<ErasedCheckpoint, EngineError> {
    check(pipeline, spec)?;
    let (evaluations, checks) = (EvaluationCounter::default(), EvaluationCounter::default());
    let mut run = Run {
        pipeline,
        spec,
        noise: NoiseSource::new(spec.seed),
        evaluations: &evaluations,
        checks: &checks,
        checkpointer: Checkpointer::new(context, || Identity::of(pipeline, spec))?,
    };
    let probe = Probe::new(&run, context)?;
    let mut scores = Vec::new();
    let mut stopped_early = false;
    let mut window = None;
    // The published methods have no preserve term.
    let mut held = Some(Vec::new());
    let (trainer, learning_rate, key_steps) = match &spec.method {
        Method::Esd(settings) => {
            let trainer = esd::erase(&mut run, settings, context)?;
            let steps = trained_steps(&trainer);
            (trainer, settings.learning_rate, steps)
        }
        Method::Kscu(settings) => {
            let trainer = kscu::erase(&mut run, settings, context)?;
            let steps = trained_steps(&trainer);
            (trainer, settings.learning_rate, steps)
        }
        Method::Keystep(settings) => {
            let measured = match settings.key_steps {
                KeySteps::Window(window) => window,
                KeySteps::Measured => {
                    scores = measure(&mut run, context)?;
                    union(&scores)
                }
            };
            window = Some(measured);
            let finished = keystep::erase(&mut run, settings, measured, &probe, context)?;
            stopped_early = finished.stopped_early;
            held = finished.held;
            let rate = finished.trainer.largest_rate(settings.relative_rate);
            (finished.trainer, rate, finished.key_steps)
        }
    };

    // Training is over: a pause would gain nothing any more, a cancelled run still ends as one.
    let found = probe.measure(&*trainer.denoiser, window)?;
    context.check_cancelled()?;
    let erased = ErasedCheckpoint::new(pipeline, spec, &trainer.scoped)?;
    let log = TrainingLog {
        key_steps,
        unet_evaluations: evaluations.get(),
        check_evaluations: checks.get(),
        stopped_early,
        erase_measure: found.erase_measure,
        damage_measure: found.damage_measure,
        weight_change: erased.weight_change(pipeline)?,
        learning_rate,
        window,
        held,
        updates: trainer.records,
    };
    check_outcome(&log)?;
    context.check_cancelled()?;
    Ok(ErasedCheckpoint { log, scores, ..erased })
}

/// What only the model can tell of a request, before any work: a slip must not cost the hour in
/// which its turn would come.
pub(super) fn check(pipeline: &Pipeline, spec: &UnlearnSpec) -> Result<(), EngineError> {
    spec.validate()?;
    pipeline.trained_names(&spec.scope)?;
    pipeline.reader().check_unlearn(spec)
}

/// A run that did nothing, or too much, has failed.
fn check_outcome(log: &TrainingLog) -> Result<(), EngineError> {
    for (what, value) in
        [("the erase measure", log.erase_measure), ("the weights' change", log.weight_change)]
    {
        if !value.is_finite() {
            return Err(EngineError::NotFinite { what, value, update: log.updates.len() });
        }
    }
    if log.weight_change < LEAST_WEIGHT_CHANGE {
        return Err(EngineError::NoOp {
            measure: "the weights' relative change",
            value: log.weight_change,
            limit: LEAST_WEIGHT_CHANGE,
        });
    }
    if log.damage_measure.is_nan() || log.damage_measure > MOST_DAMAGE {
        return Err(EngineError::WreckedModel { value: log.damage_measure, limit: MOST_DAMAGE });
    }
    let erasure = 1.0 - log.erase_measure;
    if erasure.abs() < LEAST_ERASURE {
        return Err(EngineError::NoOp {
            measure: "the fall of the concept's guidance",
            value: erasure,
            limit: LEAST_ERASURE,
        });
    }
    Ok(())
}

/// Scores every concept by its guidance alone: the window needs no more. Saved after each.
fn measure(
    run: &mut Run<'_>,
    context: &mut RunContext<'_>,
) -> Result<Vec<TimestepScores>, EngineError> {
    let wanted: Vec<ScoreSpec> =
        run.spec.concepts.iter().map(|concept| window_scores(run.spec, concept)).collect();
    let mut scores: Vec<TimestepScores> = Vec::new();
    if let Some(saved) = run.checkpointer.find(StatePart::Scores, context) {
        let taken = saved.require(&BTreeMap::new()).and_then(|()| saved.body());
        let taken = taken.and_then(|found: Vec<TimestepScores>| {
            let wanted = wanted.iter().take(found.len());
            if found.iter().map(|scores| &scores.spec).eq(wanted) {
                Ok(found)
            } else {
                Err("it holds scores of other concepts".to_owned())
            }
        });
        match taken {
            Ok(found) => scores = found,
            Err(reason) => ignore(StatePart::Scores, reason, context),
        }
    }
    for spec in &wanted[scores.len()..] {
        scores.push(score_timesteps(run.pipeline, spec, context)?);
        let point = SavePoint { part: StatePart::Scores, done: scores.len() as u64 };
        let contents = Contents::new(&scores, []);
        run.checkpointer.save(point, SaveOccasion::UnderWay, &contents, context)?;
    }
    Ok(scores)
}

/// What is asked of the scores that a window is chosen by.
pub(super) fn window_scores(spec: &UnlearnSpec, concept: &Concept) -> ScoreSpec {
    ScoreSpec {
        gradient_share: false,
        switch_curve: false,
        scope: spec.scope.clone(),
        seed: spec.seed,
        ..ScoreSpec::new(concept.clone(), spec.vocabulary.clone())
    }
}

/// The band that holds every concept's window.
fn union(scores: &[TimestepScores]) -> LogSnrWindow {
    scores
        .iter()
        .map(|scores| scores.window)
        .fold(LogSnrWindow { low: f64::INFINITY, high: f64::NEG_INFINITY }, |all, one| {
            LogSnrWindow { low: all.low.min(one.low), high: all.high.max(one.high) }
        })
}

fn trained_steps(trainer: &Trainer) -> Vec<StepIndex> {
    let mut steps: Vec<_> = trainer.records.iter().map(|record| record.step).collect();
    steps.sort_unstable();
    steps.dedup();
    steps
}
