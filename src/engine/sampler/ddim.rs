//! DDIM as one of the samplers.

use candle_core::{Result, Tensor};

use super::{Sampler, Stepped};
use crate::{engine::schedule::Schedule, spec::StepIndex};

/// A run of the schedule that scores and training use.
#[derive(Debug)]
pub(super) struct DdimRun {
    timesteps: Vec<f64>,
    schedule: Schedule,
}

impl DdimRun {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self { timesteps: schedule.timesteps().iter().map(|at| at.0 as f64).collect(), schedule }
    }
}

impl Sampler for DdimRun {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        self.schedule.add_noise(StepIndex(step), clean, noise)
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        _noise: Option<&Tensor>,
    ) -> Result<Stepped> {
        let at = StepIndex(step);
        let x0 = self.schedule.predict_x0(at, output, sample)?;
        Ok(Stepped { latents: self.schedule.step(at, output, sample)?, x0 })
    }
}
