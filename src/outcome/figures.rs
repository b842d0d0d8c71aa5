//! UnlearnCanvas's three figures.

use serde::{Deserialize, Serialize};

use super::number;

/// Accuracies of one model by one judge, each 0 to 1; NaN over no pictures, which JSON has as null
/// (records of before counts were kept have 0 there).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Unlearning accuracy: share of the concept's pictures that the judge does not assign to it.
    #[serde(deserialize_with = "number::deserialize")]
    pub ua: f64,
    /// In-domain retain accuracy: the judge's accuracy over the other concepts of the domain.
    #[serde(deserialize_with = "number::deserialize")]
    pub ira: f64,
    /// Cross-domain retain accuracy: accuracy in the other domain, on prompts without the concept.
    #[serde(deserialize_with = "number::deserialize")]
    pub cra: f64,
}
