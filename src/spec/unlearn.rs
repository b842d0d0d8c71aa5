//! `UnlearnSpec`: which concepts to erase, and how.

use serde::{Deserialize, Serialize};

use super::{
    Concept, Field, Method, MethodName, Prompt, Scope, SpecError, Vocabulary, canonical,
    prompt_rules::check_prompt, violation::Violations,
};

/// A request to erase one or several concepts from a model.
///
/// ```
/// use keystep::spec::{Concept, ConceptKind, MethodName, UnlearnSpec};
///
/// let cat = Concept::new("cat", ConceptKind::Object);
/// let spec = UnlearnSpec {
///     preserve: vec!["a dog".to_owned()],
///     ..UnlearnSpec::new(cat, MethodName::Keystep)
/// };
/// spec.validate()?;
/// # Ok::<(), keystep::spec::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlearnSpec {
    /// What to erase, 1 to 32.
    pub concepts: Vec<Concept>,
    /// How, with every knob.
    pub method: Method,
    /// Which tensors are trained.
    pub scope: Scope,
    /// Prompts whose pictures must not change, beside those drawn from the vocabulary.
    #[serde(default)]
    pub preserve: Vec<String>,
    /// Words for contexts and neighbours.
    #[serde(default)]
    pub vocabulary: Vocabulary,
    /// Drives every draw of the run.
    pub seed: u64,
}

impl UnlearnSpec {
    /// Most concepts of one run.
    pub const MAX_CONCEPTS: usize = 32;

    /// One concept by the preset of a method for its kind, with no word known and the seed 0.
    pub fn new(concept: Concept, method: MethodName) -> Self {
        let (method, scope) = Method::preset(method, concept.kind, false);
        let (preserve, vocabulary) = (Vec::new(), Vocabulary::default());
        Self { concepts: vec![concept], method, scope, preserve, vocabulary, seed: 0 }
    }

    /// The same request in canonical words: requests that ask for the same are equal in this form,
    /// digests and results with them.
    #[must_use]
    pub fn canonical(&self) -> Self {
        Self {
            concepts: self.concepts.iter().map(Concept::canonical).collect(),
            preserve: self.preserve.iter().map(|prompt| canonical(prompt)).collect(),
            vocabulary: self.vocabulary.canonical(),
            ..self.clone()
        }
    }

    /// Checks every field.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.within(Field::Concepts, self.concepts.len(), 1..=Self::MAX_CONCEPTS);
        let texts: Vec<_> = self.concepts.iter().map(|concept| canonical(&concept.text)).collect();
        for (index, concept) in self.concepts.iter().enumerate() {
            found.absorb(concept.validate_at(&Field::Concepts.at(index)));
            if let Some(first) = texts[..index].iter().position(|text| *text == texts[index]) {
                found.add(
                    Field::ConceptsText.at(index),
                    format!(
                        "\"{}\" is named twice, first as concepts[{first}]; leave one out",
                        concept.text
                    ),
                );
            }
        }
        found.within(Field::Preserve, self.preserve.len(), 0..=1_024);
        // What is to go cannot be what is to stay.
        let anything = canonical(&self.vocabulary.anything);
        let sentences: Vec<_> = (self.concepts.iter().zip(&texts))
            .map(|(concept, text)| Prompt::of(text, concept.kind).sentence(&anything))
            .collect();
        for (index, prompt) in self.preserve.iter().enumerate() {
            let field = Field::Preserve.at(index);
            found.absorb(check_prompt(field.clone(), prompt));
            let words = canonical(prompt);
            let mut asked = texts.iter().zip(&sentences);
            if let Some(place) = asked.position(|(text, said)| [text, said].contains(&&words)) {
                let message =
                    format!("\"{prompt}\" is to be erased as concepts[{place}]; leave one out");
                found.add(field, message);
            }
        }
        // What a method would pass over in silence is refused.
        let name = self.method.name();
        if name != MethodName::Keystep && !self.preserve.is_empty() {
            found.add(
                Field::Preserve,
                format!("{} has no preserve term; use keystep or leave it out", name.name()),
            );
        }
        if name == MethodName::Kscu && self.concepts.iter().any(|c| c.replacement.is_some()) {
            found.add(
                Field::ConceptsReplacement,
                "kscu as published replaces nothing; use keystep or esd, or leave it out",
            );
        }
        found.absorb(self.vocabulary.validate());
        found.absorb(self.scope.validate());
        found.absorb(self.method.validate());
        found.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ConceptKind;

    fn spec(name: MethodName) -> UnlearnSpec {
        UnlearnSpec::new(Concept::new("cat", ConceptKind::Object), name)
    }

    #[test]
    fn presets_are_valid() {
        for name in [MethodName::Keystep, MethodName::Kscu, MethodName::Esd] {
            assert_eq!(spec(name).validate(), Ok(()));
        }
    }

    #[test]
    fn what_a_method_would_ignore_is_refused_all_at_once() {
        let mut asked = spec(MethodName::Kscu);
        asked.preserve = vec!["a dog".to_owned()];
        asked.concepts[0].replacement = Some("dog".to_owned());
        assert_eq!(asked.validate().unwrap_err().violations.len(), 2);
        asked.method = spec(MethodName::Keystep).method;
        assert_eq!(asked.validate(), Ok(()));
    }

    #[test]
    fn writings_of_one_concept_are_one_concept() {
        let asked = |texts: &[&str]| UnlearnSpec {
            concepts: texts.iter().map(|text| Concept::new(*text, ConceptKind::Object)).collect(),
            ..spec(MethodName::Keystep)
        };
        for text in ["Cat", " cat ", "CAT"] {
            assert_eq!(asked(&[text]).canonical(), asked(&["cat"]));
            let error = asked(&["dog", "cat", text]).validate().unwrap_err();
            assert_eq!(error.violations[0].field, Field::ConceptsText.at(2));
            assert!(error.violations[0].message.contains("concepts[1]"), "{error}");
        }
        assert_eq!(asked(&["cat", "dog"]).validate(), Ok(()));
    }

    #[test]
    fn a_concept_is_neither_its_own_replacement_nor_preserved() {
        let mut asked = spec(MethodName::Keystep);
        asked.concepts[0].replacement = Some(" CAT".to_owned());
        asked.preserve = vec!["A  Cat".to_owned(), "a cat on a mat".to_owned(), "Cat".to_owned()];
        let found = asked.validate().unwrap_err().violations;
        let fields: Vec<_> = found.iter().map(|violation| violation.field.to_string()).collect();
        assert_eq!(fields, ["concepts[0].replacement", "preserve[0]", "preserve[2]"]);
    }
}
