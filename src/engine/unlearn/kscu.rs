//! Key-Step Concept Unlearning as published (arXiv 2507.06526).

use candle_core::Tensor;

use super::{
    augmentation::augmented,
    esd::row,
    key_steps::{KeyStep, key_step_table},
    objective::{erase_target, unconditional_strength},
    run::Run,
    trainer::{Position, Rate, Trainer},
    training::{Recipe, RecipeState, train},
};
use crate::{
    engine::{
        EngineError, RunContext,
        denoise::{Guidance, ScheduledDenoiser},
        family::{Conditioning, ProjectedConditioning},
        loss::Sample,
        ops::AdamSettings,
        schedule::Schedule,
    },
    spec::{KscuSettings, StepIndex},
};

/// Trains along the Key Step Table, on a latent of the edited model that moves on with it.
pub(super) fn erase(
    run: &mut Run<'_>,
    settings: &KscuSettings,
    context: &mut RunContext<'_>,
) -> Result<Trainer, EngineError> {
    let texts = run.concept_texts()?;
    let empty = run.pipeline.unconditional("", None)?;
    let all: Vec<&Conditioning> = [&empty].into_iter().chain(&texts).collect();
    let schedule = run.pipeline.scheduler.schedule_with_signal(settings.schedule_steps)?;
    let mut recipe = Kscu {
        settings,
        table: key_step_table(settings, schedule.steps_without_signal(), texts.len()).collect(),
        schedule,
        projected: run.pipeline.denoiser.project(&Conditioning::cat(&all)?)?,
        texts,
        empty,
        latent: None,
    };
    let adam = AdamSettings::default();
    Ok(train(run, &mut recipe, adam, settings.updates, context)?.trainer)
}

struct Kscu<'a> {
    settings: &'a KscuSettings,
    schedule: Schedule,
    /// An entry an update.
    table: Vec<KeyStep>,
    texts: Vec<Conditioning>,
    empty: Conditioning,
    /// By the frozen model: the empty prompt and every concept.
    projected: ProjectedConditioning,
    /// That of the last update, where it was trained.
    latent: Option<(KeyStep, Tensor)>,
}

impl Recipe for Kscu<'_> {
    fn update(
        &mut self,
        update: usize,
        run: &mut Run<'_>,
        trainer: &mut Trainer,
        context: &mut RunContext<'_>,
    ) -> Result<bool, EngineError> {
        let Self { settings, schedule, table, texts, empty, projected, latent } = self;
        let Some(&entry) = table.get(update) else { return Ok(true) };
        let frozen = ScheduledDenoiser {
            network: &*run.pipeline.denoiser,
            schedule,
            evaluations: run.evaluations,
            resting: None,
        };
        let text = &texts[entry.concept];
        let (mut z, from) = match latent.take() {
            Some((at, z)) if at.leads_to(entry) => (z, at.step.0),
            _ => (run.fresh_latents(1)?, 0),
        };
        if from < entry.step.0 {
            let edited = ScheduledDenoiser { network: &*trainer.denoiser, ..frozen };
            let guidance = Guidance::new(edited.network, text, empty, settings.guidance_scale)?;
            for step in from..entry.step.0 {
                context.check()?;
                z = edited
                    .guided_step(&z, StepIndex(step), &guidance)
                    .map_err(|error| error.in_update(update))?;
            }
        }

        let pair = projected.select(&[1 + entry.concept, 0])?;
        let (concept, unconditional) = frozen.predict_pair(&z, entry.step, &pair)?;
        let timestep = schedule.timestep(entry.step);
        let augmented_from = settings.updates as f64 * (1.0 - settings.augmented_share);
        let spoken = if update as f64 >= augmented_from {
            augmented(run, entry.concept)?
        } else {
            text.clone()
        };
        let sample = |prompt: &Conditioning, strength: f64, weight: f64| {
            Ok::<_, EngineError>(Sample {
                z: row(&z)?,
                timestep: timestep.0 as f64,
                prompt: prompt.get(0)?,
                target: row(&erase_target(&concept, &unconditional, strength)?)?,
                weight,
            })
        };
        let shift = unconditional_strength(timestep.0, settings.timestep_slope);
        let samples = [
            sample(&spoken, settings.negative_guidance, 1.0)?,
            sample(empty, shift, settings.unconditional_weight)?,
        ];
        let position = Position { update, updates: settings.updates, step: entry.step, timestep };
        let rate = Rate::Absolute(settings.learning_rate);
        trainer.update(&samples, rate, position, run.evaluations, context)?;
        *latent = Some((entry, z));
        Ok(false)
    }

    fn state(&self) -> RecipeState {
        RecipeState { queues: Vec::new(), latent: self.latent.clone() }
    }

    fn resume(&mut self, state: RecipeState) -> Result<(), String> {
        if !state.queues.is_empty() {
            return Err("it holds queues, which kscu has none of".to_owned());
        }
        self.latent = state.latent;
        Ok(())
    }
}
