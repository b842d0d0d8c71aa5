//! Key-Step Concept Unlearning as published (arXiv 2507.06526).

use candle_core::Tensor;

use super::{
    Run,
    augmentation::augmented,
    esd::row,
    key_steps::{KeyStep, key_step_table},
    objective::{erase_target, unconditional_strength},
    trainer::{Position, Rate, Sample, Trainer},
};
use crate::{
    engine::{
        EngineError, RunContext,
        denoise::{Denoiser, Guidance},
        ops::AdamSettings,
    },
    spec::{KscuSettings, StepIndex},
};

/// Trains along the Key Step Table, on a latent of the edited model that moves on with it.
pub(super) fn erase(
    run: &mut Run<'_>,
    settings: &KscuSettings,
    context: &mut RunContext<'_>,
) -> Result<Trainer, EngineError> {
    let (pipeline, evaluations) = (run.pipeline, run.evaluations);
    let schedule = pipeline.scheduler.schedule(settings.schedule_steps)?;
    let mut trainer = Trainer::new(pipeline, &run.spec.scope, AdamSettings::default())?;
    let texts = run.concept_texts()?;
    let empty = pipeline.encode_prompts(&[""])?;
    let guidance = Guidance { unconditional: empty.clone(), scale: settings.guidance_scale };
    let frozen = Denoiser { unet: &pipeline.unet, schedule: &schedule, evaluations };
    let augmented_from = settings.updates as f64 * (1.0 - settings.augmented_share);
    let mut latent: Option<(KeyStep, Tensor)> = None;

    for (update, entry) in key_step_table(settings, texts.len()).enumerate() {
        let text = &texts[entry.concept];
        let edited = Denoiser { unet: &trainer.unet, ..frozen };
        let (mut z, from) = match latent.take() {
            Some((at, z)) if at.leads_to(entry) => (z, at.step.0),
            _ => (run.fresh_latents(1)?, 0),
        };
        for step in from..entry.step.0 {
            context.check()?;
            z = edited.guided_step(&z, StepIndex(step), text, &guidance)?;
        }

        let (concept, unconditional) = frozen.predict_pair(&z, entry.step, text, &empty)?;
        let timestep = schedule.timestep(entry.step);
        let spoken = if update as f64 >= augmented_from {
            augmented(run, entry.concept)?
        } else {
            text.clone()
        };
        let sample = |text: &Tensor, strength: f64, weight: f64| {
            Ok::<_, EngineError>(Sample {
                z: row(&z)?,
                timestep: timestep.0 as f64,
                text: row(text)?,
                target: row(&erase_target(&concept, &unconditional, strength)?)?,
                weight,
            })
        };
        let shift = unconditional_strength(timestep.0, settings.timestep_slope);
        let samples = [
            sample(&spoken, settings.negative_guidance, 1.0)?,
            sample(&empty, shift, settings.unconditional_weight)?,
        ];
        let position = Position { update, updates: settings.updates, step: entry.step, timestep };
        let rate = Rate::Absolute(settings.learning_rate);
        trainer.update(&samples, rate, position, evaluations, context)?;
        latent = Some((entry, z));
    }
    Ok(trainer)
}
