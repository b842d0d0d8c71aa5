//! `Concept`: what is to be erased.

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::{
    Field, FieldPath, SpecError, canonical, prompt_rules::check_prompt, same_words,
    violation::Violations,
};

/// What sort of thing a concept is; decides presets, prompt templates and the judge's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(strum::Display, strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case", parse_err_ty = SpecError, parse_err_fn = unknown_kind)]
pub enum ConceptKind {
    /// An object class, such as "cat".
    Object,
    /// An artistic style, such as "neon".
    Style,
    /// One person or thing, such as a celebrity.
    Instance,
    /// Nudity.
    Nudity,
}

impl ConceptKind {
    /// Every kind, in the order in which help texts list them.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

fn unknown_kind(text: &str) -> SpecError {
    let known = ConceptKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let message = format!("\"{text}\" is not a kind of concept; use one of {known}");
    SpecError::one(Field::Kind, message)
}

/// A text to erase, and optionally what shall appear in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concept {
    /// The bare words, such as "cat" or "Van Gogh"; no template.
    pub text: String,
    /// What sort of thing it is.
    pub kind: ConceptKind,
    /// The concept that shall appear instead, such as "dog"; none erases towards the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
}

impl Concept {
    /// A concept without replacement.
    pub fn new(text: impl Into<String>, kind: ConceptKind) -> Self {
        Self { text: text.into(), kind, replacement: None }
    }

    /// The same concept in [`canonical`] words.
    #[must_use]
    pub fn canonical(&self) -> Self {
        Self {
            text: canonical(&self.text),
            kind: self.kind,
            replacement: self.replacement.as_deref().map(canonical),
        }
    }

    /// Checks the texts.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.validate_at(&Field::Concept.into())
    }

    /// The same for the concept that a spec holds under this path.
    pub(super) fn validate_at(&self, path: &FieldPath) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.absorb(check_prompt(path.text(), &self.text));
        if let Some(replacement) = &self.replacement {
            found.absorb(check_prompt(path.replacement(), replacement));
            if same_words(replacement, &self.text) {
                found.add(
                    path.replacement(),
                    format!("\"{replacement}\" is the concept itself; name another one or none"),
                );
            }
        }
        found.finish()
    }
}
