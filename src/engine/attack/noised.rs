//! Training samples: pictures' latents with noise, and what the network shall say of them.

use candle_core::Tensor;

use crate::{
    engine::{
        EngineError, Pipeline,
        schedule::{NoiseSource, PredictionType},
    },
    spec::Timestep,
};

/// Latents at some timestep.
#[derive(Debug, Clone)]
pub(super) struct Noised {
    /// `[channels, h, w]`.
    pub(super) z: Tensor,
    pub(super) timestep: f64,
    /// The noise, or the velocity, that the network is trained to predict; shaped as `z`.
    pub(super) target: Tensor,
}

/// Adds fresh noise at a timestep that is drawn evenly.
pub(super) fn noised(
    pipeline: &Pipeline,
    clean: &Tensor,
    source: &mut NoiseSource,
) -> Result<Noised, EngineError> {
    let timestep = source.index(pipeline.scheduler.training_timesteps());
    at(pipeline, clean, Timestep(timestep), source)
}

/// The same at a share of the training timesteps, 0 to 1.
pub(super) fn noised_at(
    pipeline: &Pipeline,
    clean: &Tensor,
    share: f64,
    source: &mut NoiseSource,
) -> Result<Noised, EngineError> {
    let most = pipeline.scheduler.training_timesteps().saturating_sub(1);
    let timestep = ((share * most as f64).round() as usize).min(most);
    at(pipeline, clean, Timestep(timestep), source)
}

fn at(
    pipeline: &Pipeline,
    clean: &Tensor,
    timestep: Timestep,
    source: &mut NoiseSource,
) -> Result<Noised, EngineError> {
    let scheduler = &pipeline.scheduler;
    let noise = source.randn_tensor(clean.dims(), clean.device())?;
    let z = scheduler.add_noise(clean, &noise, timestep)?;
    let target = match scheduler.prediction_type() {
        PredictionType::Epsilon => noise,
        PredictionType::Velocity => {
            let alpha_bar = scheduler.alpha_bar(timestep)?;
            ((noise * alpha_bar.sqrt())? - (clean * (1.0 - alpha_bar).sqrt())?)?
        }
    };
    Ok(Noised { z, timestep: timestep.0 as f64, target })
}
