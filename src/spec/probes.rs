//! `ProbesSpec`: words near a concept, each kind a suite of its own.

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::{
    Field, SpecError, canonical, find_word,
    prompt_rules::{check_drawn, check_prompt},
    violation::Violations,
};

/// A way to ask for a concept in other words, which needs no gradient.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Probe {
    /// The concept in ten sentences.
    Templates,
    /// Several of it.
    Plural,
    /// Other words for it, as given.
    Synonyms,
    /// The single words whose token embeddings lie nearest.
    Neighbours,
    /// A letter dropped, doubled, swapped with the next, or replaced by a key beside it.
    Misspellings,
    /// Letters that look the same: Cyrillic, full-width, or parted by zero-width joiners.
    Homoglyphs,
    /// The word in other languages, as given (HUB, arXiv 2410.05664).
    Translations,
    /// The word before or behind 10, 20 or 30 neutral ones.
    Dilution,
    /// Whole prompts that describe it without its name, as given.
    Descriptions,
}

impl Probe {
    /// Every probe, in the order of results.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name of its suite.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How a concept is asked for in other words. The lists may be empty; the probes that need none are
/// always made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbesSpec {
    /// Other words for the concept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub synonyms: Vec<String>,
    /// The word in other languages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub translations: Vec<String>,
    /// Whole prompts that describe it without its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptions: Vec<String>,
    /// Pictures of each prompt, 1 to 100.
    #[serde(default = "default_seeds")]
    pub seeds: usize,
    /// Nearest words that are asked for, 0 to 100.
    #[serde(default = "default_neighbours")]
    pub neighbours: usize,
    /// Where the pictures' seeds start, and the seed of what is drawn by chance.
    #[serde(default)]
    pub seed: u64,
}

fn default_seeds() -> usize {
    2
}

fn default_neighbours() -> usize {
    5
}

impl Default for ProbesSpec {
    fn default() -> Self {
        Self {
            synonyms: Vec::new(),
            translations: Vec::new(),
            descriptions: Vec::new(),
            seeds: default_seeds(),
            neighbours: default_neighbours(),
            seed: 0,
        }
    }
}

impl ProbesSpec {
    /// Most words of a list.
    pub const MAX_WORDS: usize = 256;

    /// The same request in [`canonical`] words; descriptions stay as they are written.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let words = |words: &[String]| words.iter().map(|word| canonical(word)).collect();
        Self {
            synonyms: words(&self.synonyms),
            translations: words(&self.translations),
            ..self.clone()
        }
    }

    /// Checks every field; `concept` is what is asked for.
    pub(super) fn validate(&self, concept: &str) -> Result<(), SpecError> {
        let mut found = Violations::default();
        for (field, words) in [
            (Field::ProbesSynonyms, &self.synonyms),
            (Field::ProbesTranslations, &self.translations),
            (Field::ProbesDescriptions, &self.descriptions),
        ] {
            if words.len() > Self::MAX_WORDS {
                let message =
                    format!("has {} entries, the limit is {}", words.len(), Self::MAX_WORDS);
                found.add(field, message);
            }
            for (index, word) in words.iter().take(Self::MAX_WORDS).enumerate() {
                found.absorb(check_prompt(field.at(index), word));
                if field == Field::ProbesDescriptions {
                    found.absorb(check_drawn(field.at(index), word));
                } else if find_word(&words[..index], word).is_some() {
                    found.add(field.at(index), format!("\"{word}\" is given twice; leave one out"));
                } else if canonical(word) == canonical(concept) {
                    let message = format!("\"{word}\" is the concept itself; name another word");
                    found.add(field.at(index), message);
                }
            }
        }
        found.within(Field::ProbesSeeds, self.seeds, 1..=100);
        found.within(Field::ProbesNeighbours, self.neighbours, 0..=100);
        found.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks one rule.
    type Break<'a> = &'a dyn Fn(&mut ProbesSpec);

    #[test]
    fn every_rule_is_checked() {
        let of = |change: &dyn Fn(&mut ProbesSpec)| {
            let mut spec = ProbesSpec::default();
            change(&mut spec);
            spec.validate("cat")
        };
        assert_eq!(of(&|_| ()), Ok(()));
        let broken: [(&str, Break<'_>); 8] = [
            ("probes.synonyms[0]", &|it| it.synonyms = vec![" ".to_owned()]),
            ("probes.synonyms[1]", &|it| it.synonyms = vec!["kitty".into(), "Kitty ".into()]),
            ("probes.translations[0]", &|it| it.translations = vec!["Cat".to_owned()]),
            ("probes.descriptions[0]", &|it| it.descriptions = vec!["x".repeat(1_001)]),
            ("probes.synonyms", &|it| {
                it.synonyms = (0..257).map(|index| format!("w{index}")).collect();
            }),
            ("probes.seeds", &|it| it.seeds = 0),
            ("probes.seeds", &|it| it.seeds = 101),
            ("probes.neighbours", &|it| it.neighbours = 101),
        ];
        for (field, change) in broken {
            let error = of(change).unwrap_err();
            assert_eq!(error.violations[0].field.to_string(), field);
        }
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let read: ProbesSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(read, ProbesSpec::default());
        assert!(serde_json::from_str::<ProbesSpec>(r#"{"synonym": []}"#).is_err());
    }
}
