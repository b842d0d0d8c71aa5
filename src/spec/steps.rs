//! Positions on the denoising path. A step is an index into the sampler's schedule, a timestep is
//! the training timestep; the two must never be mixed up.

use serde::{Deserialize, Serialize};

/// Index into the sampler's schedule, `0..E`: 0 is pure noise, `E - 1` the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepIndex(pub usize);

/// Training timestep, `0..1000` in Stable Diffusion: larger is noisier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestep(pub usize);

/// A band of noise levels, in the natural logarithm of the signal-to-noise ratio, both ends
/// included. Carries over to another sampler, step count or resolution, which step indices do not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSnrWindow {
    /// The noisiest level inside.
    pub low: f64,
    /// The cleanest level inside.
    pub high: f64,
}

impl LogSnrWindow {
    /// Whether a noise level lies inside; the ends count, up to rounding of a stored bound.
    pub fn contains(self, log_snr: f64) -> bool {
        const ROUNDING: f64 = 1e-9;
        (self.low - ROUNDING..=self.high + ROUNDING).contains(&log_snr)
    }
}

/// Where on the denoising path the method `keystep` trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySteps {
    /// Measure the concept on this model first, and take the recommended window.
    Measured,
    /// A window given, or taken from earlier scores.
    Window(LogSnrWindow),
}
