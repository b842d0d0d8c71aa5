//! `JudgeSpec`: how an erasure is judged.

use serde::{Deserialize, Serialize};

use super::{Concept, Field, SamplerKind, SpecError, Vocabulary, find_word, violation::Violations};

/// A request to judge a model after an erasure (UnlearnCanvas, arXiv 2402.11846).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSpec {
    /// The concept that should be gone.
    pub concept: Concept,
    /// The grid: objects and styles.
    pub vocabulary: Vocabulary,
    /// Pictures a cell of the concept's own row or column.
    pub target_seeds: usize,
    /// Pictures a cell of the rest of the grid.
    pub retain_seeds: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Where the cells' seeds start.
    pub seed: u64,
    /// What both models' pictures are drawn with; the sampler that the base model's folder names when
    /// absent, as for [`GenerateSpec::sampler`](super::GenerateSpec::sampler).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// A share of pictures without the concept that the judgement shall be able to show:
    /// `target_seeds` then follows from it (`JudgeSpec::showing`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub show: Option<f64>,
    /// Whether distances of the pictures are measured too, for which the base model draws the cells
    /// without the concept once more, from other seeds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub distances: bool,
}

impl JudgeSpec {
    /// The defaults for a concept.
    pub fn new(concept: Concept, vocabulary: Vocabulary) -> Self {
        // A row of objects has as many cells as there are styles, and the other way round; the
        // shorter one gets more seeds, so that one picture never weighs more than about 3 %.
        let mut spec = Self {
            target_seeds: 0,
            concept,
            vocabulary,
            retain_seeds: 1,
            steps: 20,
            guidance_scale: 5.0,
            seed: 500_000,
            sampler: None,
            show: None,
            distances: false,
        };
        spec.target_seeds = 32_usize.div_ceil(spec.target_cells());
        spec
    }

    /// Least and most that [`JudgeSpec::show`] may be: beyond it takes 3,838 pictures and more.
    pub const SHOWN: std::ops::RangeInclusive<f64> = 0.5..=0.999;

    /// Pictures that share the concept: cells of its own row or column.
    pub fn target_cells(&self) -> usize {
        self.vocabulary.other_domain(self.concept.kind).len().max(1)
    }

    /// The same request in canonical words.
    #[must_use]
    pub fn canonical(&self) -> Self {
        Self {
            concept: self.concept.canonical(),
            vocabulary: self.vocabulary.canonical(),
            ..self.clone()
        }
    }

    /// Checks every field.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.absorb(self.concept.validate());
        found.absorb(self.vocabulary.validate());
        let domain = self.vocabulary.domain(self.concept.kind);
        if find_word(domain, &self.concept.text).is_none() {
            found.add(
                Field::ConceptText,
                format!(
                    "\"{}\" is not among the {} words that the judge knows; add it to the vocabulary",
                    self.concept.text,
                    domain.len()
                ),
            );
        }
        found.within(Field::TargetSeeds, self.target_seeds, 1..=1_000);
        found.within(Field::RetainSeeds, self.retain_seeds, 1..=1_000);
        found.within(Field::Steps, self.steps, 1..=1_000);
        if let Some(show) = self.show {
            found.within(Field::Show, show, Self::SHOWN);
        }
        found.within(Field::GuidanceScale, self.guidance_scale, 0.0..=100.0);
        found.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ConceptKind;

    #[test]
    fn a_concept_is_judged_however_it_is_written() {
        let asked = |text: &str, objects: &[&str]| {
            let words = Vocabulary {
                objects: objects.iter().map(|word| (*word).to_owned()).collect(),
                ..Vocabulary::default()
            };
            JudgeSpec::new(Concept::new(text, ConceptKind::Object), words)
        };
        for (text, word) in [("Cat", "cat"), ("cat", "CAT"), (" cat ", "cat")] {
            assert_eq!(asked(text, &["dog", word]).validate(), Ok(()));
            assert_eq!(asked(text, &["dog", word]).canonical(), asked("cat", &["dog", "cat"]));
        }
        assert!(asked("cats", &["dog", "cat"]).validate().is_err());
    }
}
