//! Everything that is wrong with a policy's file, found at once.

use std::fmt;

/// A rule of the format that a policy breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyViolation {
    /// The line, from 1, where one can be named.
    pub line: Option<usize>,
    /// The value, the limit and the remedy.
    pub message: String,
}

impl fmt::Display for PolicyViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Violations that a message names; it counts the rest.
const MOST_SHOWN: usize = 20;

/// A policy that cannot be used; lists every violation, by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// Never empty.
    pub violations: Vec<PolicyViolation>,
}

impl PolicyError {
    pub(super) fn one(message: impl Into<String>) -> Self {
        Self { violations: vec![PolicyViolation { line: None, message: message.into() }] }
    }
}

impl fmt::Display for PolicyError {
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

impl std::error::Error for PolicyError {}
