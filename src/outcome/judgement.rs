//! Pictures, and UnlearnCanvas's measures of what a judge sees in them.

use serde::{Deserialize, Serialize};

use super::{EvaluationResults, Measures, number};
use crate::spec::{JudgeSpec, Prompt, SamplerKind};

/// A drawn picture: 8-bit RGB, rows from the top, three bytes a pixel, no padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

/// What a drawing hands over while it goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Drawn {
    /// An unfinished picture, small: what the latents so far point to.
    Preview {
        /// Which picture of the spec, from 0.
        index: usize,
        /// The picture.
        picture: Picture,
    },
    /// A finished picture.
    Picture {
        /// Which picture of the spec, from 0.
        index: usize,
        /// The picture.
        picture: Picture,
    },
}

/// Accuracies of one model by one judge, each 0 to 1; NaN over no pictures, which JSON has as null.
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

/// What one judge says of both models on the same prompts and seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The judge, such as "clip" or "cnn".
    pub judge: String,
    /// What the pictures were drawn with. Records without it are of when all were drawn with DDIM.
    #[serde(default)]
    pub sampler: SamplerKind,
    /// The edited model.
    pub edited: Figures,
    /// The base model.
    pub base: Figures,
    /// What was counted. Records without it are of before counts were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measures: Option<Measures>,
}

/// A verdict and the concept that it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConceptVerdict {
    /// The concept.
    pub concept: String,
    /// What one judge says.
    pub verdict: Verdict,
}

/// A judged cell of the grid, with both models' pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedPicture {
    /// The cell.
    pub prompt: Prompt,
    /// Its seed.
    pub seed: u64,
    /// Whether it asks for the concept.
    pub is_target: bool,
    /// Drawn by the base model.
    pub before: Picture,
    /// Drawn by the edited model.
    pub after: Picture,
}

/// A judgement with its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeReport {
    /// What was asked.
    pub spec: JudgeSpec,
    /// What each judge says.
    pub verdicts: Vec<Verdict>,
    /// What was found beyond the grid.
    pub evaluation: EvaluationResults,
    /// Every picture, in grid order.
    pub pictures: Vec<JudgedPicture>,
    /// Single-sample U-Net evaluations that both models' pictures take. Pictures that were kept from
    /// an earlier judgement count as if they were drawn anew, so that equal work has equal figures.
    pub unet_evaluations: u64,
    /// Those of the base model's pictures that were kept, and so not spent again.
    pub kept_evaluations: u64,
}

impl EvaluationResults {
    /// That of several judgements.
    pub fn of(judged: &[JudgeReport]) -> Self {
        let evaluations = judged.iter().map(|judged| &judged.evaluation);
        evaluations.fold(Self::default(), Self::plus)
    }
}
