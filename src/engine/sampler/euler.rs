//! Euler's method over noise levels (Karras et al. 2022), plain and ancestral (diffusers:
//! `EulerDiscreteScheduler`, `EulerAncestralDiscreteScheduler`).

use candle_core::{Result, Tensor};

use super::{Sampler, Stepped};
use crate::engine::schedule::PredictionType;

/// Its latents carry noise of the level itself, so that the network's input is scaled down.
#[derive(Debug)]
pub(super) struct Euler {
    pub(super) timesteps: Vec<f64>,
    /// One for each step, and the one that the last step reaches.
    pub(super) sigmas: Vec<f32>,
    /// Whether the first noise takes the picture's own variance into account.
    pub(super) adds_variance: bool,
    /// Whether each step adds fresh noise.
    pub(super) ancestral: bool,
    pub(super) prediction: PredictionType,
}

impl Euler {
    fn sigma(&self, step: usize) -> f32 {
        self.sigmas.get(step).copied().unwrap_or_default()
    }

    /// The level that a step goes down to, and the fresh noise that it adds there.
    fn target(&self, step: usize) -> (f32, f32) {
        let (from, to) = (self.sigma(step), self.sigma(step + 1));
        if !self.ancestral {
            return (to, 0.0);
        }
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        ((to * to - up * up).sqrt(), up)
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    #[cfg(test)]
    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn initial_scale(&self) -> f64 {
        let most = self.sigmas.iter().copied().fold(0.0, f32::max);
        f64::from(if self.adds_variance { (most * most + 1.0).sqrt() } else { most })
    }

    fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        clean + (noise * f64::from(self.sigma(step)))?
    }

    fn scale_input(&self, step: usize, latents: &Tensor) -> Result<Tensor> {
        let sigma = self.sigma(step);
        latents / f64::from((sigma * sigma + 1.0).sqrt())
    }

    fn takes_noise(&self, step: usize) -> bool {
        self.target(step).1 > 0.0
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Stepped> {
        let sigma = self.sigma(step);
        let (down, up) = self.target(step);
        let variance = sigma * sigma + 1.0;
        let x0 = match self.prediction {
            PredictionType::Epsilon => (sample - (output * f64::from(sigma))?)?,
            PredictionType::Velocity => {
                ((output * f64::from(-sigma / variance.sqrt()))? + (sample / f64::from(variance))?)?
            }
        };
        // Divided as torch divides: a product with the reciprocal, which an operator with a number
        // is, would be off by a digit, and the largest of noise levels make much of that.
        let level = Tensor::new(sigma, sample.device())?;
        let derivative = (sample - &x0)?.broadcast_div(&level)?;
        let mut latents = (sample + (derivative * f64::from(down - sigma))?)?;
        if let Some(noise) = noise {
            latents = (latents + (noise * f64::from(up))?)?;
        }
        Ok(Stepped { latents, x0 })
    }
}
