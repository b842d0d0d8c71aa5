//! Prompts, and the sentences that concepts are spoken of in.

use super::{ConceptKind, SpecError};

/// Longest prompt that is looked at, in characters; the model's own limit in tokens is lower.
pub const MAX_PROMPT_CHARS: usize = 1_000;

/// Checks a text that pictures are drawn from: not over-long, no control characters but line breaks
/// and tabs, which are white space to CLIP's tokenizer. It may be empty.
pub(super) fn check_drawn(field: &str, text: &str) -> Result<(), SpecError> {
    if text.trim().is_empty() && text.len() <= MAX_PROMPT_CHARS {
        return Ok(());
    }
    let is_blank = |c: char| c.is_control() && c.is_whitespace();
    check_prompt(field, &text.replace(is_blank, " "))
}

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
    /// Whether the object is a name or a mass noun, which takes no article.
    pub proper: bool,
    /// The style it names, if any.
    pub style: Option<String>,
}

impl Prompt {
    /// A prompt that names one concept and nothing else.
    pub fn of(text: &str, kind: ConceptKind) -> Self {
        match kind {
            ConceptKind::Style => Self { style: Some(text.to_owned()), ..Self::default() },
            ConceptKind::Object => Self { object: Some(text.to_owned()), ..Self::default() },
            ConceptKind::Instance | ConceptKind::Nudity => {
                Self { object: Some(text.to_owned()), proper: true, style: None }
            }
        }
    }

    /// The canonical sentence; `anything` is the word for an unnamed object, such as "picture".
    pub fn sentence(&self, anything: &str) -> String {
        self.wording(0, anything)
    }

    /// How many ways there are to word this prompt.
    pub fn wordings(&self) -> usize {
        match (&self.object, &self.style) {
            (Some(_), Some(_)) => 6,
            (Some(_), None) | (None, Some(_)) => 4,
            (None, None) => 1,
        }
    }

    /// One of [`Prompt::wordings`], 0 being canonical.
    pub fn wording(&self, index: usize, anything: &str) -> String {
        let noun = self.object.as_deref().unwrap_or(anything);
        let thing = if self.proper { noun.to_owned() } else { with_article(noun) };
        match (&self.object, &self.style) {
            (Some(_), Some(style)) => match index {
                0 => format!("{thing} in {style} style"),
                1 => format!("a photo of {thing} in {style} style"),
                2 => format!("a picture of {thing} in {style} style"),
                3 => format!("{thing}, {style} style"),
                4 => format!("{style} style {noun}"),
                _ => with_article(&format!("{style} {noun}")),
            },
            (Some(_), None) => match index {
                0 => thing,
                1 => format!("a photo of {thing}"),
                2 => format!("a picture of {thing}"),
                _ => noun.to_owned(),
            },
            (None, Some(style)) => match index {
                0 => format!("{thing} in {style} style"),
                1 => format!("a picture in {style} style"),
                2 => format!("{style} style"),
                _ => format!("something in {style} style"),
            },
            (None, None) => String::new(),
        }
    }
}

/// "a cat", "an apple"; a text that starts with a capital or an article is left alone.
fn with_article(noun: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_those_of_the_grid() {
        let both = Prompt {
            object: Some("apple".into()),
            style: Some("neon".into()),
            ..Prompt::default()
        };
        assert_eq!(both.sentence("emoji"), "an apple in neon style");
        assert_eq!(
            Prompt::of("neon", ConceptKind::Style).sentence("emoji"),
            "an emoji in neon style"
        );
        assert_eq!(Prompt::of("nudity", ConceptKind::Nudity).sentence("picture"), "nudity");
        assert_eq!(Prompt::of("Van Gogh", ConceptKind::Object).sentence("picture"), "Van Gogh");
        assert_eq!(Prompt::default().sentence("picture"), "");
    }

    #[test]
    fn every_wording_names_the_concept() {
        for kind in ConceptKind::ALL {
            let prompt = Prompt::of("cat", kind);
            for index in 0..prompt.wordings() {
                assert!(prompt.wording(index, "emoji").contains("cat"));
            }
        }
    }

    #[test]
    fn prompts_that_say_nothing_or_too_much_are_refused() {
        for text in ["", "  \t", &"x".repeat(MAX_PROMPT_CHARS + 1), "a\u{0}b"] {
            assert!(check_prompt("prompt", text).is_err());
        }
        for blank in ["", " \n\t", "a cat\r\nin\tneon\u{85}style"] {
            assert!(check_drawn("prompt", blank).is_ok(), "{blank:?}");
        }
        assert!(check_drawn("prompt", "a cat\0").is_err());
        assert!(check_prompt("prompt", "a cat in neon style").is_ok());
    }
}
