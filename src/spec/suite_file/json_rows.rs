//! The rows of a JSON list: texts, or objects whose members are the columns.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{
    error::{Place, SuiteFileError},
    table::{Row, Table},
};
use crate::spec::Suite;

/// Reads every entry; all are texts, or all are objects.
pub(super) fn read(text: &str) -> Result<Table, SuiteFileError> {
    if text.trim().is_empty() {
        return Err(SuiteFileError::Empty);
    }
    let Entries(entries) = serde_json::from_str(text).map_err(SuiteFileError::Json)?;
    let is_of_texts = entries.first().is_none_or(|entry| matches!(entry, Entry::Text(_)));
    let mut header: Vec<String> = Vec::new();
    let mut rows = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let place = Place::Entry(index + 1);
        let cells = match entry {
            Entry::Text(text) if is_of_texts => vec![text],
            Entry::Members(members) if !is_of_texts => read_members(members, &mut header, place)?,
            _ => {
                let problem =
                    "is of another kind than the first; give texts alone, or objects alone"
                        .to_owned();
                return Err(SuiteFileError::Row { place, problem });
            }
        };
        rows.push(Row { place, cells });
    }
    Ok(Table { header: (!is_of_texts).then_some(header), rows })
}

/// The cells of an object, under the columns so far and those that it adds.
fn read_members(
    members: Vec<(String, Value)>,
    header: &mut Vec<String>,
    place: Place,
) -> Result<Vec<String>, SuiteFileError> {
    /// An object may have any number of members, and each entry others.
    const MOST_COLUMNS: usize = 256;
    let mut cells: Vec<Option<String>> = vec![None; header.len()];
    for (name, value) in members {
        let column = header.iter().position(|known| *known == name).unwrap_or_else(|| {
            header.push(name.clone());
            cells.push(None);
            header.len() - 1
        });
        if header.len() > MOST_COLUMNS {
            let problem =
                format!("brings the list to more than {MOST_COLUMNS} columns; leave some out");
            return Err(SuiteFileError::Row { place, problem });
        }
        let text = match value {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let Some(cell @ None) = cells.get_mut(column) else {
            let shown: String = name.chars().take(Suite::MAX_NAME_CHARS).collect();
            let problem = format!("has {shown:?} twice; leave one out");
            return Err(SuiteFileError::Row { place, problem });
        };
        *cell = Some(text);
    }
    Ok(cells.into_iter().map(Option::unwrap_or_default).collect())
}

/// No more of them than one above the limit is kept.
struct Entries(Vec<Entry>);

/// An entry of the list. Members keep their order, and stand there as often as the file has them.
enum Entry {
    Text(String),
    Members(Vec<(String, Value)>),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of prompts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    if entries.len() <= Suite::MAX_PROMPTS {
                        entries.push(entry);
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an object with a prompt")
            }

            fn visit_str<E>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Entry::Members(members))
            }
        }
        deserializer.deserialize_any(One)
    }
}
