//! Pseudo linear multistep (Liu et al. 2022), the sampler that Stable Diffusion 1.x ships with
//! (diffusers: `PNDMScheduler` with `skip_prk_steps`).

use candle_core::{Result, Tensor};

use super::{Sampler, Stepped, sigmas};
use crate::engine::schedule::PredictionType;

/// Its second timestep comes twice: the second time mends the first step. What counts is how many steps
/// were taken, as in diffusers, so that a run that begins later mends its own first step, at the
/// timestep that comes next, and stays behind by a step.
#[derive(Debug)]
pub(super) struct Pndm {
    pub(super) timesteps: Vec<f64>,
    /// By training timestep.
    pub(super) alpha_bars: Vec<f32>,
    /// What lies before the first timestep.
    pub(super) final_alpha_bar: f32,
    /// Training timesteps that a step goes down.
    pub(super) stride: usize,
    pub(super) prediction: PredictionType,
    /// The last outputs, the newest last; four at most.
    pub(super) outputs: Vec<Tensor>,
    /// What the first step took.
    pub(super) first: Option<Tensor>,
}

impl Pndm {
    /// The timesteps of a run in diffusers' order, from those without the repeated one.
    pub(super) fn repeat_second(spaced: &[f64]) -> Vec<f64> {
        let mut timesteps = spaced.to_vec();
        if let Some(&second) = spaced.get(1) {
            timesteps.insert(1, second);
        }
        timesteps
    }

    fn share(&self, timestep: f64) -> f32 {
        if timestep < 0.0 {
            return self.final_alpha_bar;
        }
        self.alpha_bars.get(timestep as usize).copied().unwrap_or(self.final_alpha_bar)
    }

    /// The weights of the newest output and of those before it.
    fn combined(&self) -> Result<Option<Tensor>> {
        let weights: &[f64] = match self.outputs.len() {
            2 => &[3.0 / 2.0, -1.0 / 2.0],
            3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            4 => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
            _ => &[1.0],
        };
        let mut sum: Option<Tensor> = None;
        for (output, weight) in self.outputs.iter().rev().zip(weights) {
            let part = (output * *weight)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        Ok(sum)
    }
}

impl Sampler for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let alpha = self.share(self.timesteps.get(step).copied().unwrap_or_default());
        sigmas::noised((alpha.sqrt(), (1.0 - alpha).sqrt()), clean, noise)
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        _noise: Option<&Tensor>,
    ) -> Result<Stepped> {
        let timestep = self.timesteps.get(step).copied().unwrap_or_default();
        let stride = self.stride as f64;
        let first = self.first.take();
        let (from, to) = if first.is_some() {
            (timestep + stride, timestep)
        } else {
            (timestep, timestep - stride)
        };
        let mean = if let (Some(_), Some(last)) = (&first, self.outputs.last()) {
            ((output + last)? / 2.0)?
        } else {
            if self.outputs.is_empty() {
                self.first = Some(sample.clone());
            }
            if self.outputs.len() == 4 {
                self.outputs.remove(0);
            }
            self.outputs.push(output.clone());
            self.combined()?.unwrap_or_else(|| output.clone())
        };
        let sample = first.as_ref().unwrap_or(sample);
        let (alpha, previous) = (self.share(from), self.share(to));
        let (beta, previous_beta) = (1.0 - alpha, 1.0 - previous);
        let x0 = sigmas::clean(self.prediction, (alpha.sqrt(), beta.sqrt()), &mean, sample)?;
        let epsilon = match self.prediction {
            PredictionType::Epsilon => mean,
            PredictionType::Velocity => {
                ((mean * f64::from(alpha.sqrt()))? + (sample * f64::from(beta.sqrt()))?)?
            }
        };
        let scale = (previous / alpha).sqrt();
        let denominator = alpha * previous_beta.sqrt() + (alpha * beta * previous).sqrt();
        let moved = (epsilon * f64::from((previous - alpha) / denominator))?;
        Ok(Stepped { latents: ((sample * f64::from(scale))? - moved)?, x0 })
    }
}
