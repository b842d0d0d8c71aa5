//! The unified predictor and corrector of order 2 (Zhao et al. 2023) with `B(h) = e^h − 1`
//! (diffusers: `UniPCMultistepScheduler` with `bh2` and `predict_x0`).

use candle_core::{Result, Tensor};

use super::{Sampler, Stepped, sigmas};
use crate::engine::schedule::PredictionType;

/// Highest order of a step.
const ORDER: usize = 2;

/// Each output first corrects the step that led to it, then predicts the next one.
#[derive(Debug)]
pub(super) struct UniPc {
    pub(super) timesteps: Vec<f64>,
    /// One for each step, and the one that the last step reaches.
    pub(super) sigmas: Vec<f32>,
    pub(super) prediction: PredictionType,
    /// `lower_order_final`.
    pub(super) lower_order_final: bool,
    /// What the last steps pointed to, the newest last; two at most.
    pub(super) x0s: Vec<Tensor>,
    /// The latents that the last step took, corrected, and its order.
    pub(super) last: Option<(Tensor, usize)>,
}

/// What both halves of a step from one noise level to another need.
#[derive(Debug, Clone, Copy)]
struct Move {
    /// Share of noise there over that here.
    keep: f32,
    /// Share of signal there.
    alpha: f32,
    /// Minus the rise of half the log-SNR.
    fall: f32,
    /// `e^fall − 1`.
    growth: f32,
}

impl UniPc {
    fn sigma(&self, step: usize) -> f32 {
        self.sigmas.get(step).copied().unwrap_or_default()
    }

    /// Into the noise level of a step, from that of the step before.
    fn move_to_level(&self, step: usize) -> Move {
        let (from, to) = (self.sigma(step.saturating_sub(1)), self.sigma(step));
        let (alpha, noise) = sigmas::shares(to);
        let fall = sigmas::half_log_snr(from) - sigmas::half_log_snr(to);
        Move { keep: noise / sigmas::shares(from).1, alpha, fall, growth: fall.exp_m1() }
    }

    /// Where the step before the last lies, in units of the move into a step's level.
    fn ratio(&self, step: usize, fall: f32) -> f32 {
        let lambda = |step: usize| sigmas::half_log_snr(self.sigma(step));
        (lambda(step.saturating_sub(2)) - lambda(step.saturating_sub(1))) / -fall
    }

    /// `multistep_uni_c_bh_update`: the latents of a step, from what its output shows.
    fn correct(&self, step: usize, x0: &Tensor, last: &Tensor, order: usize) -> Result<Tensor> {
        let Some(m0) = self.x0s.last() else { return Ok(last.clone()) };
        let by = self.move_to_level(step);
        let start = by.start(last, m0)?;
        let change = (x0 - m0)?;
        let before = self.x0s.first().filter(|_| order == ORDER && self.x0s.len() == ORDER);
        let correction = match before {
            None => (change * 0.5)?,
            Some(before) => {
                let ratio = self.ratio(step, by.fall);
                let slope = ((before - m0)? / f64::from(ratio))?;
                let phi = by.growth / by.fall - 1.0;
                let (first, second) = (phi, (phi / by.fall - 0.5) * 2.0);
                let (first, second) = (first / by.growth, second / by.growth);
                // Two equations: the weights add up to the first; the second weighs by the ratio.
                let of_slope = (first - second) / (1.0 - ratio);
                ((slope * f64::from(of_slope))? + (change * f64::from(first - of_slope))?)?
            }
        };
        start - (correction * f64::from(by.alpha * by.growth))?
    }

    /// `multistep_uni_p_bh_update`: the latents of the next step.
    fn predict(&self, step: usize, sample: &Tensor, order: usize) -> Result<Tensor> {
        let Some(m0) = self.x0s.last() else { return Ok(sample.clone()) };
        let by = self.move_to_level(step + 1);
        let start = by.start(sample, m0)?;
        match self.x0s.first().filter(|_| order == ORDER && self.x0s.len() == ORDER) {
            None => Ok(start),
            Some(before) => {
                let ratio = self.ratio(step + 1, by.fall);
                let slope = ((before - m0)? / f64::from(ratio))?;
                start - (slope * f64::from(by.alpha * by.growth * 0.5))?
            }
        }
    }
}

impl Move {
    fn start(self, sample: &Tensor, x0: &Tensor) -> Result<Tensor> {
        (sample * f64::from(self.keep))? - (x0 * f64::from(self.alpha * self.growth))?
    }
}

impl Sampler for UniPc {
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
        let here = sigmas::shares(self.sigma(step));
        let x0 = sigmas::clean(self.prediction, here, output, sample)?;
        let sample = match self.last.take() {
            Some((last, order)) => self.correct(step, &x0, &last, order)?,
            None => sample.clone(),
        };
        if self.x0s.len() == ORDER {
            self.x0s.remove(0);
        }
        self.x0s.push(x0.clone());
        let left = self.timesteps.len().saturating_sub(step);
        let most = if self.lower_order_final { ORDER.min(left) } else { ORDER };
        let order = most.min(self.x0s.len());
        let latents = self.predict(step, &sample, order)?;
        self.last = Some((sample, order));
        Ok(Stepped { latents, x0 })
    }
}
