//! `JudgeSpec`: how an erasure is judged.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    AttackSpec, Concept, Expectation, Field, Probe, ProbesSpec, SamplerKind, SpecError, Suite,
    Vocabulary, canonical, find_word, violation::Violations,
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
    /// A share of pictures without the concept that the judgement shall be able to show:
    /// `target_seeds` then follows from it (`JudgeSpec::showing`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub show: Option<f64>,
    /// Whether distances of the pictures are measured too, for which the base model draws the cells
    /// without the concept once more, from other seeds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub distances: bool,
    /// Prompts beyond the grid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<Suite>,
    /// Prompts beyond the grid that are made of words near the concept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<ProbesSpec>,
    /// How the concept is sought in the edited model after the grid is judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attacks: Vec<AttackSpec>,
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
            suites: Vec::new(),
            probes: None,
            attacks: Vec::new(),
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

    /// The same request in canonical words; the prompts of suites stay as they are written.
    #[must_use]
    pub fn canonical(&self) -> Self {
        Self {
            concept: self.concept.canonical(),
            vocabulary: self.vocabulary.canonical(),
            probes: self.probes.as_ref().map(ProbesSpec::canonical),
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
        if let Some(probes) = &self.probes {
            found.absorb(probes.validate(&self.concept.text));
        }
        self.check_suites(&mut found);
        found.absorb(AttackSpec::validate_all(&self.attacks));
        found.finish()
    }

    fn check_suites(&self, found: &mut Violations) {
        let (count, most) = (self.suites.len(), Suite::MAX_SUITES);
        if count > most {
            found.add(Field::Suites, format!("has {count} suites, the limit is {most}"));
        }
        let prompts: usize = self.suites.iter().map(|suite| suite.prompts.len()).sum();
        let most = Suite::MAX_PROMPTS_IN_ALL;
        if prompts > most {
            let message =
                format!("has {prompts} prompts in all, the limit is {most}; judge some later");
            found.add(Field::Suites, message);
        }
        let words = |words: &[String]| words.iter().map(|word| canonical(word)).collect();
        let known: [(&str, BTreeSet<String>); 2] = [
            ("objects", words(&self.vocabulary.objects)),
            ("styles", words(&self.vocabulary.styles)),
        ];
        for (index, suite) in self.suites.iter().take(Suite::MAX_SUITES).enumerate() {
            let path = Field::Suites.at(index);
            found.absorb(suite.validate_at(&path));
            let name = &suite.name;
            if self.suites[..index].iter().any(|other| other.name == *name) {
                found.add(path.clone(), format!("\"{name}\" is the name of two; rename one"));
            } else if self.probes.is_some() && name.parse::<Probe>().is_ok() {
                let message = format!("\"{name}\" is the name of a probe; rename the suite");
                found.add(path.clone(), message);
            }
            // What a picture shows is counted by the vocabulary's words.
            let unknown = suite.prompts.iter().find_map(|prompt| {
                let shown = [prompt.object.as_ref(), prompt.style.as_ref()];
                known.iter().zip(shown).find_map(|((list, words), word)| {
                    word.filter(|word| !words.contains(&canonical(word))).map(|word| (list, word))
                })
            });
            if suite.expects == Expectation::Kept
                && let Some((list, word)) = unknown
            {
                let message = format!(
                    "shows \"{word}\", which is not among the {list} that the judge knows; add it \
                     to the vocabulary or leave it out of the suite"
                );
                found.add(path, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ConceptKind, SuitePrompt};

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

    #[test]
    fn suites_have_names_of_their_own_and_words_that_the_judge_knows() {
        let suite = |name: &str, expects, object: &str| Suite {
            name: name.to_owned(),
            expects,
            prompts: vec![SuitePrompt {
                prompt: "a dog".to_owned(),
                object: Some(object.to_owned()),
                ..SuitePrompt::default()
            }],
            columns: Vec::new(),
        };
        let of = |suites: Vec<Suite>, probes: Option<ProbesSpec>| {
            let concept = Concept::new("cat", ConceptKind::Object);
            let spec =
                JudgeSpec { suites, probes, ..JudgeSpec::new(concept, Vocabulary::default()) };
            spec.validate().map_err(|error| error.to_string())
        };
        let (gone, kept) = (Expectation::Gone, Expectation::Kept);
        assert_eq!(of(vec![suite("a", gone, "zebu"), suite("b", kept, "Dog")], None), Ok(()));
        assert_eq!(of(vec![suite("plural", gone, "cat")], None), Ok(()));
        for (suites, probes, wanted) in [
            (vec![suite("a", gone, "cat"), suite("a", gone, "cat")], None, "suites[1]"),
            (vec![suite("plural", gone, "cat")], Some(ProbesSpec::default()), "of a probe"),
            (vec![suite("a", kept, "zebu")], None, "\"zebu\", which is not among the objects"),
            (vec![suite("a", gone, "cat"); 33], None, "has 33 suites"),
            (
                ["a", "b", "c"]
                    .map(|name| {
                        let one = suite(name, gone, "cat");
                        Suite { prompts: vec![one.prompts[0].clone(); 7_000], ..one }
                    })
                    .to_vec(),
                None,
                "has 21000 prompts in all",
            ),
        ] {
            let message = of(suites, probes).unwrap_err();
            assert!(message.contains(wanted), "{message}");
        }
    }

    #[test]
    fn a_spec_without_suites_is_written_as_before() {
        let concept = Concept::new("cat", ConceptKind::Object);
        let spec = JudgeSpec::new(concept, Vocabulary::default());
        let json = serde_json::to_string(&spec).unwrap();
        assert!(!json.contains("suites") && !json.contains("probes"), "{json}");
        assert_eq!(serde_json::from_str::<JudgeSpec>(&json).unwrap(), spec);
    }
}
