//! Reads a TOML table key by key, so that everything that is wrong with a file is found at once, with
//! its line.

use std::{ops::Range, str::FromStr};

use strum::VariantArray;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::policy_error::PolicyViolation;

/// Characters of a wrong value that a message shows.
const MOST_SHOWN: usize = 60;

/// The text of a file, and what was found wrong in it.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) found: Vec<PolicyViolation>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    /// The line of a place in the file, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(span.start);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn add(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        self.found.push(PolicyViolation { line: line.into(), message: message.into() });
    }
}

/// A table of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a, 'i> {
    entries: &'a DeTable<'i>,
    /// The line that it begins at.
    pub(super) line: usize,
}

impl<'a, 'i> Table<'a, 'i> {
    /// A table that may have these keys and no other.
    pub(super) fn new(
        entries: &'a DeTable<'i>,
        line: usize,
        known: &[&str],
        reader: &mut Reader<'_>,
    ) -> Self {
        for (key, _) in entries {
            if !known.contains(&key.get_ref().as_ref()) {
                let line = reader.line(&key.span());
                let known = known.join(", ");
                let key = shown(key.get_ref());
                reader.add(line, format!("{key} is no key here; there are {known}"));
            }
        }
        Self { entries, line }
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.entries.get(key)
    }

    /// The line of a key's value; the table's where it is absent.
    pub(super) fn line_of(self, key: &str, reader: &Reader<'_>) -> usize {
        self.get(key).map_or(self.line, |value| reader.line(&value.span()))
    }

    /// A value that must be there.
    pub(super) fn needed<T>(
        self,
        key: &str,
        value: Option<T>,
        reader: &mut Reader<'_>,
    ) -> Option<T> {
        // What is there and wrong was named already.
        if value.is_none() && self.get(key).is_none() {
            reader.add(self.line, format!("{key} is missing"));
        }
        value
    }

    pub(super) fn text(self, key: &str, reader: &mut Reader<'_>) -> Option<&'a str> {
        let value = self.get(key)?;
        let line = reader.line(&value.span());
        match value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => {
                reader.add(line, format!("{key} is empty"));
                None
            }
            DeValue::String(text) => Some(text),
            other => {
                reader.add(line, format!("{key} is {}, and should be a string", kind(other)));
                None
            }
        }
    }

    /// A number, whole or not.
    pub(super) fn number(self, key: &str, reader: &mut Reader<'_>) -> Option<f64> {
        let value = self.get(key)?;
        let line = reader.line(&value.span());
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|whole| whole as f64),
            other => {
                reader.add(line, format!("{key} is {}, and should be a number", kind(other)));
                return None;
            }
        };
        let finite = number.filter(|number| number.is_finite());
        if finite.is_none() {
            reader.add(line, format!("{key} is no finite number"));
        }
        finite
    }

    /// A whole number within a range.
    pub(super) fn whole(
        self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        reader: &mut Reader<'_>,
    ) -> Option<u64> {
        let value = self.get(key)?;
        let line = reader.line(&value.span());
        let whole = match value.get_ref() {
            DeValue::Integer(integer) => {
                u64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            other => {
                reader.add(line, format!("{key} is {}, and should be a whole number", kind(other)));
                return None;
            }
        };
        let within = whole.filter(|whole| range.contains(whole));
        if within.is_none() {
            reader.add(line, format!("{key} is outside {} to {}", range.start(), range.end()));
        }
        within
    }

    /// One of an enum's names.
    pub(super) fn name<T>(self, key: &str, reader: &mut Reader<'_>) -> Option<T>
    where
        T: FromStr + VariantArray + Copy + Into<&'static str>,
    {
        let text = self.text(key, reader)?;
        let name = text.parse().ok();
        if name.is_none() {
            let names: Vec<&str> = T::VARIANTS.iter().map(|name| (*name).into()).collect();
            let line = self.line_of(key, reader);
            reader.add(line, format!("{key} {} is not one of {}", shown(text), names.join(", ")));
        }
        name
    }
}

/// Text from outside as a message shows it.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(MOST_SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
