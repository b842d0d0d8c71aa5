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

    /// How many steps, from the first, take noise alone: the first of a schedule may
    /// (`rescale_betas_zero_snr`). It has no noise level, so that no window holds it, and is neither
    /// scored nor trained.
    pub fn steps_without_signal(&self) -> usize {
        self.alpha_bars.iter().take_while(|&&alpha_bar| alpha_bar <= 0.0).count()
    }

    /// The others, in the order of sampling.
    pub fn steps_with_signal(
        &self,
    ) -> impl DoubleEndedIterator<Item = StepIndex> + ExactSizeIterator + use<> {
        (self.steps_without_signal()..self.timesteps.len()).map(StepIndex)
    }

    /// Whether a step is one of [`Schedule::steps_with_signal`].
    pub fn has_signal(&self, step: StepIndex) -> bool {
        self.alpha_bar(step) > 0.0
    }

    /// How far a step moves the final picture when the network's output moves by one.
    ///
    /// DDIM is Euler's method in `x / √ᾱ` over `σ = √((1 − ᾱ) / ᾱ)` (Song et al. 2021, equation 14),
    /// so this is the fall of `σ` for predicted noise. A velocity moves the noise by `√ᾱ` of itself,
    /// which is finite without signal too.
    pub fn effect_on_picture(&self, step: StepIndex) -> f64 {
        let sigma = |alpha_bar: f64| ((1.0 - alpha_bar) / alpha_bar).sqrt();
        let (alpha_bar, after) = (self.alpha_bar(step), sigma(self.previous_alpha_bar(step)));
        match self.prediction_type {
            PredictionType::Epsilon => sigma(alpha_bar) - after,
            PredictionType::Velocity => (1.0 - alpha_bar).sqrt() - alpha_bar.sqrt() * after,
        }
    }

    /// Noise level of the latents that a step takes: the natural logarithm of signal over noise
    /// power, comparable across samplers and step counts; negative infinity without signal.
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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::{super::Ddim, *};
    use crate::spec::LogSnrWindow;

    fn schedule(more: &str, steps: usize) -> Schedule {
        let json = format!(
            r#"{{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                "set_alpha_to_one": false{more}}}"#
        );
        Ddim::for_pipeline(&json, "file").unwrap().schedule(steps).unwrap()
    }

    const ZERO_SNR: &str = r#", "prediction_type": "v_prediction", "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": true"#;

    #[test]
    fn the_effect_on_the_picture_is_what_a_step_does() {
        let velocity = r#", "prediction_type": "v_prediction""#;
        for more in ["", velocity, ZERO_SNR] {
            let schedule = schedule(more, 10);
            for step in schedule.steps() {
                let number = |value: f64| Tensor::new(&[value], &Device::Cpu).unwrap();
                let after = |output: f64| {
                    let latents = schedule.step(step, &number(output), &number(0.7)).unwrap();
                    let latents = latents.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
                    // With no more noise predicted, this is where all further steps lead.
                    latents[0] / schedule.previous_alpha_bar(step).sqrt()
                };
                let moved = after(0.3) - after(1.3);
                let effect = schedule.effect_on_picture(step);
                assert!(effect > 0.0, "{more} {step:?}: {effect}");
                assert!((moved - effect).abs() < 1e-9 * moved, "{step:?}: {effect}, not {moved}");
            }
        }
    }

    #[test]
    fn a_step_without_signal_points_to_the_picture_by_its_output_alone() {
        let schedule = schedule(ZERO_SNR, 4);
        let first = StepIndex(0);
        assert_eq!(schedule.timestep(first), Timestep(999));
        let output = Tensor::new(&[0.5_f32, -2.0], &Device::Cpu).unwrap();
        let sample = Tensor::new(&[1.5_f32, 0.25], &Device::Cpu).unwrap();
        let values = |tensor: Tensor| tensor.to_vec1::<f32>().unwrap();
        assert_eq!(values(schedule.predict_x0(first, &output, &sample).unwrap()), [-0.5, 2.0]);
        assert_eq!(values(schedule.epsilon(first, &output, &sample).unwrap()), [1.5, 0.25]);
    }

    #[test]
    fn a_step_without_signal_has_no_noise_level() {
        let zero = schedule(ZERO_SNR, 4);
        assert_eq!((zero.steps_without_signal(), zero.steps().len()), (1, 4));
        assert_eq!(zero.steps_with_signal().collect::<Vec<_>>(), [1, 2, 3].map(StepIndex));
        let signal = zero.steps().map(|step| zero.has_signal(step));
        assert_eq!(signal.collect::<Vec<_>>(), [false, true, true, true]);
        assert!(zero.log_snr(StepIndex(0)) == f64::NEG_INFINITY);
        assert!(zero.steps_with_signal().all(|step| zero.log_snr(step).is_finite()));
        assert!(zero.steps().all(|step| zero.effect_on_picture(step).is_finite()));
        assert!(zero.steps().all(|step| zero.effect_on_x0(step).is_finite()));
        let window = LogSnrWindow { low: -1e300, high: 1e300 };
        assert!(!window.contains(zero.log_snr(StepIndex(0))));
        // Leading timesteps end below the last.
        let leading = schedule(&ZERO_SNR.replace("trailing", "leading"), 4);
        assert_eq!(leading.steps_without_signal(), 0);
    }
}
