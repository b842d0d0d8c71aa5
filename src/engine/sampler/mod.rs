//! Samplers that pictures are drawn with: each steps as diffusers' class of it does, in f32.
//!
//! Scores and training walk on [`super::schedule`] alone.

mod config;
mod ddim;
mod dpm_solver_multistep;
mod euler;
mod lcm;
mod noisy_ddim;
mod open;
mod pndm;
mod sigmas;
#[cfg(test)]
mod tests;
mod unipc;

use candle_core::{Result, Tensor};

pub use config::SamplerConfig;
pub(super) use noisy_ddim::noisy_ddim;
pub(super) use open::open;

use super::{EngineError, checkpoint::read_text, schedule::Ddim};
use crate::spec::{JudgeSpec, ModelFiles};

/// Refuses a judgement whose sampler cannot take so many steps on the base model of a folder; reads its
/// scheduler's config alone.
pub fn check_judgement_sampler(
    files: &dyn ModelFiles,
    spec: &JudgeSpec,
) -> std::result::Result<(), EngineError> {
    const CONFIG: &str = "scheduler/scheduler_config.json";
    let (json, file) = (read_text(files, CONFIG)?, format!("{}/{CONFIG}", files.location()));
    let (sampling, trained) =
        (SamplerConfig::parse(&json, &file)?, Ddim::for_pipeline(&json, &file)?);
    open(sampling.kind(spec.sampler), &sampling, &trained, spec.steps).map(drop)
}

/// What a step gives.
#[derive(Debug, Clone)]
pub(super) struct Stepped {
    /// The latents that the next step takes (`prev_sample`).
    pub(super) latents: Tensor,
    /// The clean latents that the output points to, for previews.
    pub(super) x0: Tensor,
}

/// One run, from noise to the picture, or from a picture that noise was added to at a later step. Multistep samplers remember earlier steps, so that steps are
/// taken in order, once each, and every batch has a run of its own.
pub(super) trait Sampler {
    /// The timestep that the network takes at each evaluation, in order; may lie between trained timesteps,
    /// and be one more than the steps asked for.
    fn timesteps(&self) -> &[f64];

    /// Noise levels of the steps and of what the last one reaches; empty where a sampler has none.
    #[cfg(test)]
    fn sigmas(&self) -> &[f32] {
        &[]
    }

    /// What standard normal noise is multiplied by to start from (`init_noise_sigma`).
    fn initial_scale(&self) -> f64 {
        1.0
    }

    /// Noises clean latents to the level of the latents that a step takes (`add_noise`): what a run
    /// starts from that begins with this step.
    ///
    /// # Shapes
    /// `clean` and `noise` alike.
    fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Result<Tensor>;

    /// The network's input at a step (`scale_model_input`).
    fn scale_input(&self, _step: usize, latents: &Tensor) -> Result<Tensor> {
        Ok(latents.clone())
    }

    /// Whether a step takes fresh noise.
    fn takes_noise(&self, _step: usize) -> bool {
        false
    }

    /// Takes a step.
    ///
    /// # Shapes
    /// `output`, `sample` and `noise` alike, `[batch, channels, height, width]`; `sample` is what the
    /// step before gave, not scaled.
    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Stepped>;
}
