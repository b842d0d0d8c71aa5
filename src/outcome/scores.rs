//! Timestep scores (`ScoreTimesteps`).

use serde::{Deserialize, Serialize};

use crate::spec::{LogSnrWindow, ScoreSpec, StepIndex, Timestep};

/// A mean over seeds, with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Mean over the trajectories.
    pub mean: f64,
    /// Standard error of the mean.
    pub standard_error: f64,
}

/// How much one step decides a concept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepScore {
    /// Position in the schedule.
    pub step: StepIndex,
    /// The training timestep there.
    pub timestep: Timestep,
    /// Natural logarithm of the signal-to-noise ratio there.
    pub log_snr: f64,
    /// `‖D‖ / ‖eps(z, ∅)‖` with `D = eps(z, c) − eps(z, ∅)`.
    pub guidance_energy: Estimate,
    /// The guidance's effect on the predicted picture (`x0`) through the sampler's coefficients.
    pub guidance_effect: Estimate,
    /// Probability of the concept in the final picture when the prompt holds it for steps below
    /// this one only; absent when no switch curve was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concept_until: Option<Estimate>,
    /// The reverse: when the prompt holds it from this step on only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concept_from: Option<Estimate>,
    /// Norm of the erase loss's gradient in scope over that of the preserve loss; absent when it was
    /// not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_share: Option<Estimate>,
}

/// The result of scoring; citable by a later job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimestepScores {
    /// What was asked.
    pub spec: ScoreSpec,
    /// SHA-256 of the scored U-Net's weights, hexadecimal (`StoredTensors::digest`).
    pub model_digest: String,
    /// A record of each step, in order; a step without signal has no log-SNR and is left out.
    pub steps: Vec<StepScore>,
    /// Where to train.
    pub window: LogSnrWindow,
    /// The window's first and last step in this schedule.
    pub window_steps: (StepIndex, StepIndex),
    /// How the window was chosen, in words.
    pub rule: String,
    /// Single-sample U-Net evaluations spent.
    pub unet_evaluations: u64,
}
