//! Erased Stable Diffusion as published (arXiv 2303.07345; script `train-scripts/train-esd.py`).

use candle_core::Tensor;

use super::{
    objective::{erase_target, replacing_target},
    run::Run,
    trainer::{Position, Rate, Trainer},
    training::{Recipe, train},
};
use crate::{
    engine::{
        EngineError, RunContext,
        denoise::{Guidance, ScheduledDenoiser},
        family::{Conditioning, ProjectedConditioning},
        loss::Sample,
        ops::AdamSettings,
        schedule::{NoiseSource, Schedule},
    },
    spec::{EsdSettings, StepIndex},
};

/// Trains at uniformly drawn steps that have signal, on latents that the edited model denoises afresh each time.
pub(super) fn erase(
    run: &mut Run<'_>,
    settings: &EsdSettings,
    context: &mut RunContext<'_>,
) -> Result<Trainer, EngineError> {
    let empty = run.pipeline.unconditional("", None)?;
    let (texts, replacements) = (run.concept_texts()?, run.replacement_texts()?);
    let replacements = replacements.iter().zip(&texts);
    let replacements = replacements.map(|(replacement, text)| replacement.as_ref().unwrap_or(text));
    let all: Vec<&Conditioning> = [&empty].into_iter().chain(&texts).chain(replacements).collect();
    let mut recipe = Esd {
        settings,
        schedule: run.pipeline.scheduler.schedule_with_signal(settings.schedule_steps)?,
        projected: run.pipeline.denoiser.project(&Conditioning::cat(&all)?)?,
        texts,
        empty,
    };
    let adam = AdamSettings::default();
    Ok(train(run, &mut recipe, adam, settings.updates, context)?.trainer)
}

struct Esd<'a> {
    settings: &'a EsdSettings,
    schedule: Schedule,
    texts: Vec<Conditioning>,
    empty: Conditioning,
    /// By the frozen model: the empty prompt, every concept, and what shall replace each, which is
    /// the concept itself where nothing shall.
    projected: ProjectedConditioning,
}

impl Recipe for Esd<'_> {
    fn update(
        &mut self,
        update: usize,
        run: &mut Run<'_>,
        trainer: &mut Trainer,
        context: &mut RunContext<'_>,
    ) -> Result<bool, EngineError> {
        let Self { settings, schedule, texts, empty, projected } = self;
        let frozen = ScheduledDenoiser {
            network: &*run.pipeline.denoiser,
            schedule,
            evaluations: run.evaluations,
            resting: None,
        };
        let concept_index = run.noise.index(texts.len());
        let text = &texts[concept_index];
        let step = drawn_step(schedule, &mut run.noise);
        let mut z = run.fresh_latents(1)?;
        if step.0 > 0 {
            let edited = ScheduledDenoiser { network: &*trainer.denoiser, ..frozen };
            let guidance = Guidance::new(edited.network, text, empty, settings.guidance_scale)?;
            for earlier in 0..step.0 {
                context.check()?;
                z = edited
                    .guided_step(&z, StepIndex(earlier), &guidance)
                    .map_err(|error| error.in_update(update))?;
            }
        }
        let pair = projected.select(&[1 + concept_index, 0])?;
        let (concept, unconditional) = frozen.predict_pair(&z, step, &pair)?;
        let strength = settings.negative_guidance;
        let target = if run.spec.concepts[concept_index].replacement.is_some() {
            let replacement = projected.select(&[1 + texts.len() + concept_index])?;
            let replacement = frozen.predict(&z, step, &replacement)?;
            replacing_target(&replacement, &concept, &unconditional, strength)?
        } else {
            erase_target(&concept, &unconditional, strength)?
        };
        let timestep = schedule.timestep(step);
        let sample = Sample {
            z: row(&z)?,
            timestep: timestep.0 as f64,
            prompt: text.get(0)?,
            target: row(&target)?,
            weight: 1.0,
        };
        let position = Position { update, updates: settings.updates, step, timestep };
        let rate = Rate::Absolute(settings.learning_rate);
        trainer.update(&[sample], rate, position, run.evaluations, context)?;
        Ok(false)
    }
}

/// Any of the steps with signal, all as likely.
pub(in crate::engine) fn drawn_step(schedule: &Schedule, noise: &mut NoiseSource) -> StepIndex {
    let first = schedule.steps_without_signal();
    StepIndex(first + noise.index(schedule.len() - first))
}

/// The only row of a batch of one.
pub(super) fn row(batch: &Tensor) -> Result<Tensor, EngineError> {
    Ok(batch.squeeze(0)?)
}
