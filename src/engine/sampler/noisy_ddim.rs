//! DDIM that adds more noise than it should: a probe for what an erasure left.

use candle_core::{Result, Tensor, bail};

use super::{Sampler, Stepped, ddim::DdimRun};
use crate::{engine::schedule::Schedule, spec::StepIndex};

/// DDIM with noise of `eta` (Song and others 2021, equation 16), which falls to nothing along the path,
/// and whose noise is multiplied by `scale` (arXiv 2505.17013).
///
/// Above an `eta` of 1 there can be more noise than a step takes in; the direction to the noisy
/// latents then has the length of what is too much, as in the authors' code.
#[derive(Debug)]
pub(super) struct NoisyDdim {
    plain: DdimRun,
    schedule: Schedule,
    eta: f64,
    scale: f64,
}

/// Opens a run over a schedule of [`Ddim`](crate::engine::schedule::Ddim).
pub(in crate::engine) fn noisy_ddim(schedule: Schedule, eta: f64, scale: f64) -> Box<dyn Sampler> {
    Box::new(NoisyDdim { plain: DdimRun::new(schedule.clone()), schedule, eta, scale })
}

impl NoisyDdim {
    /// `eta` at a step: a sigmoid that has fallen to half in the middle of the path.
    fn eta(&self, step: usize) -> f64 {
        let steps = self.schedule.len() as f64;
        self.eta / (1.0 + (12.0 / steps * (step as f64 - steps / 2.0)).exp())
    }

    /// Standard deviation of the noise of a step.
    fn deviation(&self, step: usize) -> f64 {
        let at = StepIndex(step);
        let (alpha_bar, next) = (self.schedule.level(at), self.schedule.next_level(at));
        let variance = (1.0 - next) / (1.0 - alpha_bar) * (1.0 - alpha_bar / next);
        self.eta(step) * variance.max(0.0).sqrt()
    }
}

impl Sampler for NoisyDdim {
    fn timesteps(&self) -> &[f64] {
        self.plain.timesteps()
    }

    fn add_noise(&self, step: usize, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        self.plain.add_noise(step, clean, noise)
    }

    fn takes_noise(&self, step: usize) -> bool {
        self.deviation(step) > 0.0
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> Result<Stepped> {
        let deviation = self.deviation(step);
        if deviation <= 0.0 {
            return self.plain.step(step, output, sample, None);
        }
        let Some(noise) = noise else { bail!("a noisy step without noise") };
        let at = StepIndex(step);
        let next = self.schedule.next_level(at);
        let x0 = self.schedule.predict_x0(at, output, sample)?;
        let direction = (1.0 - next - deviation * deviation).abs().sqrt();
        let latents =
            ((&x0 * next.sqrt())? + (self.schedule.epsilon(at, output, sample)? * direction)?)?;
        let latents = (latents + (noise * (deviation * self.scale))?)?;
        Ok(Stepped { latents, x0 })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::engine::schedule::{Ddim, NoiseSource};

    fn schedule() -> Schedule {
        let json = r#"{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "set_alpha_to_one": false}"#;
        Ddim::for_pipeline(json, "file").unwrap().schedule(10).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn without_eta_it_is_ddim() {
        let mut noise = NoiseSource::new(3);
        let mut draw = || noise.randn_tensor((1, 4, 2, 2), &Device::Cpu).unwrap();
        let (output, sample) = (draw(), draw());
        let mut plain = DdimRun::new(schedule());
        let mut noisy = noisy_ddim(schedule(), 0.0, 1.04);
        for step in [0, 4, 9] {
            assert!(!noisy.takes_noise(step));
            let [expected, found] =
                [&mut plain as &mut dyn Sampler, noisy.as_mut()].map(|sampler| {
                    values(&sampler.step(step, &output, &sample, None).unwrap().latents)
                });
            assert_eq!(found, expected);
        }
    }

    /// True predictions leave latents as noisy as the schedule says, for an eta up to 1.
    #[test]
    fn noise_that_is_added_is_noise_that_is_taken_away() {
        let noisy = NoisyDdim {
            plain: DdimRun::new(schedule()),
            schedule: schedule(),
            eta: 1.0,
            scale: 1.0,
        };
        let mut last = f64::INFINITY;
        for step in 0..10 {
            let (deviation, eta) = (noisy.deviation(step), noisy.eta(step));
            assert!(eta < last && eta > 0.0 && eta < 1.0);
            last = eta;
            let next = noisy.schedule.next_level(StepIndex(step));
            assert!(deviation * deviation <= 1.0 - next, "{step}: {deviation}");
        }
        assert!((noisy.eta(5) - 0.5).abs() < 1e-12);
        assert!(noisy.eta(0) > 0.99);
    }
}
