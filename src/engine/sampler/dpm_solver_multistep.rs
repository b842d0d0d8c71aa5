//! DPM-Solver++ of order 2 (Lu et al. 2022), midpoint, with one step of order 1 at either end
//! (diffusers: `DPMSolverMultistepScheduler`).

use candle_core::{Result, Tensor};

use super::{Sampler, Stepped, sigmas};
use crate::engine::schedule::PredictionType;

/// Runs of fewer steps end with a step of order 1 in any case.
const FEW_STEPS: usize = 15;

/// Over predicted pictures rather than noise.
#[derive(Debug)]
pub(super) struct DpmSolverMultistep {
    pub(super) timesteps: Vec<f64>,
    /// One for each step, and the one that the last step reaches.
    pub(super) sigmas: Vec<f32>,
    pub(super) prediction: PredictionType,
    /// `lower_order_final`.
    pub(super) lower_order_final: bool,
    /// `euler_at_final`.
    pub(super) euler_at_final: bool,
    /// What the step before pointed to.
    pub(super) previous_x0: Option<Tensor>,
}

impl DpmSolverMultistep {
    fn sigma(&self, step: usize) -> f32 {
        self.sigmas.get(step).copied().unwrap_or_default()
    }

    fn ends_low(&self, step: usize) -> bool {
        let steps = self.timesteps.len();
        step + 1 == steps
            && (self.euler_at_final
                || (self.lower_order_final && steps < FEW_STEPS)
                || self.sigma(steps) == 0.0)
    }
}

impl Sampler for DpmSolverMultistep {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    #[cfg(test)]
    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        sigmas::noised(sigmas::shares(self.sigma(step)), clean, noise)
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        _noise: Option<&Tensor>,
    ) -> Result<Stepped> {
        let (from, to) = (self.sigma(step), self.sigma(step + 1));
        let here = sigmas::shares(from);
        let x0 = sigmas::clean(self.prediction, here, output, sample)?;
        let (alpha, sigma) = sigmas::shares(to);
        let fall = sigmas::half_log_snr(to) - sigmas::half_log_snr(from);
        let weight = alpha * ((-fall).exp() - 1.0);
        let first = ((sample * f64::from(sigma / here.1))? - (&x0 * f64::from(weight))?)?;
        let latents = match self.previous_x0.take().filter(|_| !self.ends_low(step)) {
            Some(before) => {
                let last_fall = sigmas::half_log_snr(from)
                    - sigmas::half_log_snr(self.sigma(step.saturating_sub(1)));
                let slope = ((&x0 - before)? * f64::from(1.0 / (last_fall / fall)))?;
                (first - (slope * f64::from(0.5 * weight))?)?
            }
            None => first,
        };
        self.previous_x0 = Some(x0.clone());
        Ok(Stepped { latents, x0 })
    }
}
