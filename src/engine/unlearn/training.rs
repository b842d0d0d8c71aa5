//! The loop of every method, an update at a time, and how it goes on after an interruption.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{key_steps::KeyStep, run::Run, trainer::Trainer};
use crate::{
    engine::{
        EngineError, RunContext, SavePoint, StatePart,
        ops::AdamSettings,
        schedule::{NoiseSource, NoiseState},
        state::{Contents, SaveOccasion, SavedPart, ignore, tell},
    },
    outcome::{Notice, UpdateRecord},
};

/// What a method does in each update.
pub(super) trait Recipe {
    /// Takes an update; says whether training may stop here.
    ///
    /// Nothing of the trainer changes before the last unit of work that a pause can be seen in.
    fn update(
        &mut self,
        update: usize,
        run: &mut Run<'_>,
        trainer: &mut Trainer,
        context: &mut RunContext<'_>,
    ) -> Result<bool, EngineError>;

    /// Where the recipe stands between two updates.
    fn state(&self) -> RecipeState {
        RecipeState::default()
    }

    /// Takes up a state that was saved, or says why it cannot be one of this recipe's.
    fn resume(&mut self, state: RecipeState) -> Result<(), String> {
        let RecipeState { queues, latent } = state;
        if queues.is_empty() && latent.is_none() {
            Ok(())
        } else {
            Err("it holds queues or a latent, which this method has none of".to_owned())
        }
    }
}

/// What a recipe carries from one update to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct RecipeState {
    /// What is left of each queue of samples, in the order of drawing.
    pub(super) queues: Vec<Vec<usize>>,
    /// A latent on its way down, and the key step that it was trained at last.
    pub(super) latent: Option<(KeyStep, Tensor)>,
}

/// A finished training.
#[derive(Debug)]
pub(super) struct Trained {
    pub(super) trainer: Trainer,
    pub(super) stopped_early: bool,
}

/// Where a run stands between two updates, beside the trainer's own tensors.
#[derive(Debug)]
struct TrainingPoint {
    /// The update that comes next.
    next: usize,
    noise: NoiseSource,
    evaluations: u64,
    checks: u64,
    stopped_early: bool,
    state: RecipeState,
}

/// [`StatePart::Training`] without its tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    next: usize,
    noise: NoiseState,
    evaluations: u64,
    checks: u64,
    stopped_early: bool,
    optimiser_steps: u32,
    queues: Vec<Vec<usize>>,
    latent: Option<KeyStep>,
    records: Vec<UpdateRecord>,
}

/// The tensor of [`RecipeState::latent`].
const LATENT: &str = "latent";

/// Trains for so many updates, from the beginning or from where the run's saved state stands.
pub(super) fn train(
    run: &mut Run<'_>,
    recipe: &mut dyn Recipe,
    adam: AdamSettings,
    updates: usize,
    context: &mut RunContext<'_>,
) -> Result<Trained, EngineError> {
    let pipeline = run.pipeline;
    let untrained = || {
        let scoped = pipeline.scoped(&run.spec.scope)?;
        Trainer::new(pipeline.trained(&scoped)?, scoped, adam)
    };
    let mut trainer = untrained()?;
    let mut stopped_early = false;
    let mut next = 0;
    if let Some(saved) = run.checkpointer.find(StatePart::Training, context) {
        match restore(run, recipe, &mut trainer, saved, (adam, updates)) {
            Ok(point) => {
                (next, stopped_early) = (point.next, point.stopped_early);
                tell(Notice::Resumed { update: next }, context);
            }
            Err(reason) => {
                ignore(StatePart::Training, reason, context);
                trainer = untrained()?;
            }
        }
    }
    let mut saved_at = next;
    loop {
        let is_finished = stopped_early || next >= updates;
        let point = run.point(next, stopped_early, recipe, context);
        if let Some(point) = &point {
            save(run, &trainer, (point, is_finished), &mut saved_at, context)?;
        }
        // The last look at the flags comes after the last update.
        context.check()?;
        if is_finished {
            return Ok(Trained { trainer, stopped_early });
        }
        match (recipe.update(next, run, &mut trainer, context), point) {
            (Ok(stop), _) => stopped_early = stop,
            // On the way to the update: the weights are still those of its beginning.
            (Err(EngineError::Paused), Some(point)) => {
                save(run, &trainer, (&point, false), &mut saved_at, context)?;
                return Err(EngineError::Paused);
            }
            (Err(error), _) => return Err(error),
        }
        next += 1;
    }
}

impl Run<'_> {
    /// None where nothing is saved.
    fn point(
        &self,
        next: usize,
        stopped_early: bool,
        recipe: &dyn Recipe,
        context: &RunContext<'_>,
    ) -> Option<TrainingPoint> {
        context.saving.as_ref()?;
        Some(TrainingPoint {
            next,
            noise: self.noise.clone(),
            evaluations: self.evaluations.get(),
            checks: self.checks.get(),
            stopped_early,
            state: recipe.state(),
        })
    }
}

/// Saves where the run stands if it is time to, if it shall pause, or if the training is finished, so
/// that a process that is lost while it judges or publishes does not train again.
fn save(
    run: &mut Run<'_>,
    trainer: &Trainer,
    (point, is_finished): (&TrainingPoint, bool),
    saved_at: &mut usize,
    context: &mut RunContext<'_>,
) -> Result<(), EngineError> {
    let is_due = context.saving.as_mut().is_some_and(|saving| {
        let is_counted = is_finished || point.next.is_multiple_of(saving.every.max(1));
        saving.every > 0 && is_counted || (saving.due)()
    });
    let paused = context.is_paused();
    if point.next == *saved_at || context.cancel.is_cancelled() || !(is_due || paused) {
        return Ok(());
    }
    let (latent_at, latent) = point.state.latent.clone().unzip();
    let body = Body {
        next: point.next,
        noise: point.noise.state(),
        evaluations: point.evaluations,
        checks: point.checks,
        stopped_early: point.stopped_early,
        optimiser_steps: trainer.optimiser_steps(),
        queues: point.state.queues.clone(),
        latent: latent_at,
        records: trainer.records.clone(),
    };
    let latent = latent.map(|latent| (LATENT.to_owned(), latent));
    let contents = Contents::new(&body, trainer.tensors().chain(latent));
    let save_point = SavePoint { part: StatePart::Training, done: point.next as u64 };
    let occasion = match (paused, is_finished) {
        (true, _) => SaveOccasion::Pause,
        (false, true) => SaveOccasion::End,
        (false, false) => SaveOccasion::UnderWay,
    };
    if run.checkpointer.save(save_point, occasion, &contents, context)? {
        *saved_at = point.next;
    }
    Ok(())
}

/// Takes up saved state; an error says what is wrong with it, and leaves the trainer unusable.
fn restore(
    run: &mut Run<'_>,
    recipe: &mut dyn Recipe,
    trainer: &mut Trainer,
    mut saved: SavedPart,
    (adam, updates): (AdamSettings, usize),
) -> Result<TrainingPoint, String> {
    let body: Body = saved.body()?;
    let noise = NoiseSource::resume(&body.noise)
        .ok_or("its noise does not hold the words of a generator's state")?;
    let in_order = body.records.iter().enumerate().all(|(index, record)| record.update == index);
    if body.next > updates || body.records.len() != body.next || !in_order {
        return Err(format!(
            "it holds {} records and stands before update {} of {updates}",
            body.records.len(),
            body.next
        ));
    }
    let message = |error: EngineError| error.to_string();
    let mut shapes: BTreeMap<_, _> =
        trainer.tensors().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect();
    if body.latent.is_some() {
        let [channels, height, width] = run.pipeline.latent_shape(None).map_err(message)?;
        shapes.insert(LATENT.to_owned(), vec![1, channels, height, width]);
    }
    saved.require(&shapes)?;

    let device = &run.pipeline.device;
    let latent = match body.latent {
        None => None,
        Some(at) => Some((at, saved.tensor(LATENT, device)?)),
    };
    trainer.restore(adam, body.optimiser_steps, body.records, |name| saved.tensor(name, device))?;
    let state = RecipeState { queues: body.queues, latent };
    recipe.resume(state.clone())?;
    run.noise = noise.clone();
    run.evaluations.set(body.evaluations);
    run.checks.set(body.checks);
    Ok(TrainingPoint {
        next: body.next,
        noise,
        evaluations: body.evaluations,
        checks: body.checks,
        stopped_early: body.stopped_early,
        state,
    })
}
