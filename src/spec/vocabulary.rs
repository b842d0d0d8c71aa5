//! The words a model is known to draw: the grid on which erasure is judged.

use serde::{Deserialize, Serialize};

use super::{ConceptKind, SpecError, prompts::check_prompt, violation::Violations};

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
                "watercolor",
                "oil painting",
                "pencil sketch",
                "comic",
                "photographic",
                "pixel art",
                "woodcut",
                "pop art",
                "impressionist",
                "3d render",
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

    /// Checks every word; both lists may be empty.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.absorb(check_prompt("vocabulary.anything", &self.anything));
        for (list, words) in [("objects", &self.objects), ("styles", &self.styles)] {
            for (index, word) in words.iter().enumerate() {
                found.absorb(check_prompt(&format!("vocabulary.{list}[{index}]"), word));
                if words[..index].contains(word) {
                    found.add(
                        format!("vocabulary.{list}[{index}]"),
                        format!("\"{word}\" is named twice"),
                    );
                }
            }
        }
        found.finish()
    }
}
