//! A run of denoising steps: its timesteps and noise levels.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::process::NoiseProcess;
use crate::spec::{StepIndex, Timestep};

/// A run of denoising steps, from noise (index 0) to the picture.
///
/// A [`StepIndex`] handed to a method must be one of [`Schedule::steps`].
#[derive(Debug, Clone)]
pub struct Schedule {
    pub(super) timesteps: Vec<Timestep>,
    /// Of the latents that each step takes, in the terms of `process`.
    pub(super) levels: Vec<f64>,
    /// Of those that it gives.
    pub(super) next_levels: Vec<f64>,
    pub(super) process: Arc<dyn NoiseProcess>,
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

    /// The training timestep that the network takes at a step.
    pub fn timestep(&self, step: StepIndex) -> Timestep {
        self.timesteps[step.0]
    }

    /// The noise level of the latents that a step takes, in its process's terms: the share of
    /// signal (`alpha_bar`) in Stable Diffusion.
    pub fn level(&self, step: StepIndex) -> f64 {
        self.levels[step.0]
    }

    /// The noise level of the latents that a step gives.
    pub fn next_level(&self, step: StepIndex) -> f64 {
        self.next_levels[step.0]
    }

    /// How many steps, from the first, take noise alone: the first of a schedule may
    /// (`rescale_betas_zero_snr`, and every flow). It has no noise level to compare, so that no window
    /// holds it, and is neither scored nor trained.
    pub fn steps_without_signal(&self) -> usize {
        self.steps().take_while(|step| !self.has_signal(*step)).count()
    }

    /// The others, in the order of sampling.
    pub fn steps_with_signal(
        &self,
    ) -> impl DoubleEndedIterator<Item = StepIndex> + ExactSizeIterator + use<> {
        (self.steps_without_signal()..self.timesteps.len()).map(StepIndex)
    }

    /// Whether a step is one of [`Schedule::steps_with_signal`].
    pub fn has_signal(&self, step: StepIndex) -> bool {
        self.process.scales(self.level(step)).signal > 0.0
    }

    /// How far a step moves the final picture when the network's output moves by one.
    pub fn effect_on_picture(&self, step: StepIndex) -> f64 {
        self.process.effect_on_picture(self.level(step), self.next_level(step))
    }

    /// Noise level of the latents that a step takes: the natural logarithm of signal over noise
    /// power, comparable across samplers and step counts; negative infinity without signal.
    pub fn log_snr(&self, step: StepIndex) -> f64 {
        self.process.log_snr(self.level(step))
    }

    /// How far the predicted picture moves when the network's output moves by one: what makes
    /// differences of outputs comparable across steps.
    pub fn effect_on_x0(&self, step: StepIndex) -> f64 {
        self.process.effect_on_x0(self.level(step))
    }

    /// Noises clean latents to the level of those that a step takes.
    ///
    /// # Shapes
    /// `clean` and `noise` alike.
    pub fn add_noise(&self, step: StepIndex, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        self.process.add_noise(self.level(step), clean, noise)
    }

    /// The latents after a step (`DDIMScheduler.step` with eta 0: `prev_sample`). Gradients flow
    /// through; a caller that walks a trajectory detaches.
    ///
    /// # Shapes
    /// `model_output` and `sample` alike, `[batch, channels, height, width]`.
    pub fn step(&self, step: StepIndex, model_output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        self.process.step(self.level(step), self.next_level(step), model_output, sample)
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
        self.process.predict_x0(self.level(step), model_output, sample)
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
        self.process.predict_noise(self.level(step), model_output, sample)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::{
        super::{Ddim, process::tests::Flow},
        *,
    };
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
                    latents[0] / schedule.next_level(step).sqrt()
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

    /// A flow over a single picture, whose network knows it: `noise − x0` from any latents.
    #[test]
    fn a_flow_walks_to_the_picture_that_its_network_knows() {
        let levels = vec![1.0, 0.75, 0.4, 0.1];
        let flow = Schedule {
            timesteps: [999, 750, 400, 100].map(Timestep).to_vec(),
            next_levels: levels[1..].iter().copied().chain([0.0]).collect(),
            levels,
            process: Arc::new(Flow),
        };
        assert_eq!((flow.steps_without_signal(), flow.steps_with_signal().len()), (1, 3));
        assert!(flow.log_snr(StepIndex(0)) == f64::NEG_INFINITY);
        let picture = Tensor::new(&[0.5_f64, -2.0], &Device::Cpu).unwrap();
        let mut latents = Tensor::new(&[1.5_f64, 0.25], &Device::Cpu).unwrap();
        for step in flow.steps() {
            let output = ((&latents - &picture).unwrap() / flow.level(step)).unwrap();
            latents = flow.step(step, &output, &latents).unwrap();
        }
        let off = (latents - picture).unwrap().abs().unwrap().max(0).unwrap();
        assert!(off.to_scalar::<f64>().unwrap() < 1e-12);
    }
}
