//! Scores as a store keeps them, so that a later request can cite them.

use serde::{Deserialize, Serialize};

use crate::outcome::TimestepScores;

/// What was measured, and on which model; the JSON of this is what a store keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredScores {
    /// The model's name in the catalogue.
    pub model: String,
    /// The model's digest in the catalogue, which is over its files; that of the scores themselves
    /// is over the U-Net's tensors.
    pub model_digest: String,
    /// What was measured.
    pub scores: TimestepScores,
}
