//! How strongly the erase loss pulls on the weights in scope at each step, against how strongly
//! the preserve loss then pulls back.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::{
    engine::{
        EngineError, Pipeline, RunContext,
        denoise::EvaluationCounter,
        family::{Conditioning, Denoiser},
        loss::{Sample, loss_and_gradients},
        nn::Scoped,
        ops,
        schedule::Schedule,
        trajectory::Footprint,
    },
    outcome::Phase,
    spec::{ScoreSpec, StepIndex},
};

/// Trajectories whose gradients are taken; gradients are dear and vary little.
pub(super) const TRAJECTORIES: usize = 4;

/// At the frozen weights the preserve loss and its gradient are nil; they are taken after a step of
/// this share of the weights' norm along the erase loss's gradient.
const TRIAL_STEP: f64 = 1e-3;

/// What was walked, with the prompts.
pub(super) struct Paths<'a> {
    pub(super) schedule: &'a Schedule,
    pub(super) concept: (&'a [Footprint], &'a Conditioning),
    pub(super) neighbour: (&'a [Footprint], &'a Conditioning),
}

/// For each step, a ratio of gradient norms a trajectory; none for a step without signal.
pub(super) fn measure(
    pipeline: &Pipeline,
    spec: &ScoreSpec,
    paths: &Paths<'_>,
    evaluations: &EvaluationCounter,
    context: &mut RunContext<'_>,
) -> Result<Vec<Vec<f64>>, EngineError> {
    let steps = paths.schedule.len();
    let rows = TRAJECTORIES.min(spec.trajectories);
    // A trial moves the weights, so every trajectory has a model of its own.
    let trials = (0..rows)
        .map(|row| {
            let scoped = pipeline.scoped(&spec.scope)?;
            let denoiser = pipeline.trained(&scoped)?;
            Ok(Trial { pipeline, scoped, denoiser, row })
        })
        .collect::<Result<Vec<_>, EngineError>>()?;
    let mut shares = Vec::with_capacity(steps);
    for index in 0..steps {
        context.advance(Phase::Score, index, steps)?;
        if !paths.schedule.has_signal(StepIndex(index)) {
            shares.push(Vec::new());
            continue;
        }
        evaluations.add(2 * rows);
        let of_step = trials
            .par_iter()
            .map(|trial| trial.share(paths, index))
            .collect::<Result<Vec<_>, EngineError>>()?;
        shares.push(of_step);
    }
    context.advance(Phase::Score, steps, steps)?;
    Ok(shares)
}

struct Trial<'a> {
    pipeline: &'a Pipeline,
    scoped: Scoped,
    denoiser: Arc<dyn Denoiser>,
    row: usize,
}

impl Trial<'_> {
    fn share(&self, paths: &Paths<'_>, index: usize) -> Result<f64, EngineError> {
        let (concept, neighbour) = (&paths.concept.0[index], &paths.neighbour.0[index]);
        let timestep = paths.schedule.timestep(concept.step).0 as f64;
        let sample = |footprint: &Footprint, prompts: &Conditioning, target: &Tensor| {
            Ok::<_, EngineError>(Sample {
                z: footprint.z.get(self.row)?,
                timestep,
                prompt: prompts.get(self.row)?,
                target: target.get(self.row)?,
                weight: 1.0,
            })
        };
        let anchor = concept.counterpart.as_ref().unwrap_or(&concept.empty);
        let erase = sample(concept, paths.concept.1, anchor)?;
        let preserve = sample(neighbour, paths.neighbour.1, &neighbour.lead)?;

        let variables = &self.scoped.variables;
        let (_, pull) = loss_and_gradients(&*self.denoiser, variables, &[erase], 0)?;
        let pull_norm = norm(&pull)?;
        if pull_norm == 0.0 {
            return Ok(0.0);
        }
        let device = &self.pipeline.device;
        let stored = variables.keys().filter_map(|name| {
            let stored = self.pipeline.unet_tensors.tensors.get(name)?;
            let wide = stored.tensor.to_dtype(DType::F32).and_then(|wide| wide.to_device(device));
            Some(wide.map(|tensor| (name.clone(), tensor)))
        });
        let weights = stored.collect::<candle_core::Result<BTreeMap<_, _>>>()?;
        let length = TRIAL_STEP * norm(&weights)? / pull_norm;
        for (name, variable) in variables {
            variable.set(&(&weights[name] - (&pull[name] * length)?)?)?;
        }
        let (_, resistance) = loss_and_gradients(&*self.denoiser, variables, &[preserve], 0)?;
        for (name, variable) in variables {
            variable.set(&weights[name])?;
        }
        Ok(pull_norm / norm(&resistance)?.max(f64::MIN_POSITIVE))
    }
}

fn norm(tensors: &BTreeMap<String, Tensor>) -> Result<f64, EngineError> {
    let squares = ops::sums_of_squares(&tensors.values().collect::<Vec<_>>())?;
    Ok(squares.into_iter().sum::<f64>().sqrt())
}
