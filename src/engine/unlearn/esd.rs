//! Erased Stable Diffusion as published (arXiv 2303.07345; script `train-scripts/train-esd.py`).

use candle_core::Tensor;

use super::{
    Run,
    objective::{erase_target, replacing_target},
    trainer::{Position, Rate, Sample, Trainer},
};
use crate::{
    engine::{
        EngineError, RunContext,
        denoise::{Denoiser, Guidance},
        ops::AdamSettings,
    },
    spec::{EsdSettings, StepIndex},
};

/// Trains at uniformly drawn steps, on latents that the edited model denoises afresh each time.
pub(super) fn erase(
    run: &mut Run<'_>,
    settings: &EsdSettings,
    context: &mut RunContext<'_>,
) -> Result<Trainer, EngineError> {
    let (pipeline, evaluations) = (run.pipeline, run.evaluations);
    let schedule = pipeline.scheduler.schedule(settings.schedule_steps)?;
    let mut trainer = Trainer::new(pipeline, &run.spec.scope, AdamSettings::default())?;
    let texts = run.concept_texts()?;
    let replacements = run.replacement_texts()?;
    let empty = pipeline.encode_prompts(&[""])?;
    let guidance = Guidance { unconditional: empty.clone(), scale: settings.guidance_scale };
    let frozen = Denoiser { unet: &pipeline.unet, schedule: &schedule, evaluations };
    for update in 0..settings.updates {
        let concept_index = run.noise.index(texts.len());
        let text = &texts[concept_index];
        let step = StepIndex(run.noise.index(schedule.len()));
        let mut z = run.fresh_latents(1)?;
        {
            let edited = Denoiser { unet: &trainer.unet, ..frozen };
            for earlier in 0..step.0 {
                context.check()?;
                z = edited.guided_step(&z, StepIndex(earlier), text, &guidance)?;
            }
        }
        let (concept, unconditional) = frozen.predict_pair(&z, step, text, &empty)?;
        let strength = settings.negative_guidance;
        let target = match &replacements[concept_index] {
            None => erase_target(&concept, &unconditional, strength)?,
            Some(replacement) => {
                let replacement = frozen.predict(&z, step, replacement)?;
                replacing_target(&replacement, &concept, &unconditional, strength)?
            }
        };
        let sample = Sample {
            z: row(&z)?,
            timestep: schedule.timestep(step).0 as f64,
            text: row(text)?,
            target: row(&target)?,
            weight: 1.0,
        };
        let position =
            Position { update, updates: settings.updates, step, timestep: schedule.timestep(step) };
        let rate = Rate::Absolute(settings.learning_rate);
        trainer.update(&[sample], rate, position, evaluations, context)?;
    }
    Ok(trainer)
}

/// The only row of a batch of one.
pub(super) fn row(batch: &Tensor) -> Result<Tensor, EngineError> {
    Ok(batch.squeeze(0)?)
}
