//! `labels.json`: which class of a classifier stands for which word.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};

use super::naming::Domain;
use crate::{
    engine::{EngineError, checkpoint::read_text, python_json},
    spec::{Field, ModelFiles, SpecError, Vocabulary, canonical},
};

/// Words and classes that a message names at most.
const NAMED: usize = 10;

/// The class of each word, by domain, in canonical words.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Labels {
    classes: BTreeMap<Domain, BTreeMap<String, u32>>,
}

/// An object of a domain: its entries as they stand in the file, an index that stands there twice
/// too.
#[derive(Default)]
struct Entries(Vec<(String, Words)>);

/// The word of a class, or several for the same thing.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    objects: Entries,
    #[serde(default)]
    styles: Entries,
}

impl Labels {
    /// Reads `folder`'s file for a network of so many classes.
    pub(super) fn read(
        files: &dyn ModelFiles,
        folder: &str,
        classes: usize,
    ) -> Result<Self, EngineError> {
        let name = format!("{folder}/labels.json");
        Self::parse(&read_text(files, &name)?, classes).map_err(|message| EngineError::Config {
            file: format!("{}/{name}", files.location()),
            message,
        })
    }

    fn parse(json: &str, classes: usize) -> Result<Self, String> {
        const FORM: &str = "it is to be {\"objects\": {\"0\": \"cat\", …}, \"styles\": {…}}, a word \
                            or a list of words for the index of each class that is judged";
        let file: File = python_json::read(json).map_err(|error| format!("{error}; {FORM}"))?;
        let mut labels = Self::default();
        for (domain, entries) in [(Domain::Objects, file.objects), (Domain::Styles, file.styles)] {
            if !entries.0.is_empty() {
                labels.classes.insert(domain, by_word(entries, classes)?);
            }
        }
        if labels.classes.is_empty() {
            return Err(format!("names no word; {FORM}"));
        }
        Ok(labels)
    }

    /// Whether any class is a word of the domain.
    pub(super) fn knows(&self, domain: Domain) -> bool {
        self.classes.contains_key(&domain)
    }

    /// The class of each of the domain's words, in their order; an error that lists those that the
    /// judge of this name has no class for.
    pub(super) fn classes(
        &self,
        domain: Domain,
        vocabulary: &Vocabulary,
        judge: &str,
    ) -> Result<Vec<u32>, EngineError> {
        let known = self.classes.get(&domain);
        let class = |word: &String| known.and_then(|known| known.get(&canonical(word))).copied();
        let words = domain.words(vocabulary);
        let lacking: Vec<&String> = words.iter().filter(|word| class(word).is_none()).collect();
        if lacking.is_empty() {
            return Ok(words.iter().filter_map(class).collect());
        }
        let shown: Vec<String> =
            lacking.iter().take(NAMED).map(|word| format!("\"{word}\"")).collect();
        let rest = match lacking.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let field = match domain {
            Domain::Objects => Field::VocabularyObjects,
            Domain::Styles => Field::VocabularyStyles,
        };
        let message = format!(
            "the judge \"{judge}\" has no class for {}{rest}; name the words in its labels.json, \
             judge on a vocabulary without them, or leave the judge out",
            shown.join(", ")
        );
        Err(SpecError::one(field, message).into())
    }
}

fn by_word(entries: Entries, classes: usize) -> Result<BTreeMap<String, u32>, String> {
    let mut indices = BTreeSet::new();
    let mut by_word = BTreeMap::new();
    for (index, words) in entries.0 {
        let class = index.parse::<u32>().ok().filter(|class| (*class as usize) < classes);
        let class = class.ok_or_else(|| {
            let index: String = index.chars().take(40).collect();
            format!("\"{index}\" is not the index of a class; the network has {classes}, from 0")
        })?;
        if !indices.insert(class) {
            return Err(format!("names the class {class} twice; give it one list of words"));
        }
        let words = match words {
            Words::One(word) => vec![word],
            Words::Several(words) => words,
        };
        if words.is_empty() {
            return Err(format!("gives class {class} no word; name one, or leave the class out"));
        }
        for word in words {
            let word = canonical(&word);
            if word.is_empty() {
                return Err(format!("gives class {class} an empty word; leave it out"));
            }
            match by_word.entry(word) {
                Entry::Vacant(entry) => {
                    entry.insert(class);
                }
                Entry::Occupied(entry) => {
                    return Err(format!(
                        "names \"{}\" twice, for the classes {} and {class}; a word is of one class",
                        entry.key(),
                        entry.get()
                    ));
                }
            }
        }
    }
    Ok(by_word)
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of words by the indices of their classes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(entry) = map.next_entry()? {
                    entries.0.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        Labels::parse(json, 3).unwrap_err()
    }

    #[test]
    fn a_class_has_words_and_a_word_one_class() {
        let json = r#"{"objects": {"2": "Cat", "0": ["dog", "hound"]}, "styles": {"1": "Neon"}}"#;
        let labels = Labels::parse(json, 3).unwrap();
        assert!(labels.knows(Domain::Objects) && labels.knows(Domain::Styles));
        let words = |objects: &[&str]| Vocabulary {
            objects: objects.iter().map(|word| (*word).to_owned()).collect(),
            styles: vec!["neon ".to_owned()],
            ..Vocabulary::default()
        };
        let classes = |objects: &[&str]| labels.classes(Domain::Objects, &words(objects), "vit");
        assert_eq!(classes(&["hound", " CAT"]).unwrap(), [0, 2]);
        assert_eq!(labels.classes(Domain::Styles, &words(&[]), "vit").unwrap(), [1]);
        let error = classes(&["cat", "bird", "fish"]).unwrap_err().to_string();
        assert!(error.contains("\"bird\", \"fish\"") && !error.contains("\"cat\""), "{error}");
        assert!(error.contains("vit"), "{error}");
    }

    #[test]
    fn what_is_no_label_is_named() {
        let cases = [
            (r#"{"objects": {"3": "cat"}}"#, "\"3\" is not the index"),
            (r#"{"objects": {"-1": "cat"}}"#, "\"-1\" is not the index"),
            (r#"{"objects": {"cat": "0"}}"#, "\"cat\" is not the index"),
            (r#"{"objects": {"0": "cat", "0": "dog"}}"#, "class 0 twice"),
            (r#"{"objects": {"0": "cat", "1": " CAT "}}"#, "\"cat\" twice"),
            (r#"{"objects": {"0": " "}}"#, "empty word"),
            (r#"{"objects": {"0": []}}"#, "no word"),
            (r#"{"objects": {}}"#, "names no word"),
            (r#"{"object": {"0": "cat"}}"#, "object"),
            (r#"["cat"]"#, "it is to be"),
            (r#"{"objects": {"0": 7}}"#, "it is to be"),
        ];
        for (json, said) in cases {
            let message = refusal(json);
            assert!(message.contains(said), "{json}: {message}");
        }
    }
}
