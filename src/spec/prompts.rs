//! Prompts, and the sentences that concepts are spoken of in.

use super::{ConceptKind, SpecError};

/// Longest prompt that is looked at, in characters; the model's own limit in tokens is lower.
pub const MAX_PROMPT_CHARS: usize = 1_000;

/// Checks a text that must say something: not empty, not over-long, no control characters.
pub fn check_prompt(field: &str, text: &str) -> Result<(), SpecError> {
    let chars = text.chars().count();
    if text.trim().is_empty() {
        return Err(SpecError::one(field, "is empty; say what is meant, such as \"cat\""));
    }
    if chars > MAX_PROMPT_CHARS {
        return Err(SpecError::one(
            field,
            format!("has {chars} characters, the limit is {MAX_PROMPT_CHARS}; shorten it"),
        ));
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(SpecError::one(
            field,
            format!("holds the control character {control:?}; remove it"),
        ));
    }
    Ok(())
}

/// A prompt made of parts, so that one part can be taken out or replaced.
///
/// The sentences are those of UnlearnCanvas: "a cat in neon style", "a cat",
/// "an emoji in neon style" (where "emoji" is the vocabulary's word for anything at all).
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Prompt {
    /// The object it names, if any.
    pub object: Option<String>,
    /// The style it names, if any.
    pub style: Option<String>,
}

impl Prompt {
    /// The canonical prompt for a concept of a kind, alone. Instances and nudity stand bare.
    pub fn bare(text: &str, kind: ConceptKind) -> Self {
        match kind {
            ConceptKind::Style => Self { object: None, style: Some(text.to_owned()) },
            ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => {
                Self { object: Some(text.to_owned()), style: None }
            }
        }
    }

    /// The sentence; `anything` is the word for an unnamed object, such as "picture".
    pub fn sentence(&self, anything: &str) -> String {
        match (&self.object, &self.style) {
            (Some(object), Some(style)) => format!("{} in {style} style", with_article(object)),
            (Some(object), None) => with_article(object),
            (None, Some(style)) => format!("{} in {style} style", with_article(anything)),
            (None, None) => String::new(),
        }
    }
}

/// "a cat", "an apple"; a text that starts with a capital or an article is left alone.
pub(super) fn with_article(noun: &str) -> String {
    let first = noun.chars().next().unwrap_or(' ');
    let has_article = ["a ", "an ", "the "].iter().any(|article| noun.starts_with(article));
    if has_article || first.is_uppercase() {
        noun.to_owned()
    } else if "aeiou".contains(first) {
        format!("an {noun}")
    } else {
        format!("a {noun}")
    }
}
