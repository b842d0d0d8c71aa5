//! What is to be forgotten.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{SpecError, canonical, prompt_rules::check_prompt, same_words, violation::Violations};

/// What sort of thing a concept is; decides presets, prompt templates and the judge's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    pub const ALL: [Self; 4] = [Self::Object, Self::Style, Self::Instance, Self::Nudity];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Style => "style",
            Self::Instance => "instance",
            Self::Nudity => "nudity",
        }
    }
}

impl fmt::Display for ConceptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ConceptKind {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            SpecError::one(
                "kind",
                format!("\"{text}\" is not a kind of concept; use one of {known}"),
            )
        })
    }
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

    /// Checks the texts; `field` is the path under which violations are reported.
    pub fn validate(&self, field: &str) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.absorb(check_prompt(&format!("{field}.text"), &self.text));
        if let Some(replacement) = &self.replacement {
            found.absorb(check_prompt(&format!("{field}.replacement"), replacement));
            if same_words(replacement, &self.text) {
                found.add(
                    format!("{field}.replacement"),
                    format!("\"{replacement}\" is the concept itself; name another one or none"),
                );
            }
        }
        found.finish()
    }
}
