//! `NoiseProcess`: how a picture turns into noise, and what a network's output says of both.

use std::fmt;

use candle_core::{Result, Tensor};

/// What the network's output means (`prediction_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise in the latents: Stable Diffusion 1.x, 2.x base.
    Epsilon,
    /// A mix of noise and picture, `sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0`: Stable
    /// Diffusion 2.x at 768 pixels.
    Velocity,
}

/// What clean latents and noise are multiplied by where they are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Of the clean latents; 0 where nothing of them is left.
    pub signal: f64,
    /// Of the noise.
    pub noise: f64,
}

/// A process that turns clean latents into noise, which scores and training walk back.
///
/// A noise level is a real number in the process's own terms. Tensors are of any shape, and those of a
/// call are alike; gradients flow through.
pub trait NoiseProcess: fmt::Debug + Send + Sync {
    /// How the latents of a level are mixed.
    fn scales(&self, level: f64) -> Scales;

    /// The clean latents that the network's output points to.
    fn predict_x0(&self, level: f64, output: &Tensor, sample: &Tensor) -> Result<Tensor>;

    /// The noise that the network's output stands for.
    fn predict_noise(&self, level: f64, output: &Tensor, sample: &Tensor) -> Result<Tensor>;

    /// How far the predicted picture moves when the network's output moves by one: what makes
    /// differences of outputs comparable across levels.
    fn effect_on_x0(&self, level: f64) -> f64;

    /// How far a step to the level `next` moves the final picture when the network's output moves
    /// by one.
    fn effect_on_picture(&self, level: f64, next: f64) -> f64;

    /// The natural logarithm of signal over noise power, comparable across processes, samplers and
    /// step counts; negative infinity without signal.
    fn log_snr(&self, level: f64) -> f64 {
        let Scales { signal, noise } = self.scales(level);
        2.0 * (signal / noise).ln()
    }

    /// Mixes clean latents and noise.
    fn add_noise(&self, level: f64, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let scales = self.scales(level);
        (clean * scales.signal)? + (noise * scales.noise)?
    }

    /// The latents after a step to the level `next`: the predicted picture and noise, mixed anew.
    fn step(&self, level: f64, next: f64, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let x0 = self.predict_x0(level, output, sample)?;
        let noise = self.predict_noise(level, output, sample)?;
        self.add_noise(next, &x0, &noise)
    }
}

/// Stable Diffusion's process, whose latents keep their variance: a noise level is the share of
/// signal, `alpha_bar`, and steps are DDIM's with eta 0 (`DDIMScheduler.step`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct VariancePreserving {
    pub(super) prediction_type: PredictionType,
    /// What the predicted picture is clipped to.
    pub(super) clip: Option<f64>,
}

impl NoiseProcess for VariancePreserving {
    fn scales(&self, alpha_bar: f64) -> Scales {
        Scales { signal: alpha_bar.sqrt(), noise: (1.0 - alpha_bar).sqrt() }
    }

    fn log_snr(&self, alpha_bar: f64) -> f64 {
        (alpha_bar / (1.0 - alpha_bar)).ln()
    }

    /// `pred_original_sample`, clipped where the config asks for it.
    fn predict_x0(&self, alpha_bar: f64, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let Scales { signal, noise } = self.scales(alpha_bar);
        let x0 = match self.prediction_type {
            PredictionType::Epsilon => ((sample - (output * noise)?)? / signal)?,
            PredictionType::Velocity => ((sample * signal)? - (output * noise)?)?,
        };
        match self.clip {
            Some(range) => x0.clamp(-range, range),
            None => Ok(x0),
        }
    }

    /// The output itself, or turned from velocity (`pred_epsilon`).
    fn predict_noise(&self, alpha_bar: f64, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        match self.prediction_type {
            PredictionType::Epsilon => Ok(output.clone()),
            PredictionType::Velocity => {
                let Scales { signal, noise } = self.scales(alpha_bar);
                (output * signal)? + (sample * noise)?
            }
        }
    }

    fn effect_on_x0(&self, alpha_bar: f64) -> f64 {
        match self.prediction_type {
            PredictionType::Epsilon => ((1.0 - alpha_bar) / alpha_bar).sqrt(),
            PredictionType::Velocity => (1.0 - alpha_bar).sqrt(),
        }
    }

    /// DDIM is Euler's method in `x / √ᾱ` over `σ = √((1 − ᾱ) / ᾱ)` (Song et al. 2021, equation 14),
    /// so this is the fall of `σ` for predicted noise. A velocity moves the noise by `√ᾱ` of itself,
    /// which is finite without signal too.
    fn effect_on_picture(&self, alpha_bar: f64, next: f64) -> f64 {
        let sigma = |alpha_bar: f64| ((1.0 - alpha_bar) / alpha_bar).sqrt();
        match self.prediction_type {
            PredictionType::Epsilon => sigma(alpha_bar) - sigma(next),
            PredictionType::Velocity => (1.0 - alpha_bar).sqrt() - alpha_bar.sqrt() * sigma(next),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Rectified flow (Liu et al. 2022), as Stable Diffusion 3 and FLUX train it: a noise level is
    /// `sigma` of `x = (1 − sigma) · x0 + sigma · noise`, and the network predicts `noise − x0`.
    #[derive(Debug)]
    pub(in super::super) struct Flow;

    impl NoiseProcess for Flow {
        fn scales(&self, sigma: f64) -> Scales {
            Scales { signal: 1.0 - sigma, noise: sigma }
        }

        fn predict_x0(&self, sigma: f64, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
            sample - (output * sigma)?
        }

        fn predict_noise(&self, sigma: f64, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
            sample + (output * (1.0 - sigma))?
        }

        fn effect_on_x0(&self, sigma: f64) -> f64 {
            sigma
        }

        fn effect_on_picture(&self, sigma: f64, next: f64) -> f64 {
            (sigma - next) / (1.0 - next)
        }
    }

    fn number(value: f64) -> Tensor {
        Tensor::new(&[value], &Device::Cpu).unwrap()
    }

    fn value(tensor: &Tensor) -> f64 {
        tensor.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0]
    }

    /// Each process with a level, a later one, and the output that says the truth of `x0` and
    /// `noise`.
    fn cases(x0: f64, noise: f64) -> Vec<(Box<dyn NoiseProcess>, [f64; 2], f64)> {
        let preserving = |prediction_type| {
            let process = VariancePreserving { prediction_type, clip: None };
            Box::new(process) as Box<dyn NoiseProcess>
        };
        let alpha_bar = 0.3_f64;
        let velocity = alpha_bar.sqrt() * noise - (1.0 - alpha_bar).sqrt() * x0;
        vec![
            (preserving(PredictionType::Epsilon), [alpha_bar, 0.8], noise),
            (preserving(PredictionType::Velocity), [alpha_bar, 0.8], velocity),
            (Box::new(Flow), [0.6, 0.25], noise - x0),
        ]
    }

    #[test]
    fn a_true_output_points_to_the_picture_and_the_noise_and_a_step_mixes_them_anew() {
        let (x0, noise) = (0.7, -1.9);
        for (process, [level, next], output) in cases(x0, noise) {
            let sample = process.add_noise(level, &number(x0), &number(noise)).unwrap();
            let output = number(output);
            let found = [
                process.predict_x0(level, &output, &sample).unwrap(),
                process.predict_noise(level, &output, &sample).unwrap(),
                process.step(level, next, &output, &sample).unwrap(),
            ];
            let mixed = process.add_noise(next, &number(x0), &number(noise)).unwrap();
            for (found, expected) in found.iter().zip([x0, noise, value(&mixed)]) {
                assert!((value(found) - expected).abs() < 1e-12, "{process:?}: {found} {expected}");
            }
            assert!(process.log_snr(next) > process.log_snr(level), "{process:?}");
            let Scales { signal, noise } = process.scales(level);
            assert!((process.log_snr(level) - (signal / noise).powi(2).ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn effects_are_what_a_move_of_the_output_does() {
        for (process, [level, next], output) in cases(0.7, -1.9) {
            let sample = number(0.4);
            let at = |output: f64| {
                let output = number(output);
                let x0 = process.predict_x0(level, &output, &sample).unwrap();
                let step = process.step(level, next, &output, &sample).unwrap();
                // With no more noise predicted, this is where all further steps lead.
                (value(&x0), value(&step) / process.scales(next).signal)
            };
            let ((x0, picture), (x0_after, picture_after)) = (at(output), at(output + 1.0));
            let effects = [process.effect_on_x0(level), process.effect_on_picture(level, next)];
            for (effect, moved) in effects.into_iter().zip([x0 - x0_after, picture - picture_after])
            {
                assert!((effect - moved).abs() < 1e-12, "{process:?}: {effect} {moved}");
            }
        }
    }
}
