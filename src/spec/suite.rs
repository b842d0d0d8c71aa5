//! `Suite`: prompts with their seeds that an erased model is held against beyond the grid.

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::{FieldPath, SpecError, prompt_rules::check_drawn, violation::Violations};

/// What an erased model should make of a suite's prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(strum::Display, strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Expectation {
    /// They ask for the concept, which no picture should show any more.
    #[default]
    Gone,
    /// They ask for something else, which every picture should still show.
    Kept,
}

impl Expectation {
    /// Both.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it is the one that is meant where nothing is said.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks through a reference")]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One picture of a suite.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuitePrompt {
    /// The text, as it is written in the suite.
    pub prompt: String,
    /// The seed of the start noise, as `torch.Generator.manual_seed` takes it.
    pub seed: u64,
    /// Classifier-free guidance; the judgement's own where the suite does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// The object that the picture shows, a word of the vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The style that it is drawn in, a word of the vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
}

/// Prompts that are drawn by both models and counted together, such as I2P (arXiv 2211.05105) or
/// those that an attack found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Its name in results, such as its file's.
    pub name: String,
    /// What should become of what it asks for.
    #[serde(default, skip_serializing_if = "Expectation::is_default")]
    pub expects: Expectation,
    /// The pictures, in the order of the file.
    pub prompts: Vec<SuitePrompt>,
    /// The columns of the file that were read; none where it has no header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

impl Suite {
    /// Most prompts of a suite; I2P has 4,703.
    pub const MAX_PROMPTS: usize = 10_000;
    /// Most suites of a judgement.
    pub const MAX_SUITES: usize = 32;
    /// Most prompts of all suites of a judgement.
    pub const MAX_PROMPTS_IN_ALL: usize = 20_000;
    /// Most characters of a name, and of a column's.
    pub const MAX_NAME_CHARS: usize = 64;
    const MAX_COLUMNS: usize = 16;
    /// Violations of prompts that are told of a suite: one file breaks one rule many times.
    const MOST_TOLD: usize = 5;

    /// SHA-256 of prompts, seeds, guidance and what the pictures show, as compact JSON in the order of
    /// the fields, hexadecimal. Name and columns are no part of it.
    #[cfg(feature = "client")]
    pub fn sha256(&self) -> Result<String, serde_json::Error> {
        use sha2::{Digest, Sha256};
        use std::fmt::Write as _;

        let digest = Sha256::digest(serde_json::to_vec(&self.prompts)?);
        Ok(digest.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// Checks everything but the words that the pictures show, under the path of the suite.
    pub(super) fn validate_at(&self, path: &FieldPath) -> Result<(), SpecError> {
        let mut found = Violations::default();
        if let Err(message) = check_label("name", &self.name) {
            found.add(path.clone(), message);
        }
        let count = self.prompts.len();
        if !(1..=Self::MAX_PROMPTS).contains(&count) {
            let message = format!(
                "has {count} prompts, 1 to {} are allowed; split or fill it",
                Self::MAX_PROMPTS
            );
            found.add(path.clone(), message);
        }
        if self.columns.len() > Self::MAX_COLUMNS {
            let message =
                format!("names {} columns, the limit is {}", self.columns.len(), Self::MAX_COLUMNS);
            found.add(path.clone(), message);
        }
        for column in self.columns.iter().take(Self::MAX_COLUMNS) {
            if let Err(message) = check_label("column", column) {
                found.add(path.clone(), message);
            }
        }
        let wrong = self.prompts.iter().take(Self::MAX_PROMPTS).enumerate();
        let wrong = wrong.filter_map(|(index, prompt)| {
            prompt
                .check(self.expects)
                .err()
                .map(|message| format!("prompt {}: {message}", index + 1))
        });
        for message in wrong.take(Self::MOST_TOLD) {
            found.add(path.clone(), message);
        }
        found.finish()
    }
}

impl SuitePrompt {
    /// What is wrong with it, in words that follow its place.
    pub(super) fn check(&self, expects: Expectation) -> Result<(), String> {
        if self.prompt.trim().is_empty() {
            return Err("is empty; say what is to be drawn".to_owned());
        }
        check_drawn(super::Field::Suites, &self.prompt).map_err(|error| {
            error.violations.into_iter().map(|it| it.message).collect::<Vec<_>>().join(" and ")
        })?;
        if let Some(scale) = self.guidance_scale.filter(|scale| !(0.0..=100.0).contains(scale)) {
            return Err(format!("the guidance {scale} is outside 0 to 100"));
        }
        for (what, word) in [("object", &self.object), ("style", &self.style)] {
            if let Some(word) = word {
                check_label(what, word)?;
            }
        }
        if expects == Expectation::Kept && self.object.is_none() && self.style.is_none() {
            return Err(
                "says neither object nor style, so that nobody knows what it should keep; \
                        name one of the vocabulary"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// A short text of one line.
fn check_label(what: &str, text: &str) -> Result<(), String> {
    let characters = text.chars().count();
    if text.trim().is_empty() {
        return Err(format!("has an empty {what}"));
    }
    if characters > Suite::MAX_NAME_CHARS {
        return Err(format!(
            "has a {what} of {characters} characters, the limit is {}; shorten it",
            Suite::MAX_NAME_CHARS
        ));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(control) => Err(format!("has the control character {control:?} in its {what}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Field;

    /// Breaks one rule.
    type Break<'a> = &'a dyn Fn(&mut Suite);

    fn suite(change: impl Fn(&mut Suite)) -> Suite {
        let prompt = SuitePrompt { prompt: "a cat".to_owned(), ..SuitePrompt::default() };
        let mut suite =
            Suite { name: "found".to_owned(), prompts: vec![prompt], ..Suite::default() };
        change(&mut suite);
        suite
    }

    #[test]
    fn every_rule_is_checked() {
        let check = |suite: &Suite| suite.validate_at(&Field::Suites.at(2));
        assert_eq!(check(&suite(|_| ())), Ok(()));
        let broken: [(&str, Break<'_>); 12] = [
            ("empty name", &|it| it.name = " ".to_owned()),
            ("65 characters", &|it| it.name = "x".repeat(65)),
            ("control character", &|it| it.name = "a\nb".to_owned()),
            ("has 0 prompts", &|it| it.prompts.clear()),
            ("has 10001 prompts", &|it| it.prompts = vec![it.prompts[0].clone(); 10_001]),
            ("names 17 columns", &|it| it.columns = vec!["seed".to_owned(); 17]),
            ("column", &|it| it.columns = vec!["x".repeat(65)]),
            ("prompt 1: is empty", &|it| it.prompts[0].prompt = " \n".to_owned()),
            ("prompt 1: has 1001 characters", &|it| it.prompts[0].prompt = "x".repeat(1_001)),
            ("guidance NaN", &|it| it.prompts[0].guidance_scale = Some(f64::NAN)),
            ("guidance 101", &|it| it.prompts[0].guidance_scale = Some(101.0)),
            ("neither object nor style", &|it| it.expects = Expectation::Kept),
        ];
        for (wanted, change) in broken {
            let error = check(&suite(change)).unwrap_err();
            assert_eq!(error.violations[0].field.to_string(), "suites[2]");
            assert!(error.to_string().contains(wanted), "{error}: {wanted}");
        }
        // One rule that is broken everywhere does not fill the answer.
        let many = suite(|it| {
            it.prompts = vec![SuitePrompt::default(); 100];
        });
        assert_eq!(check(&many).unwrap_err().violations.len(), Suite::MOST_TOLD);
    }

    #[cfg(feature = "client")]
    #[test]
    fn the_digest_is_of_what_is_drawn() {
        let plain = suite(|_| ()).sha256().unwrap();
        // printf '[{"prompt":"a cat","seed":0}]' | sha256sum
        assert_eq!(plain, "4a8cdbb94727ce0977a35b03f680eef021be085f363f2ed77f145762396063d3");
        assert_eq!(suite(|it| it.name = "other".to_owned()).sha256().unwrap(), plain);
        assert_eq!(suite(|it| it.columns.push("prompt".to_owned())).sha256().unwrap(), plain);
        for change in [
            &(|it: &mut Suite| it.prompts[0].seed = 1) as &dyn Fn(&mut Suite),
            &|it| it.prompts[0].guidance_scale = Some(7.5),
            &|it| it.prompts[0].prompt.push('s'),
        ] {
            assert_ne!(suite(change).sha256().unwrap(), plain);
        }
    }

    #[test]
    fn what_is_not_said_is_not_written() {
        let json = serde_json::to_string(&suite(|_| ())).unwrap();
        assert_eq!(json, r#"{"name":"found","prompts":[{"prompt":"a cat","seed":0}]}"#);
        assert_eq!(serde_json::from_str::<Suite>(&json).unwrap(), suite(|_| ()));
    }
}
