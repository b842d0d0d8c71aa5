//! Collects everything that is wrong with a request, under the wire's own field paths.

use std::fmt::Display;

use super::{ApiError, ApiResult};
use crate::spec::{Field, FieldPath, MAX_PROMPT_CHARS, SpecError, Violation};

/// Far more than are ever shown.
const MOST_KEPT: usize = 1_000;

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    /// One more violation: the value, the limit and the remedy.
    pub(super) fn add(&mut self, field: impl Into<FieldPath>, message: impl Into<String>) {
        let violation = Violation { field: field.into(), message: message.into() };
        // Many pictures of one prompt break one rule once; and what a client sends by the thousands
        // is not compared with itself.
        if self.0.len() < MOST_KEPT && !self.0.contains(&violation) {
            self.0.push(violation);
        }
    }

    /// Checks a number.
    pub(super) fn within<T>(&mut self, field: Field, value: T, range: std::ops::RangeInclusive<T>)
    where
        T: PartialOrd + Display + Copy,
    {
        if !range.contains(&value) {
            self.add(field, format!("{value} is outside {} to {}", range.start(), range.end()));
        }
    }

    /// Refuses a list that is too long and cuts it, so that the rest of the checks stay quick.
    pub(super) fn at_most<T>(&mut self, field: Field, list: &mut Vec<T>, most: usize) {
        if list.len() > most {
            self.add(field, format!("has {} entries, the limit is {most}", list.len()));
            list.truncate(most);
        }
    }

    /// Checks how long texts are together: each may be as long as the longest, but not all of them.
    pub(super) fn bytes(&mut self, field: Field, texts: &[String], most: usize) {
        let bytes: usize = texts.iter().map(String::len).sum();
        if bytes > most {
            self.add(field, format!("takes {bytes} bytes in all, the limit is {most}; shorten it"));
        }
    }

    /// Checks a prompt against the server's own limit; a spec's check has the rest.
    pub(super) fn prompt(&mut self, field: impl Into<FieldPath>, text: &str, most: usize) {
        let characters = text.chars().take(MAX_PROMPT_CHARS + 1).count();
        if characters > most && characters <= MAX_PROMPT_CHARS {
            let message =
                format!("has {characters} characters, this server's limit is {most}; shorten it");
            self.add(field, message);
        }
    }

    /// Reads an enum's number.
    pub(super) fn choice<E: TryFrom<i32>>(
        &mut self,
        field: impl Into<FieldPath>,
        number: i32,
    ) -> Option<E> {
        let read = E::try_from(number).ok();
        if read.is_none() {
            self.add(field, format!("{number} is no value that this server knows"));
        }
        read
    }

    /// Keeps what a spec found, under the names of requests.
    pub(super) fn absorb(&mut self, checked: Result<(), SpecError>) {
        self.absorb_as(checked, FieldPath::on_wire);
    }

    /// The same for a request that names some fields in its own way.
    pub(super) fn absorb_as(
        &mut self,
        checked: Result<(), SpecError>,
        on_wire: impl Fn(FieldPath) -> FieldPath,
    ) {
        for Violation { field, message } in checked.err().into_iter().flat_map(|it| it.violations) {
            self.add(on_wire(field), message);
        }
    }

    /// Refuses the request if anything was found.
    pub(super) fn finish(self) -> ApiResult<()> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.0)) }
    }
}
