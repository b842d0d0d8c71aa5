//! Pictures, and UnlearnCanvas's measures of what a judge sees in them.

use serde::{Deserialize, Serialize};

use super::{Confidence, EvaluationResults, Figures, Measures, Share};
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
    /// Attacks, their controls and the pictures that they are counted over are among them.
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

impl JudgeSpec {
    /// The same judgement with so many pictures of the concept that none of them showing it proves a
    /// UA of at least `share`: Wilson's two-sided interval at 0.95, as reports print it, then begins
    /// there. A share that [`JudgeSpec::validate`] refuses changes no seeds.
    #[must_use]
    pub fn showing(mut self, share: f64) -> Self {
        self.show = Some(share);
        if Self::SHOWN.contains(&share)
            && let Some(pictures) = Share::needed(share, Confidence::DEFAULT.two_sided())
        {
            let pictures = usize::try_from(pictures).unwrap_or(usize::MAX);
            self.target_seeds = pictures.div_ceil(self.target_cells());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Concept, ConceptKind, Vocabulary};

    #[test]
    fn what_is_to_be_shown_sets_the_pictures() {
        // Ten styles: 73 pictures take eight of each.
        let concept = Concept::new("cat", ConceptKind::Object);
        let spec = JudgeSpec::new(concept, Vocabulary::default());
        assert_eq!(spec.target_seeds, 4);
        for (share, seeds) in [(0.90, 4), (0.95, 8), (0.97, 13), (0.99, 39)] {
            let spec = spec.clone().showing(share);
            assert_eq!((spec.target_seeds, spec.validate()), (seeds, Ok(())), "{share}");
        }
        for wrong in [0.0, 1.0, f64::NAN] {
            let spec = spec.clone().showing(wrong);
            assert_eq!(spec.target_seeds, 4);
            let violations = spec.validate().unwrap_err().violations;
            assert_eq!(violations[0].field.to_string(), "show");
        }
        // Work that was stored before reads and is written as it was.
        let json = serde_json::to_string(&spec).unwrap();
        assert!(!json.contains("show") && !json.contains("distances"), "{json}");
        assert_eq!(serde_json::from_str::<JudgeSpec>(&json).unwrap(), spec);
    }
}
