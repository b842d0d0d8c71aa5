//! Few steps of a latent consistency model (Luo et al. 2023; diffusers: `LCMScheduler`).

use candle_core::{Result, Tensor};

use super::{Sampler, Stepped, sigmas};
use crate::engine::schedule::PredictionType;

/// Standard deviation of the data, as the distillation assumes it.
const DATA: f32 = 0.5;

/// Every step goes all the way to a picture, and back to the next noise level with fresh noise.
#[derive(Debug)]
pub(super) struct Lcm {
    pub(super) timesteps: Vec<f64>,
    /// The share of signal at each of them.
    pub(super) alpha_bars: Vec<f32>,
    /// `timestep_scaling`.
    pub(super) scaling: f32,
    pub(super) prediction: PredictionType,
}

impl Lcm {
    /// Timesteps of a run: from those that the model was distilled on, evenly.
    pub(super) fn spaced(trained: usize, distilled: usize, steps: usize) -> Vec<f64> {
        let stride = trained / distilled.max(1);
        let spread = distilled as f64 / steps as f64;
        (0..steps)
            .map(|step| distilled.saturating_sub((step as f64 * spread) as usize))
            .map(|nth| (nth * stride) as f64 - 1.0)
            .collect()
    }

    fn share(&self, step: usize) -> f32 {
        self.alpha_bars.get(step).copied().unwrap_or(1.0)
    }
}

impl Sampler for Lcm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let alpha = self.share(step);
        sigmas::noised((alpha.sqrt(), (1.0 - alpha).sqrt()), clean, noise)
    }

    fn takes_noise(&self, step: usize) -> bool {
        step + 1 < self.timesteps.len()
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Stepped> {
        let alpha = self.share(step);
        let x0 =
            sigmas::clean(self.prediction, (alpha.sqrt(), (1.0 - alpha).sqrt()), output, sample)?;
        let scaled =
            self.timesteps.get(step).map_or(0.0, |&timestep| timestep as f32) * self.scaling;
        let power = scaled * scaled + DATA * DATA;
        let (skip, kept) = (DATA * DATA / power, scaled / power.sqrt());
        let x0 = ((x0 * f64::from(kept))? + (sample * f64::from(skip))?)?;
        let latents = match noise {
            Some(noise) => {
                let next = self.share(step + 1);
                ((&x0 * f64::from(next.sqrt()))? + (noise * f64::from((1.0 - next).sqrt()))?)?
            }
            None => x0.clone(),
        };
        Ok(Stepped { latents, x0 })
    }
}
