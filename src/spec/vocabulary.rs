//! `Vocabulary`: the words that a model is known to draw, which make the grid that erasure is
//! judged on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ConceptKind, Field, SpecError, canonical, prompt_rules::check_prompt, violation::Violations,
};

/// Objects and styles, after UnlearnCanvas's grid: prompts that keep their context, neighbours to
/// preserve, and the classes of the judges. Read from `vocabulary.json` beside a model, or given
/// by the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// The word for any object at all, such as "emoji" or "picture".
    #[serde(default = "default_anything")]
    pub anything: String,
    /// Object classes.
    pub objects: Vec<String>,
    /// Styles.
    pub styles: Vec<String>,
}

fn default_anything() -> String {
    "picture".to_owned()
}

impl Default for Vocabulary {
    /// Common words, for models that bring no vocabulary of their own.
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            anything: default_anything(),
            objects: words(&[
                "dog", "cat", "horse", "bird", "person", "car", "bicycle", "boat", "airplane",
                "house", "church", "tree", "flower", "mountain", "chair", "table", "apple",
                "bottle", "clock", "book",
            ]),
            styles: words(&[
                "watercolor", "oil painting", "pencil sketch", "comic", "photographic",
                "pixel art", "woodcut", "pop art", "impressionist", "3d render",
            ]),
        }
    }
}

impl Vocabulary {
    /// The words of the concept's own domain: styles for a style, objects for all else.
    pub fn domain(&self, kind: ConceptKind) -> &[String] {
        match kind {
            ConceptKind::Style => &self.styles,
            ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => &self.objects,
        }
    }

    /// The words of the other domain: a concept's contexts.
    pub fn other_domain(&self, kind: ConceptKind) -> &[String] {
        match kind {
            ConceptKind::Style => &self.objects,
            ConceptKind::Object | ConceptKind::Instance | ConceptKind::Nudity => &self.styles,
        }
    }

    /// The same words in [`canonical`] form.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let words = |words: &[String]| words.iter().map(|word| canonical(word)).collect();
        Self {
            anything: canonical(&self.anything),
            objects: words(&self.objects),
            styles: words(&self.styles),
        }
    }

    /// Checks every word; both lists may be empty.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.absorb(check_prompt(Field::VocabularyAnything, &self.anything));
        for (list, field, words) in [
            ("objects", Field::VocabularyObjects, &self.objects),
            ("styles", Field::VocabularyStyles, &self.styles),
        ] {
            let mut seen = BTreeMap::new();
            for (index, word) in words.iter().enumerate() {
                found.absorb(check_prompt(field.at(index), word));
                if let Some(first) = seen.get(&canonical(word)) {
                    let message = format!(
                        "\"{word}\" is named twice, first as {list}[{first}]; leave one out"
                    );
                    found.add(field.at(index), message);
                } else {
                    seen.insert(canonical(word), index);
                }
            }
        }
        found.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_in_two_writings_is_named_twice() {
        let given = |objects: &[&str]| Vocabulary {
            objects: objects.iter().map(|word| (*word).to_owned()).collect(),
            ..Vocabulary::default()
        };
        assert_eq!(Vocabulary::default().validate(), Ok(()));
        let error = given(&["cat", "dog", " Cat"]).validate().unwrap_err();
        assert_eq!(error.violations[0].field.to_string(), "vocabulary.objects[2]");
        let message = &error.violations[0].message;
        assert!(message.contains("\" Cat\"") && message.contains("objects[0]"), "{message}");
        // A word of white space alone is empty, and each is reported.
        let error = given(&[" ", "\u{a0}"]).validate().unwrap_err();
        let fields: Vec<_> = error.violations.into_iter().map(|it| it.field).collect();
        let wanted = [Field::VocabularyObjects.at(0), Field::VocabularyObjects.at(1)];
        assert!(fields.starts_with(&wanted), "{fields:?}");
    }

    #[test]
    fn canonical_words_are_those_of_the_tokenizer() {
        let given = Vocabulary {
            anything: "Picture".to_owned(),
            objects: vec![" Cat".to_owned()],
            styles: vec!["Oil  Painting".to_owned()],
        };
        let words = given.canonical();
        assert_eq!((words.anything.as_str(), words.objects[0].as_str()), ("picture", "cat"));
        assert_eq!(words.styles, ["oil painting"]);
        assert_eq!(Vocabulary::default().canonical(), Vocabulary::default());
    }
}
