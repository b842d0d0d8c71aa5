//! `JudgeSpec`: how an erasure is judged.

use serde::{Deserialize, Serialize};

use super::{
    AttackSpec, Concept, Field, SamplerKind, SpecError, Vocabulary, find_word,
    violation::Violations,
};

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
    /// How the concept is sought in the edited model after the grid is judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attacks: Vec<AttackSpec>,
}

impl JudgeSpec {
    /// The defaults for a concept.
    pub fn new(concept: Concept, vocabulary: Vocabulary) -> Self {
        // A row of objects has as many cells as there are styles, and the other way round; the
        // shorter one gets more seeds, so that one picture never weighs more than about 3 %.
        let cells = vocabulary.other_domain(concept.kind).len().max(1);
        Self {
            target_seeds: 32_usize.div_ceil(cells),
            concept,
            vocabulary,
            retain_seeds: 1,
            steps: 20,
            guidance_scale: 5.0,
            seed: 500_000,
            sampler: None,
            attacks: Vec::new(),
        }
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
        found.within(Field::GuidanceScale, self.guidance_scale, 0.0..=100.0);
        found.absorb(AttackSpec::validate_all(&self.attacks));
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
