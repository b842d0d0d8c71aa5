//! Reads and checks fields of a `config.json`; each message names the field, the value and what is
//! accepted.

use std::fmt::Display;

use serde_json::{Map, Value};

use crate::engine::{EngineError, python_json};

/// Widest layer that we build; the largest of Stable Diffusion's has 1,280 channels.
pub(in crate::engine) const MAX_CHANNELS: usize = 65_536;
/// Deepest stack of equal layers that we build.
pub(in crate::engine) const MAX_LAYERS: usize = 64;
/// Most parameters of one network; beyond, a config is damaged or not meant for one machine.
const MAX_PARAMETERS: f64 = 20e9;

/// An error about one field.
pub(in crate::engine) fn refuse(file: &str, message: impl Into<String>) -> EngineError {
    EngineError::Config { file: file.to_owned(), message: message.into() }
}

/// Refuses a value outside of a range.
pub(in crate::engine) fn within<T: PartialOrd + Display + Copy>(
    file: &str,
    field: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), EngineError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(refuse(file, format!("{field} is {value}, outside {} to {}", range.start(), range.end())))
}

/// Refuses channels that do not split evenly into groups or heads.
pub(in crate::engine) fn divisible(
    file: &str,
    field: &str,
    value: usize,
    by_field: &str,
    by: usize,
) -> Result<(), EngineError> {
    if by != 0 && value.is_multiple_of(by) {
        return Ok(());
    }
    Err(refuse(file, format!("{field} is {value}, not a multiple of {by_field}, which is {by}")))
}

/// Refuses a network whose weights would not fit any machine that we run on.
pub(in crate::engine) fn affordable(file: &str, parameters: f64) -> Result<(), EngineError> {
    if parameters <= MAX_PARAMETERS {
        return Ok(());
    }
    Err(refuse(
        file,
        format!(
            "the sizes together ask for about {:.0} billion parameters, the limit is {:.0} billion",
            parameters / 1e9,
            MAX_PARAMETERS / 1e9
        ),
    ))
}

/// The object of a config file, or one nested in it.
pub(in crate::engine) struct Fields<'a> {
    file: &'a str,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(in crate::engine) fn parse(json: &str, file: &'a str) -> Result<Self, EngineError> {
        match python_json::read(json) {
            Ok(Value::Object(map)) => Ok(Self { file, map }),
            Ok(_) => Err(refuse(file, "is not a JSON object")),
            Err(error) => Err(refuse(file, format!("is not JSON: {error}"))),
        }
    }

    /// The object nested under a name, none if it is absent or null.
    pub(in crate::engine) fn nested(&self, name: &str) -> Result<Option<Self>, EngineError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { file: self.file, map: map.clone() })),
            Some(other) => Err(self.wrong(name, other, "an object")),
        }
    }

    /// No fields: every one has its default.
    pub(in crate::engine) fn empty(file: &'a str) -> Self {
        Self { file, map: Map::new() }
    }

    /// A whole number.
    pub(in crate::engine) fn size(&self, name: &str, default: usize) -> Result<usize, EngineError> {
        match self.map.get(name) {
            None => Ok(default),
            Some(value) => as_size(value).ok_or_else(|| self.wrong(name, value, "a whole number")),
        }
    }

    /// A whole number, or none where the field is absent or null.
    pub(in crate::engine) fn optional_size(
        &self,
        name: &str,
    ) -> Result<Option<usize>, EngineError> {
        if self.get(name).is_none() { Ok(None) } else { self.size(name, 0).map(Some) }
    }

    /// A list of whole numbers.
    pub(in crate::engine) fn sizes(
        &self,
        name: &str,
        default: &[usize],
    ) -> Result<Vec<usize>, EngineError> {
        match self.map.get(name) {
            None => Ok(default.to_vec()),
            Some(value) => value
                .as_array()
                .and_then(|list| list.iter().map(as_size).collect())
                .ok_or_else(|| self.wrong(name, value, "a list of whole numbers")),
        }
    }

    /// A whole number for all levels, or a list with one for each level.
    pub(in crate::engine) fn sizes_by_level(
        &self,
        name: &str,
        default: usize,
        levels: usize,
    ) -> Result<Vec<usize>, EngineError> {
        if !matches!(self.map.get(name), Some(Value::Array(_))) {
            return Ok(vec![self.size(name, default)?; levels]);
        }
        let list = self.sizes(name, &[])?;
        if list.len() != levels {
            return Err(refuse(
                self.file,
                format!(
                    "{name} lists {} values, block_out_channels lists {levels}; they must be as many",
                    list.len()
                ),
            ));
        }
        Ok(list)
    }

    /// A whole number, or a list of equal ones (such as a height and a width).
    pub(in crate::engine) fn uniform_size(
        &self,
        name: &str,
        default: usize,
    ) -> Result<usize, EngineError> {
        if !matches!(self.map.get(name), Some(Value::Array(_))) {
            return self.size(name, default);
        }
        let list = self.sizes(name, &[])?;
        match list.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => Ok(*first),
            _ => Err(refuse(
                self.file,
                format!(
                    "{name} is {list:?}; only one value, or a list of equal ones, is supported"
                ),
            )),
        }
    }

    /// A whole number for height and width, or a list of both; none where the field is absent or
    /// null.
    pub(in crate::engine) fn optional_sides(
        &self,
        name: &str,
    ) -> Result<Option<Sides>, EngineError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let sides = match value {
            Value::Array(list) => match list.as_slice() {
                [height, width] => as_size(height).zip(as_size(width)).map(Sides::both),
                _ => None,
            },
            side => as_size(side).map(Sides::Square),
        };
        let sides = sides.ok_or_else(|| {
            self.wrong(name, value, "a whole number, or a list of height and width")
        });
        sides.map(Some)
    }

    /// A finite number.
    pub(in crate::engine) fn number(&self, name: &str, default: f64) -> Result<f64, EngineError> {
        match self.map.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite())
                .ok_or_else(|| self.wrong(name, value, "a number")),
        }
    }

    /// `true` or `false`.
    pub(in crate::engine) fn flag(&self, name: &str, default: bool) -> Result<bool, EngineError> {
        match self.map.get(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false")),
        }
    }

    /// A text, or none where the field is absent or null.
    pub(in crate::engine) fn text(&self, name: &str) -> Result<Option<&str>, EngineError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text)),
                None => Err(self.wrong(name, value, "a text")),
            },
        }
    }

    /// A list of texts, or none where the field is absent or null.
    pub(in crate::engine) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, EngineError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let texts = value.as_array().and_then(|list| {
            list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.map(Some).ok_or_else(|| self.wrong(name, value, "a list of texts"))
    }

    /// One of the names that we build.
    pub(in crate::engine) fn choice<T: Copy>(
        &self,
        name: &str,
        default: T,
        known: &[(&str, T)],
    ) -> Result<T, EngineError> {
        match self.map.get(name) {
            None => Ok(default),
            Some(value) => self.choose(name, value, known),
        }
    }

    /// A list of the names that we build.
    pub(in crate::engine) fn choices<T: Copy>(
        &self,
        name: &str,
        default: &[T],
        known: &[(&str, T)],
    ) -> Result<Vec<T>, EngineError> {
        match self.map.get(name) {
            None => Ok(default.to_vec()),
            Some(Value::Array(list)) => {
                list.iter().map(|value| self.choose(name, value, known)).collect()
            }
            Some(other) => Err(self.wrong(name, other, "a list of texts")),
        }
    }

    /// Refuses a file that was written for another class.
    pub(in crate::engine) fn expect_class(
        &self,
        name: &str,
        class: &str,
    ) -> Result<(), EngineError> {
        match self.text(name)? {
            Some(found) if found != class => Err(refuse(
                self.file,
                format!("{name} is \"{found}\", only \"{class}\" is supported"),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses fields that change what the network computes and that we do not build, unless they
    /// are absent or null or hold the one value that we do build.
    pub(in crate::engine) fn expect_only(
        &self,
        supported: &[(&str, Value)],
    ) -> Result<(), EngineError> {
        for (name, expected) in supported {
            let Some(value) = self.get(name) else { continue };
            // 1 and 1.0 are the same to Python, which wrote the file.
            let same = match (value.as_f64(), expected.as_f64()) {
                (Some(left), Some(right)) => (left - right).abs() < f64::EPSILON,
                _ => value == expected,
            };
            // A list of one value a level.
            let same = same
                || value.as_array().is_some_and(|list| {
                    !list.is_empty() && list.iter().all(|item| item == expected)
                });
            if !same {
                return Err(self.wrong(
                    name,
                    value,
                    &format!("{expected}, which alone is supported"),
                ));
            }
        }
        Ok(())
    }

    fn choose<T: Copy>(
        &self,
        name: &str,
        value: &Value,
        known: &[(&str, T)],
    ) -> Result<T, EngineError> {
        known
            .iter()
            .find(|(text, _)| value.as_str() == Some(text))
            .map(|(_, kind)| *kind)
            .ok_or_else(|| {
                let names: Vec<_> = known.iter().map(|(text, _)| format!("\"{text}\"")).collect();
                self.wrong(name, value, &format!("one of {}", names.join(", ")))
            })
    }

    /// The value, unless it is absent or null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, expected: &str) -> EngineError {
        // A hostile file may hold a value of megabytes.
        let mut shown: String = value.to_string().chars().take(80).collect();
        if shown.chars().count() == 80 {
            shown.push('…');
        }
        refuse(self.file, format!("{name} is {shown}; it must be {expected}"))
    }
}

/// The sides of a plane as a file gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Sides {
    /// One number for height and width.
    Square(usize),
    /// Height and width.
    Both([usize; 2]),
}

impl Sides {
    fn both((height, width): (usize, usize)) -> Self {
        Self::Both([height, width])
    }
}

fn as_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}
