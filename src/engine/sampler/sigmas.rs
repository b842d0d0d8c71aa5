//! Noise levels `σ = √((1 − ᾱ) / ᾱ)` and how a run is spread over them.

use candle_core::{Result, Tensor};

use crate::engine::schedule::PredictionType;

/// Exponent of the schedule of Karras et al. 2022 (equation 5).
const RHO: f64 = 7.0;

/// How a run's timesteps are spread over the trained ones (`timestep_spacing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// `σ` by training timestep, in f32 as torch computes it. A share of signal of nothing counts as
/// `2⁻²⁴`, as in diffusers' samplers that divide by it.
pub(super) fn table(alpha_bars: &[f32]) -> Vec<f32> {
    let floor = (-24_f32).exp2();
    let share = |alpha_bar: f32| if alpha_bar > 0.0 { alpha_bar } else { floor };
    alpha_bars.iter().map(|&alpha_bar| share(alpha_bar)).map(|a| ((1.0 - a) / a).sqrt()).collect()
}

/// `numpy.linspace(0, end, count)`, from its end.
pub(super) fn linspace_down(end: f64, count: usize) -> Vec<f64> {
    let stride = end / (count.max(2) - 1) as f64;
    (0..count)
        .rev()
        .map(|index| if index + 1 == count && count > 1 { end } else { index as f64 * stride })
        .collect()
}

/// `numpy.arange(trained, 0, -trained / steps).round() - 1`, without the value too many that it
/// gives for some runs.
pub(super) fn trailing(trained: usize, steps: usize) -> Vec<f64> {
    let end = trained as f64;
    // Through the second value, as `numpy.arange` takes its stride.
    let stride = end - (end - end / steps as f64);
    (0..steps).map(|step| (end - step as f64 * stride).round_ties_even() - 1.0).collect()
}

/// Every so many timesteps, from the noisy end, moved up by the offset; `count` of them without the
/// `skipped` cleanest.
pub(super) fn leading(stride: usize, count: usize, skipped: usize, offset: usize) -> Vec<f64> {
    (skipped..count).rev().map(|step| (step * stride + offset) as f64).collect()
}

/// `numpy.interp` of a table at timesteps that may lie between its entries.
pub(super) fn interpolate(table: &[f32], timestep: f64) -> f64 {
    let last = table.len().saturating_sub(1);
    let at = timestep.clamp(0.0, last as f64);
    let below = at.floor() as usize;
    let value = |index: usize| table.get(index.min(last)).copied().map_or(0.0, f64::from);
    (value(below + 1) - value(below)) * (at - below as f64) + value(below)
}

/// Noise levels of Karras et al., from `max` to `min`.
pub(super) fn karras(max: f64, min: f64, steps: usize) -> Vec<f64> {
    let (max, min) = (max.powf(1.0 / RHO), min.powf(1.0 / RHO));
    let stride = 1.0 / (steps.max(2) - 1) as f64;
    (0..steps).map(|step| (max + step as f64 * stride * (min - max)).powf(RHO)).collect()
}

/// The timestep of a noise level, between those of the table (`_sigma_to_t`).
pub(super) fn timestep_of(sigma: f64, table: &[f32]) -> f64 {
    let wanted = sigma.max(1e-10).ln();
    let logs = |index: usize| table.get(index).copied().map_or(0.0, f32::ln);
    let below = table.partition_point(|&entry| f64::from(entry.ln()) <= wanted);
    let low = below.saturating_sub(1).min(table.len().saturating_sub(2));
    let (from, to) = (logs(low), logs(low + 1));
    let share = ((f64::from(from) - wanted) / f64::from(from - to)).clamp(0.0, 1.0);
    (1.0 - share) * low as f64 + share * (low + 1) as f64
}

/// Shares of signal and noise of latents whose variance stays one (`_sigma_to_alpha_sigma_t`).
pub(super) fn shares(sigma: f32) -> (f32, f32) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// Clean latents with noise, by the shares of both.
pub(super) fn noised(
    (signal, sigma): (f32, f32),
    clean: &Tensor,
    noise: &Tensor,
) -> Result<Tensor> {
    (clean * f64::from(signal))? + (noise * f64::from(sigma))?
}

/// `log(alpha) - log(sigma)`: half the log of signal over noise power; infinite without noise.
pub(super) fn half_log_snr(sigma: f32) -> f32 {
    let (alpha, sigma) = shares(sigma);
    alpha.ln() - sigma.ln()
}

/// The clean latents that an output points to, of latents whose variance stays one.
pub(super) fn clean(
    prediction: PredictionType,
    (alpha, sigma): (f32, f32),
    output: &Tensor,
    sample: &Tensor,
) -> Result<Tensor> {
    let (alpha, sigma) = (f64::from(alpha), f64::from(sigma));
    match prediction {
        PredictionType::Epsilon => (sample - (output * sigma)?)? / alpha,
        PredictionType::Velocity => (sample * alpha)? - (output * sigma)?,
    }
}
