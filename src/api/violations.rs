//! Collects everything that is wrong with a request, under the wire's own field paths.

use std::fmt::Display;

use super::ApiError;
use crate::spec::{MAX_PROMPT_CHARS, SpecError, Violation};

/// Far more than are ever shown.
const MOST_KEPT: usize = 1_000;

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<Violation>);

impl Found {
    /// One more violation: the value, the limit and the remedy.
    pub(super) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let violation = Violation { field: field.into(), message: message.into() };
        // Many pictures of one prompt break one rule once; and what a client sends by the thousands
        // is not compared with itself.
        if self.0.len() < MOST_KEPT && !self.0.contains(&violation) {
            self.0.push(violation);
        }
    }

    /// Checks a number.
    pub(super) fn within<T>(&mut self, field: &str, value: T, range: std::ops::RangeInclusive<T>)
    where
        T: PartialOrd + Display + Copy,
    {
        if !range.contains(&value) {
            self.add(field, format!("{value} is outside {} to {}", range.start(), range.end()));
        }
    }

    /// Refuses a list that is too long and cuts it, so that the rest of the checks stay quick.
    pub(super) fn at_most<T>(&mut self, field: &str, list: &mut Vec<T>, most: usize) {
        if list.len() > most {
            self.add(field, format!("has {} entries, the limit is {most}", list.len()));
            list.truncate(most);
        }
    }

    /// Checks how long texts are together: each may be as long as the longest, but not all of them.
    pub(super) fn bytes(&mut self, field: &str, texts: &[String], most: usize) {
        let bytes: usize = texts.iter().map(String::len).sum();
        if bytes > most {
            self.add(field, format!("takes {bytes} bytes in all, the limit is {most}; shorten it"));
        }
    }

    /// Checks a prompt against the server's own limit; a spec's check has the rest.
    pub(super) fn prompt(&mut self, field: &str, text: &str, most: usize) {
        let characters = text.chars().take(MAX_PROMPT_CHARS + 1).count();
        if characters > most && characters <= MAX_PROMPT_CHARS {
            let message =
                format!("has {characters} characters, this server's limit is {most}; shorten it");
            self.add(field, message);
        }
    }

    /// Reads an enum's number.
    pub(super) fn choice<E: TryFrom<i32>>(&mut self, field: &str, number: i32) -> Option<E> {
        let read = E::try_from(number).ok();
        if read.is_none() {
            self.add(field, format!("{number} is no value that this server knows"));
        }
        read
    }

    /// Keeps what a spec found, under the wire's paths.
    pub(super) fn absorb(
        &mut self,
        checked: Result<(), SpecError>,
        wire_path: impl Fn(&str) -> String,
    ) {
        for Violation { field, message } in checked.err().into_iter().flat_map(|it| it.violations) {
            self.add(wire_path(&field), message);
        }
    }

    /// Refuses the request if anything was found.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.0)) }
    }
}

/// A spec's field as requests name it, where the request itself is not at hand any more.
pub(super) fn on_wire(field: &str) -> String {
    let known = match field {
        "method.updates" => "updates",
        "method.learning_rate" | "method.relative_rate" => "learning_rate",
        "method.key_steps" => "window",
        "method.first_key_step" => "key_steps.start_step",
        "method.schedule_steps" => "key_steps.end_step",
        _ if field.starts_with("method.") => "method",
        _ if field.starts_with("pictures") => "prompt",
        _ if field.ends_with(".replacement") => "replacements",
        _ => field.strip_suffix(".text").unwrap_or(field),
    };
    known.to_owned()
}

/// The path of a map's entry, such as `labels["team"]`.
pub(super) fn entry(map: &str, key: &str) -> String {
    let shown: String = key.chars().take(60).collect();
    format!("{map}[{shown:?}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_specs_are_named_as_on_the_wire() {
        for (field, wire) in [
            ("method.updates", "updates"),
            ("method.key_steps", "window"),
            ("method.contexts", "method"),
            ("concept.text", "concept"),
            ("concepts[3].text", "concepts[3]"),
            ("concepts[3].replacement", "replacements"),
            ("pictures[0].prompt", "prompt"),
            ("vocabulary.styles[1]", "vocabulary.styles[1]"),
            ("width", "width"),
        ] {
            assert_eq!(on_wire(field), wire);
        }
    }
}
