//! The training step of every method by itself, for measurements and comparisons.

use std::sync::Arc;

use candle_core::Tensor;

use super::trainer::{Position, Rate, Trainer};
use crate::{
    engine::{
        CancelFlag, EngineError, RunContext,
        checkpoint::StoredTensors,
        denoise::EvaluationCounter,
        family::{Conditioning, Unet, UnetConfig},
        loss::Sample,
        nn::{Scoped, Weights},
        ops::{self, AdamSettings},
    },
    spec::{Scope, StepIndex, Timestep},
};

/// What a step learns: the loss is the mean over the batch of the mean squared error.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Noisy latents, `[batch, channels, h, w]`.
    pub z: &'a Tensor,
    /// One for each sample.
    pub timesteps: &'a [f64],
    /// The prompts, a row a sample.
    pub prompts: &'a Conditioning,
    /// What shall be predicted, shaped as `z`.
    pub target: &'a Tensor,
}

/// A U-Net in training without a run around it. It holds no frozen model.
#[derive(Debug)]
pub struct LoneSteps {
    trainer: Trainer,
    evaluations: EvaluationCounter,
    taken: usize,
}

impl LoneSteps {
    /// Copies the tensors in scope; the others are shared with `stored`. Memory is not limited.
    pub fn new(
        stored: &StoredTensors,
        config: &UnetConfig,
        scope: &Scope,
    ) -> Result<Self, EngineError> {
        ops::keep_freed_memory();
        let scoped = Scoped::new(stored, scope)?;
        let unet = Unet::new(&Weights::scoped(stored, &scoped), config)?;
        let trainer = Trainer::new(Arc::new(unet), scoped, AdamSettings::default())?;
        Ok(Self { trainer, evaluations: EvaluationCounter::default(), taken: 0 })
    }

    /// Takes a step of Adam at the given rate; gives the loss before it.
    pub fn step(&mut self, batch: Batch<'_>, rate: f64) -> Result<f64, EngineError> {
        let count = batch.timesteps.len();
        let samples = (0..count).map(|row| {
            Ok(Sample {
                z: batch.z.get(row)?,
                timestep: batch.timesteps[row],
                prompt: batch.prompts.get(row)?,
                target: batch.target.get(row)?,
                weight: 1.0 / count as f64,
            })
        });
        let samples = samples.collect::<Result<Vec<_>, EngineError>>()?;
        let mut ignore = |_| ();
        let mut context =
            RunContext { report: &mut ignore, cancel: CancelFlag::default(), saving: None };
        let position = Position {
            update: self.taken,
            updates: self.taken + 1,
            step: StepIndex(0),
            timestep: Timestep(batch.timesteps.first().map_or(0, |t| *t as _)),
        };
        let rate = Rate::Absolute(rate);
        self.trainer.update(&samples, rate, position, &self.evaluations, &mut context)?;
        self.taken += 1;
        Ok(self.trainer.records.last().map_or(f64::NAN, |record| record.loss))
    }
}
