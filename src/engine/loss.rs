//! The loss of predictions, and its gradients: the sum over samples of weight times mean squared
//! error.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use super::{
    EngineError,
    denoise::{cells, samples_a_pass, side_by_side},
    family::{Conditioning, Denoiser},
    ops,
};

/// One prediction to train, and what it shall become.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// `[channels, h, w]`.
    pub(super) z: Tensor,
    pub(super) timestep: f64,
    /// Without the axis of prompts.
    pub(super) prompt: Conditioning,
    /// `[channels, h, w]`.
    pub(super) target: Tensor,
    /// The loss is the sum over samples of weight times mean squared error.
    pub(super) weight: f64,
}

/// Of each variable by its name.
pub(super) type Gradients = BTreeMap<String, Tensor>;

/// The loss and its gradient for every variable. Passes of a few samples each run side by side;
/// their gradients are summed in a fixed order.
pub(super) fn loss_and_gradients(
    denoiser: &dyn Denoiser,
    variables: &BTreeMap<String, Var>,
    samples: &[Sample],
    update: usize,
) -> Result<(f64, Gradients), EngineError> {
    let cells = samples.first().map_or(Ok(0), |sample| cells(&sample.z))?;
    let passes: Vec<_> = samples.chunks(samples_a_pass(samples.len(), cells)).collect();
    let passes = side_by_side(denoiser, &passes, |samples| pass(denoiser, variables, samples))?;
    let mut loss = 0.0;
    let mut parts: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for (part, gradients) in passes {
        loss += part;
        for (name, gradient) in gradients {
            parts.entry(name).or_default().push(gradient);
        }
    }
    if let Some(name) = variables.keys().find(|name| !parts.contains_key(*name)) {
        return Err(EngineError::MissingGradient { name: name.clone(), update });
    }
    let sums = parts.into_par_iter().map(|(name, parts)| Ok((name, ops::total(&parts)?)));
    Ok((loss, sums.collect::<Result<_, EngineError>>()?))
}

fn pass(
    denoiser: &dyn Denoiser,
    variables: &BTreeMap<String, Var>,
    samples: &[Sample],
) -> Result<(f64, Gradients), EngineError> {
    let stack = |part: fn(&Sample) -> &Tensor| {
        Tensor::stack(&samples.iter().map(part).collect::<Vec<_>>(), 0)
    };
    let timesteps: Vec<f64> = samples.iter().map(|sample| sample.timestep).collect();
    let prompts = Conditioning::stack(&samples.iter().map(|s| &s.prompt).collect::<Vec<_>>())?;
    let prediction = denoiser.trace(&stack(|s| &s.z)?, &timesteps, &prompts)?;
    let errors = (prediction.tensor() - stack(|s| &s.target)?)?;
    let squares = errors.sqr()?.flatten_from(1)?.mean(1)?.to_vec1::<f32>()?;
    let weighted = squares.iter().zip(samples);
    let loss = weighted.map(|(square, sample)| f64::from(*square) * sample.weight).sum();
    let elements = errors.elem_count() / samples.len().max(1);
    let scale = denoiser.gradient_scale();
    let slopes =
        samples.iter().map(|sample| (2.0 * sample.weight * scale / elements as f64) as f32);
    let slopes = Tensor::from_vec(slopes.collect::<Vec<_>>(), samples.len(), errors.device())?;
    let gradient = errors.broadcast_mul(&slopes.reshape(((), 1, 1, 1))?)?;
    let mut gradients = prediction.backward(gradient)?;
    let mut of_variables = Gradients::new();
    for (name, variable) in variables {
        if let Some(gradient) = gradients.take(variable) {
            let gradient = if scale > 1.0 { (gradient / scale)? } else { gradient };
            of_variables.insert(name.clone(), gradient);
        }
    }
    Ok((loss, of_variables))
}
