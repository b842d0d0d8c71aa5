//! The deterministic DDIM sampler (eta 0), driven by a folder's `scheduler_config.json`.

mod config;

use std::sync::Arc;

use candle_core::Tensor;

use config::{Settings, Spacing};

use super::{
    PredictionType,
    process::{NoiseProcess, VariancePreserving},
    run::Schedule,
};
use crate::{
    engine::EngineError,
    spec::{Field, SpecError, Timestep},
};

/// A trained noise schedule and how it is sampled (diffusers: `DDIMScheduler`).
#[derive(Debug, Clone)]
pub struct Ddim {
    settings: Settings,
    /// By training timestep; the f32 values of torch, widened.
    alpha_bars: Vec<f64>,
    /// Those of the betas as the config gives them, where `alpha_bars` are of rescaled ones.
    unscaled_alpha_bars: Option<Vec<f64>>,
    repairs: Vec<String>,
    file: String,
}

impl Ddim {
    /// Reads a `scheduler_config.json` of any sampler's class, as `DDIMScheduler.from_config`
    /// does: what decides is the noise schedule, which all classes name alike.
    ///
    /// One deviation: where a config of a class that never clips lacks `clip_sample`, nothing is
    /// clipped, while diffusers would fall back to clipping latents to one, which spoils pictures.
    /// `file` names the config in messages.
    pub fn from_config(json: &str, file: &str) -> Result<Self, EngineError> {
        let settings = Settings::parse(json, file)?;
        let alpha_bars = settings.alpha_bars(settings.zero_snr, file)?;
        let unscaled_alpha_bars =
            settings.zero_snr.then(|| settings.alpha_bars(false, file)).transpose()?;
        let repairs = Vec::new();
        Ok(Self { settings, alpha_bars, unscaled_alpha_bars, repairs, file: file.to_owned() })
    }

    /// The sampler that a pipeline draws with: diffusers' `StableDiffusionPipeline` repairs the
    /// config that it is given, whatever class wrote it, so that nothing is clipped and timesteps
    /// are offset by one.
    pub fn for_pipeline(json: &str, file: &str) -> Result<Self, EngineError> {
        let mut ddim = Self::from_config(json, file)?;
        ddim.repairs = ddim.settings.repair(file);
        Ok(ddim)
    }

    /// What [`Ddim::for_pipeline`] reads otherwise than it stands in the file, in words.
    pub(in crate::engine) fn repairs(&self) -> &[String] {
        &self.repairs
    }

    /// What the network predicts.
    pub fn prediction_type(&self) -> PredictionType {
        self.settings.prediction_type
    }

    /// Training timesteps, 1,000 in Stable Diffusion.
    pub fn training_timesteps(&self) -> usize {
        self.alpha_bars.len()
    }

    /// The share of signal left at a training timestep (`alphas_cumprod[timestep]`).
    pub fn alpha_bar(&self, timestep: Timestep) -> Result<f64, EngineError> {
        self.alpha_bars.get(timestep.0).copied().ok_or_else(|| {
            SpecError::one(
                Field::Timestep,
                format!(
                    "{} is outside 0 to {}, the timesteps of {}",
                    timestep.0,
                    self.alpha_bars.len() - 1,
                    self.file
                ),
            )
            .into()
        })
    }

    /// `alphas_cumprod` by timestep.
    pub(in crate::engine) fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bars
    }

    /// The same, for a sampler that does not know `rescale_betas_zero_snr`.
    pub(in crate::engine) fn unscaled_alpha_bars(&self) -> &[f64] {
        self.unscaled_alpha_bars.as_ref().unwrap_or(&self.alpha_bars)
    }

    /// [`Self::schedule`], of which a step at least has signal: what scores and training walk.
    pub(in crate::engine) fn schedule_with_signal(
        &self,
        steps: usize,
    ) -> Result<Schedule, EngineError> {
        let schedule = self.schedule(steps)?;
        if schedule.steps_with_signal().len() == 0 {
            let message = format!(
                "{steps} of {} is a step without any signal, by its rescale_betas_zero_snr; ask for 2 steps or more",
                self.file
            );
            return Err(SpecError::one(Field::Steps, message).into());
        }
        Ok(schedule)
    }

    /// The timesteps of a run of `steps` denoising steps (`DDIMScheduler.set_timesteps`).
    pub fn schedule(&self, steps: usize) -> Result<Schedule, EngineError> {
        let trained = self.alpha_bars.len();
        if steps == 0 || steps > trained {
            let message =
                format!("{steps} is outside 1 to {trained}, the timesteps of {}", self.file);
            return Err(SpecError::one(Field::Steps, message).into());
        }
        let timesteps = self.spaced(steps);
        if let Some(beyond) = timesteps.iter().find(|&&timestep| timestep >= trained) {
            let message = format!(
                "{steps} steps with steps_offset {} of {} begin at timestep {beyond}, the last is {}; ask for fewer steps",
                self.settings.steps_offset,
                self.file,
                trained - 1
            );
            return Err(SpecError::one(Field::Steps, message).into());
        }
        // Diffusers goes down by this stride from every timestep, whatever the spacing.
        let stride = trained / steps;
        let last = if self.settings.set_alpha_to_one { 1.0 } else { self.alpha_bars[0] };
        let previous = |timestep: usize| {
            timestep.checked_sub(stride).map_or(last, |before| self.alpha_bars[before])
        };
        Ok(Schedule {
            levels: timesteps.iter().map(|&timestep| self.alpha_bars[timestep]).collect(),
            next_levels: timesteps.iter().map(|&timestep| previous(timestep)).collect(),
            timesteps: timesteps.into_iter().map(Timestep).collect(),
            process: Arc::new(self.process()),
        })
    }

    /// Noises clean latents to a training timestep (`DDIMScheduler.add_noise`).
    ///
    /// # Shapes
    /// `x0` and `noise` alike, any shape.
    pub fn add_noise(
        &self,
        x0: &Tensor,
        noise: &Tensor,
        timestep: Timestep,
    ) -> Result<Tensor, EngineError> {
        Ok(self.process().add_noise(self.alpha_bar(timestep)?, x0, noise)?)
    }

    fn process(&self) -> VariancePreserving {
        let Settings { prediction_type, clip, .. } = self.settings;
        VariancePreserving { prediction_type, clip }
    }

    /// Timesteps from noisy to clean; may reach past the trained ones by the offset.
    fn spaced(&self, steps: usize) -> Vec<usize> {
        let trained = self.alpha_bars.len();
        match self.settings.spacing {
            Spacing::Leading => {
                let stride = trained / steps;
                (0..steps).rev().map(|step| step * stride + self.settings.steps_offset).collect()
            }
            Spacing::Trailing => {
                let end = trained as f64;
                // Through the second value, as `numpy.arange` takes its stride: the rounding shows
                // where a timestep lies halfway. Its extra value past the end is left out.
                let stride = end - (end - end / steps as f64);
                (0..steps)
                    .map(|step| (end - step as f64 * stride).round_ties_even())
                    // The stride is at least one, so the last value is at least one.
                    .map(|end| (end as usize).saturating_sub(1))
                    .collect()
            }
            Spacing::Linspace => {
                let stride = (trained - 1) as f64 / (steps.max(2) - 1) as f64;
                (0..steps)
                    .rev()
                    .map(|step| (step as f64 * stride).round_ties_even() as usize)
                    .collect()
            }
        }
    }
}
