//! What a result holds of an erased model.

use serde::{Deserialize, Serialize};

/// What is written of an erased model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// The edited tensors alone.
    Delta,
    /// The whole U-Net with its config.
    Unet,
    /// The whole pipeline.
    Pipeline,
}
