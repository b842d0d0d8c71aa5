//! What the text of a prompt or a concept may be.

use super::{FieldPath, SpecError};

/// Longest prompt that is looked at, in characters; the model's own limit in tokens is lower.
pub const MAX_PROMPT_CHARS: usize = 1_000;

/// Checks a text that pictures are drawn from: not over-long, no control characters but line breaks
/// and tabs, which are white space to CLIP's tokenizer. It may be empty.
pub(super) fn check_drawn(field: impl Into<FieldPath>, text: &str) -> Result<(), SpecError> {
    if text.trim().is_empty() && text.len() <= MAX_PROMPT_CHARS {
        return Ok(());
    }
    let is_blank = |c: char| c.is_control() && c.is_whitespace();
    check_prompt(field, &text.replace(is_blank, " "))
}

/// Checks a text that must say something: not empty, not over-long, no control characters.
pub(super) fn check_prompt(field: impl Into<FieldPath>, text: &str) -> Result<(), SpecError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Field;

    #[test]
    fn prompts_that_say_nothing_or_too_much_are_refused() {
        for text in ["", "  \t", &"x".repeat(MAX_PROMPT_CHARS + 1), "a\u{0}b"] {
            assert!(check_prompt(Field::Prompt, text).is_err());
        }
        for blank in ["", " \n\t", "a cat\r\nin\tneon\u{85}style"] {
            assert!(check_drawn(Field::Prompt, blank).is_ok(), "{blank:?}");
        }
        assert!(check_drawn(Field::Prompt, "a cat\0").is_err());
        assert!(check_prompt(Field::Prompt, "a cat in neon style").is_ok());
    }
}
