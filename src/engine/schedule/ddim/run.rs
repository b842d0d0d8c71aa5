//! One run of the sampler: its timesteps and the arithmetic of a step.

use candle_core::{Result, Tensor};

use super::PredictionType;
use crate::spec::{StepIndex, Timestep};

/// A run of denoising steps, from noise (index 0) to the picture.
///
/// A [`StepIndex`] handed to a method must be one of [`Schedule::steps`].
#[derive(Debug, Clone)]
pub struct Schedule {
    pub(super) timesteps: Vec<Timestep>,
    pub(super) alpha_bars: Vec<f64>,
    pub(super) previous_alpha_bars: Vec<f64>,
    pub(super) prediction_type: PredictionType,
    pub(super) clip: Option<f64>,
}

impl Schedule {
    /// Denoising steps.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Never, since a schedule has at least one step.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// Every step, in the order of sampling.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = StepIndex> + ExactSizeIterator + use<> {
        (0..self.timesteps.len()).map(StepIndex)
    }

    /// Every training timestep, in the order of sampling.
    pub fn timesteps(&self) -> &[Timestep] {
        &self.timesteps
    }

    /// The training timestep that the network is told at a step.
    pub fn timestep(&self, step: StepIndex) -> Timestep {
        self.timesteps[step.0]
    }

    /// The share of signal in the latents that a step takes.
    pub fn alpha_bar(&self, step: StepIndex) -> f64 {
        self.alpha_bars[step.0]
    }

    /// The share of signal in the latents that a step gives.
    pub fn previous_alpha_bar(&self, step: StepIndex) -> f64 {
        self.previous_alpha_bars[step.0]
    }

    /// How far a step moves the final picture for each unit of predicted noise.
    ///
    /// DDIM is Euler's method in `x / √ᾱ` over `σ = √((1 − ᾱ) / ᾱ)` (Song et al. 2021, equation 14),
    /// so this is the fall of `σ`.
    pub fn noise_fall(&self, step: StepIndex) -> f64 {
        let sigma = |alpha_bar: f64| ((1.0 - alpha_bar) / alpha_bar).sqrt();
        sigma(self.alpha_bar(step)) - sigma(self.previous_alpha_bar(step))
    }

    /// Noise level of the latents that a step takes: the natural logarithm of signal over noise
    /// power, comparable across samplers and step counts.
    pub fn log_snr(&self, step: StepIndex) -> f64 {
        let alpha_bar = self.alpha_bar(step);
        (alpha_bar / (1.0 - alpha_bar)).ln()
    }

    /// How far the predicted picture moves when the network's output moves by one: what makes
    /// differences of outputs comparable across steps.
    pub fn effect_on_x0(&self, step: StepIndex) -> f64 {
        let alpha_bar = self.alpha_bar(step);
        match self.prediction_type {
            PredictionType::Epsilon => ((1.0 - alpha_bar) / alpha_bar).sqrt(),
            PredictionType::Velocity => (1.0 - alpha_bar).sqrt(),
        }
    }

    /// The latents after a step (`DDIMScheduler.step` with eta 0: `prev_sample`). Gradients flow
    /// through; a caller that walks a trajectory detaches.
    ///
    /// # Shapes
    /// `model_output` and `sample` alike, `[batch, channels, height, width]`.
    pub fn step(&self, step: StepIndex, model_output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let previous = self.previous_alpha_bar(step);
        let x0 = self.predict_x0(step, model_output, sample)?;
        let epsilon = self.epsilon(step, model_output, sample)?;
        (x0 * previous.sqrt())? + (epsilon * (1.0 - previous).sqrt())?
    }

    /// The clean latents that the network's output points to (`pred_original_sample`), clipped
    /// where the config asks for it.
    ///
    /// # Shapes
    /// As [`Schedule::step`].
    pub fn predict_x0(
        &self,
        step: StepIndex,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> Result<Tensor> {
        let alpha_bar = self.alpha_bar(step);
        let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let x0 = match self.prediction_type {
            PredictionType::Epsilon => ((sample - (model_output * noise)?)? / signal)?,
            PredictionType::Velocity => ((sample * signal)? - (model_output * noise)?)?,
        };
        match self.clip {
            Some(range) => x0.clamp(-range, range),
            None => Ok(x0),
        }
    }

    /// The noise that the network's output stands for: the output itself, or turned from velocity
    /// (`pred_epsilon`).
    ///
    /// # Shapes
    /// As [`Schedule::step`].
    pub fn epsilon(
        &self,
        step: StepIndex,
        model_output: &Tensor,
        sample: &Tensor,
    ) -> Result<Tensor> {
        match self.prediction_type {
            PredictionType::Epsilon => Ok(model_output.clone()),
            PredictionType::Velocity => {
                let alpha_bar = self.alpha_bar(step);
                (model_output * alpha_bar.sqrt())? + (sample * (1.0 - alpha_bar).sqrt())?
            }
        }
    }
}
