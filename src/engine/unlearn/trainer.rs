//! One update: predict, compare, differentiate, check, step.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::Tensor;

use crate::{
    engine::{
        EngineError, RunContext,
        denoise::EvaluationCounter,
        family::Denoiser,
        loss::{Gradients, Sample, loss_and_gradients},
        nn::Scoped,
        ops::{self, Adam, AdamSettings, Moments},
    },
    outcome::{Phase, Progress, UpdateRecord},
    spec::{StepIndex, Timestep},
};

/// A tensor that starts at zero must still be able to move.
const LEAST_SCALE: f64 = 1e-3;

/// How far Adam moves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rate {
    /// The same for every tensor.
    Absolute(f64),
    /// A share of each tensor's root mean square.
    Relative(f64),
}

/// Where an update stands, for its record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) update: usize,
    pub(super) updates: usize,
    pub(super) step: StepIndex,
    pub(super) timestep: Timestep,
}

/// The edited model while it is trained.
#[derive(Debug)]
pub(super) struct Trainer {
    /// Shares every tensor outside the scope with the frozen one.
    pub(super) denoiser: Arc<dyn Denoiser>,
    pub(super) scoped: Scoped,
    pub(super) records: Vec<UpdateRecord>,
    adam: Adam,
    /// Root mean square of each variable as loaded.
    scales: BTreeMap<String, f64>,
}

impl Trainer {
    /// Of a denoiser whose variables are `scoped`.
    pub(super) fn new(
        denoiser: Arc<dyn Denoiser>,
        scoped: Scoped,
        adam: AdamSettings,
    ) -> Result<Self, EngineError> {
        let scales = scoped
            .variables
            .iter()
            .map(|(name, variable)| Ok((name.clone(), root_mean_square(variable)?)))
            .collect::<Result<_, EngineError>>()?;
        let adam = Adam::new(&scoped.variables, adam)?;
        Ok(Self { denoiser, scoped, records: Vec::new(), adam, scales })
    }

    /// Takes one optimiser step on the samples and reports it.
    pub(super) fn update(
        &mut self,
        samples: &[Sample],
        rate: Rate,
        position: Position,
        evaluations: &EvaluationCounter,
        context: &mut RunContext<'_>,
    ) -> Result<(), EngineError> {
        context.check()?;
        evaluations.add(samples.len());
        let variables = &self.scoped.variables;
        let (loss, gradients) =
            loss_and_gradients(&*self.denoiser, variables, samples, position.update)?;
        let not_finite =
            |what, value| EngineError::NotFinite { what, value, update: position.update };
        if !loss.is_finite() {
            return Err(not_finite("the loss", loss));
        }
        let gradient_norm = checked_norm(&gradients, position.update)?;
        if !gradient_norm.is_finite() {
            return Err(not_finite("the gradient's norm", gradient_norm));
        }
        let scales = &self.scales;
        self.adam.step(variables, &gradients, |name| match rate {
            Rate::Absolute(rate) => rate,
            Rate::Relative(share) => {
                share * scales.get(name).copied().unwrap_or(LEAST_SCALE).max(LEAST_SCALE)
            }
        })?;
        let record = UpdateRecord {
            update: position.update,
            step: position.step,
            timestep: position.timestep,
            loss,
            gradient_norm,
            unet_evaluations: evaluations.get(),
        };
        self.records.push(record.clone());
        (context.report)(Progress {
            phase: Phase::Train,
            done: position.update + 1,
            total: position.updates,
            update: Some(record),
        });
        Ok(())
    }

    /// Optimiser steps taken.
    pub(super) fn optimiser_steps(&self) -> u32 {
        self.adam.steps()
    }

    /// Every tensor that an update changes, by a name of its own: the weights in scope and the
    /// optimiser's moments. Handles, not copies: the next update changes them in place.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        let weights = self.scoped.variables.iter();
        let weights =
            weights.map(|(name, variable)| (weight_name(name), variable.as_detached_tensor()));
        let moments = self.adam.moments().iter().flat_map(|(name, moments)| {
            [(mean_name(name), &moments.mean), (square_name(name), &moments.square)]
        });
        weights.chain(moments.map(|(name, tensor)| (name, tensor.clone())))
    }

    /// Goes on from tensors that [`Trainer::tensors`] gave, read one by one. Half done when it
    /// fails: the trainer is then of no more use.
    pub(super) fn restore(
        &mut self,
        adam: AdamSettings,
        optimiser_steps: u32,
        records: Vec<UpdateRecord>,
        mut read: impl FnMut(&str) -> Result<Tensor, String>,
    ) -> Result<(), String> {
        let mut moments = BTreeMap::new();
        for (name, variable) in &self.scoped.variables {
            let weights = read(&weight_name(name))?;
            variable.set(&weights).map_err(|error| error.to_string())?;
            let (mean, square) = (read(&mean_name(name))?, read(&square_name(name))?);
            moments.insert(name.clone(), Moments { mean, square });
        }
        self.adam = Adam::resume(adam, moments, optimiser_steps);
        self.records = records;
        Ok(())
    }

    /// The largest rate that a relative one amounts to.
    pub(super) fn largest_rate(&self, share: f64) -> f64 {
        self.scales.values().fold(0.0, |largest: f64, scale| largest.max(share * scale))
    }
}

fn weight_name(variable: &str) -> String {
    format!("weight/{variable}")
}

fn mean_name(variable: &str) -> String {
    format!("mean/{variable}")
}

fn square_name(variable: &str) -> String {
    format!("square/{variable}")
}

/// The global 2-norm; refuses a gradient that is all zeros.
fn checked_norm(gradients: &Gradients, update: usize) -> Result<f64, EngineError> {
    let squares = ops::sums_of_squares(&gradients.values().collect::<Vec<_>>())?;
    let mut sum = 0.0;
    for ((name, gradient), squares) in gradients.iter().zip(squares) {
        // The squares of what is tiny vanish, and it is no zero for that.
        if squares == 0.0 && f64::from(gradient.abs()?.max_all()?.to_scalar::<f32>()?) == 0.0 {
            return Err(EngineError::ZeroGradient { name: name.clone(), update });
        }
        sum += squares;
    }
    Ok(sum.sqrt())
}

pub(super) fn root_mean_square(tensor: &Tensor) -> Result<f64, EngineError> {
    Ok(f64::from(tensor.sqr()?.mean_all()?.to_scalar::<f32>()?).sqrt())
}
