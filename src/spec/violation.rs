//! Violations: everything that is wrong with a request, collected at once.

use std::fmt;

use super::{Field, FieldPath};

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which field, such as `concepts[2].text`.
    pub field: FieldPath,
    /// The value, the limit and the remedy.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Violations that a message names; it counts the rest.
const MOST_SHOWN: usize = 10;

/// A request that cannot be run as it stands; lists every violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Never empty.
    pub violations: Vec<Violation>,
}

impl SpecError {
    /// A single violation.
    pub fn one(field: impl Into<FieldPath>, message: impl Into<String>) -> Self {
        let violation = Violation { field: field.into(), message: message.into() };
        Self { violations: vec![violation] }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.violations.iter().take(MOST_SHOWN).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{violation}")?;
        }
        match self.violations.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for SpecError {}

/// Collects violations while a spec is checked.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    pub(super) fn add(&mut self, field: impl Into<FieldPath>, message: impl Into<String>) {
        self.0.push(Violation { field: field.into(), message: message.into() });
    }

    /// Keeps the violations of a part, under the part's path.
    pub(super) fn absorb(&mut self, result: Result<(), SpecError>) {
        if let Err(error) = result {
            self.0.extend(error.violations);
        }
    }

    pub(super) fn within<T>(&mut self, field: Field, value: T, range: std::ops::RangeInclusive<T>)
    where
        T: PartialOrd + fmt::Display + Copy,
    {
        if !range.contains(&value) {
            self.add(field, format!("{value} is outside {} to {}", range.start(), range.end()));
        }
    }

    pub(super) fn finish(self) -> Result<(), SpecError> {
        if self.0.is_empty() { Ok(()) } else { Err(SpecError { violations: self.0 }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_some_violations_and_counts_the_rest() {
        let broken = |count: usize| {
            let mut found = Violations::default();
            (0..count).for_each(|index| found.add(Field::Preserve.at(index), "is odd"));
            found.finish().unwrap_err().to_string()
        };
        assert_eq!(broken(1), "preserve[0]: is odd");
        assert!(broken(10).ends_with("; preserve[9]: is odd"), "{}", broken(10));
        assert!(broken(980).ends_with("; preserve[9]: is odd; and 970 more"), "{}", broken(980));
    }
}
