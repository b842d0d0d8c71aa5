//! What a training measured.

use serde::{Deserialize, Serialize};

use super::{TimestepScores, number};
use crate::spec::{LogSnrWindow, StepIndex, Timestep, UnlearnSpec};

/// One update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// Which update, from 0.
    pub update: usize,
    /// The key step trained at; the noisiest one where a batch spans several.
    pub step: StepIndex,
    /// Its training timestep.
    pub timestep: Timestep,
    /// The whole loss.
    pub loss: f64,
    /// Global 2-norm of the gradient in scope.
    pub gradient_norm: f64,
    /// Single-sample U-Net evaluations spent so far.
    pub unet_evaluations: u64,
}

/// A finished optimisation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainingLog {
    /// Every update.
    pub updates: Vec<UpdateRecord>,
    /// Steps of the schedule that were trained at, ascending.
    pub key_steps: Vec<StepIndex>,
    /// The band of noise levels that was trained in, where the method has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<LogSnrWindow>,
    /// Words of the vocabulary that the preserve term held; absent in records of before they were
    /// kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Vec<String>>,
    /// Single-sample U-Net evaluations that the method spent, beside those of scoring; a
    /// guided pair counts two, and a pass with gradient one.
    pub unet_evaluations: u64,
    /// Those spent on checking the run against held-out latents.
    pub check_evaluations: u64,
    /// Whether the erase measure ended the run before its last update.
    pub stopped_early: bool,
    /// Projection of what is left of the concept's guidance on the base model's, on held-out
    /// latents: 1 untouched, 0 neutral, below 0 steered away.
    pub erase_measure: f64,
    /// Squared change of unrelated predictions over the squared guidance of the concept.
    pub damage_measure: f64,
    /// 2-norm of the weights' change over that of the weights, in scope.
    pub weight_change: f64,
    /// The rate that Adam ran at (the largest, where it is derived for each tensor).
    pub learning_rate: f64,
}

/// A training without its single updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingFigures {
    /// As [`TrainingLog::stopped_early`].
    pub stopped_early: bool,
    /// Loss of the first update.
    #[serde(with = "number::optional")]
    pub first_loss: Option<f64>,
    /// Loss of the last update.
    #[serde(with = "number::optional")]
    pub last_loss: Option<f64>,
    /// As [`TrainingLog::erase_measure`].
    #[serde(with = "number")]
    pub erase_measure: f64,
    /// As [`TrainingLog::damage_measure`].
    #[serde(with = "number")]
    pub damage_measure: f64,
    /// As [`TrainingLog::weight_change`].
    #[serde(with = "number")]
    pub weight_change: f64,
    /// As [`TrainingLog::learning_rate`].
    #[serde(with = "number")]
    pub learning_rate: f64,
}

impl From<&TrainingLog> for TrainingFigures {
    fn from(log: &TrainingLog) -> Self {
        Self {
            stopped_early: log.stopped_early,
            first_loss: log.updates.first().map(|update| update.loss),
            last_loss: log.updates.last().map(|update| update.loss),
            erase_measure: log.erase_measure,
            damage_measure: log.damage_measure,
            weight_change: log.weight_change,
            learning_rate: log.learning_rate,
        }
    }
}

/// All of an erasure but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErasureRecord {
    /// What was asked.
    pub spec: UnlearnSpec,
    /// What training measured.
    pub log: TrainingLog,
    /// Those of each concept, where the run measured its window itself.
    pub scores: Vec<TimestepScores>,
}
