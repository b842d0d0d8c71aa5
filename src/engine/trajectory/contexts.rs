//! The prompts of a Keystep run: the concept in many contexts, the same contexts without it, and
//! its neighbours, which must stay.

use std::collections::BTreeSet;

use crate::{
    engine::schedule::NoiseSource,
    spec::{Concept, ConceptKind, Prompt, Vocabulary, names_word},
};

/// A sentence that names a concept, and the same one without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct ConceptPrompt {
    /// Names the concept.
    pub(in crate::engine) concept: String,
    /// The context alone, or with the replacement in the concept's place; empty for a bare
    /// concept that is replaced by nothing.
    pub(in crate::engine) anchor: String,
}

/// Draws prompts; every word comes up before one comes again.
#[derive(Debug)]
pub(in crate::engine) struct Contexts<'a> {
    vocabulary: &'a Vocabulary,
    /// No concept of the run may be preserved, or serve as another's context.
    objects: WordCycle,
    styles: WordCycle,
    preserve: WordCycle,
    lone_objects: WordCycle,
    lone_styles: WordCycle,
    /// Words that neighbours named so far.
    held: BTreeSet<String>,
}

impl<'a> Contexts<'a> {
    /// From these words and prompts; `left_out` tells a word that is one of the run's concepts, or
    /// that was held out.
    pub(in crate::engine) fn new(
        vocabulary: &'a Vocabulary,
        left_out: impl Fn(&str) -> bool,
        preserve: &[String],
    ) -> Self {
        let others = |words: &[String]| {
            WordCycle::new(words.iter().filter(|word| !left_out(word)).cloned().collect())
        };
        let (objects, styles) = (others(&vocabulary.objects), others(&vocabulary.styles));
        Self {
            vocabulary,
            lone_objects: objects.clone(),
            lone_styles: styles.clone(),
            objects,
            styles,
            preserve: WordCycle::new(preserve.to_vec()),
            held: BTreeSet::new(),
        }
    }

    /// `count` prompts of a concept, of which the first `bare` stand without a context.
    pub(in crate::engine) fn concept(
        &mut self,
        concept: &Concept,
        count: usize,
        bare: usize,
        noise: &mut NoiseSource,
    ) -> Vec<ConceptPrompt> {
        (0..count).map(|index| self.concept_prompt(concept, index < bare, noise)).collect()
    }

    fn concept_prompt(
        &mut self,
        concept: &Concept,
        bare: bool,
        noise: &mut NoiseSource,
    ) -> ConceptPrompt {
        let mut named = Prompt::of(&concept.text, concept.kind);
        let mut anchor = concept
            .replacement
            .as_ref()
            .map_or_else(Prompt::default, |replacement| Prompt::of(replacement, concept.kind));
        if !bare {
            if concept.kind == ConceptKind::Style {
                let object = self.objects.draw(noise);
                named.object.clone_from(&object);
                anchor.object = object;
            } else {
                let style = self.styles.draw(noise);
                named.style.clone_from(&style);
                anchor.style = style;
            }
        }
        let wording = wording(&named, noise);
        let anything = &self.vocabulary.anything;
        ConceptPrompt {
            concept: named.wording(wording, anything),
            // The anchor keeps to its canonical sentence, so that the context alone decides it.
            anchor: anchor.sentence(anything),
        }
    }

    /// `count` prompts that must stay: the user's own first, then objects and styles together,
    /// and of every eight one object and one style alone.
    pub(in crate::engine) fn neighbours(
        &mut self,
        count: usize,
        noise: &mut NoiseSource,
    ) -> Vec<String> {
        (0..count).map(|index| self.neighbour(index, noise)).collect()
    }

    fn neighbour(&mut self, index: usize, noise: &mut NoiseSource) -> String {
        if index.is_multiple_of(2)
            && let Some(given) = self.preserve.draw(noise)
        {
            let words = self.vocabulary.objects.iter().chain(&self.vocabulary.styles);
            self.held.extend(words.filter(|word| names_word(&given, word)).cloned());
            return given;
        }
        let prompt = match index % 8 {
            3 => Prompt { object: self.lone_objects.draw(noise), ..Prompt::default() },
            7 => Prompt { style: self.lone_styles.draw(noise), ..Prompt::default() },
            _ => Prompt {
                object: self.objects.draw(noise),
                style: self.styles.draw(noise),
                ..Prompt::default()
            },
        };
        self.held.extend([&prompt.object, &prompt.style].into_iter().flatten().cloned());
        prompt.wording(wording(&prompt, noise), &self.vocabulary.anything)
    }

    /// Words of the vocabulary that the neighbours so far named.
    pub(in crate::engine) fn held(&self) -> Vec<String> {
        self.held.iter().cloned().collect()
    }
}

/// A way to word a prompt; the canonical one comes up three times as often as any other, for it is
/// how people speak.
fn wording(prompt: &Prompt, noise: &mut NoiseSource) -> usize {
    const CANONICAL_WEIGHT: usize = 3;
    noise.index(prompt.wordings() + CANONICAL_WEIGHT - 1).saturating_sub(CANONICAL_WEIGHT - 1)
}

/// Words that are drawn without replacement and shuffled anew when they are used up.
#[derive(Debug, Clone)]
pub(super) struct WordCycle {
    words: Vec<String>,
    order: Vec<usize>,
}

impl WordCycle {
    fn new(words: Vec<String>) -> Self {
        Self { words, order: Vec::new() }
    }

    fn draw(&mut self, noise: &mut NoiseSource) -> Option<String> {
        if self.order.is_empty() {
            self.order = (0..self.words.len()).collect();
            noise.shuffle(&mut self.order);
        }
        self.order.pop().map(|index| self.words[index].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        Vocabulary {
            anything: "emoji".into(),
            objects: vec!["cat".into(), "dog".into(), "apple".into()],
            styles: vec!["neon".into(), "flat".into()],
        }
    }

    #[test]
    fn the_anchor_is_the_context_and_the_neighbours_never_name_the_concept() {
        let (vocabulary, concept) = (vocabulary(), Concept::new("cat", ConceptKind::Object));
        let mut contexts = Contexts::new(&vocabulary, |word| word == "cat", &[]);
        let mut noise = NoiseSource::new(1);
        let prompts = contexts.concept(&concept, 20, 4, &mut noise);
        assert!(prompts.iter().all(|prompt| prompt.concept.contains("cat")));
        assert!(prompts.iter().all(|prompt| !prompt.anchor.contains("cat")));
        assert!(prompts[..4].iter().all(|prompt| prompt.anchor.is_empty()));
        assert!(prompts[4..].iter().all(|prompt| prompt.anchor.starts_with("an emoji in ")));
        assert!(contexts.neighbours(40, &mut noise).iter().all(|prompt| !prompt.contains("cat")));
    }

    #[test]
    fn what_the_neighbours_named_is_held() {
        let vocabulary = vocabulary();
        let left_out = |word: &str| ["cat", "apple"].contains(&word);
        let given = ["a red Apple".to_owned(), "a catapult".to_owned()];
        let mut noise = NoiseSource::new(1);
        let mut contexts = Contexts::new(&vocabulary, left_out, &[]);
        assert!(contexts.held().is_empty());
        contexts.concept(&Concept::new("cat", ConceptKind::Object), 4, 0, &mut noise);
        assert!(contexts.held().is_empty());
        let drawn = contexts.neighbours(40, &mut noise);
        assert!(!drawn.iter().any(|prompt| prompt.contains("apple")));
        assert_eq!(contexts.held(), ["dog", "flat", "neon"]);
        // A prompt of the user's names what it names.
        let mut contexts = Contexts::new(&vocabulary, left_out, &given);
        contexts.neighbours(3, &mut noise);
        assert!(contexts.held().contains(&"apple".to_owned()));
        assert!(!contexts.held().contains(&"cat".to_owned()));
    }

    #[test]
    fn a_replacement_takes_the_concepts_place_in_the_anchor() {
        let vocabulary = vocabulary();
        let concept =
            Concept { replacement: Some("dog".into()), ..Concept::new("cat", ConceptKind::Object) };
        let mut contexts = Contexts::new(&vocabulary, |word| word == "cat", &[]);
        let prompts = contexts.concept(&concept, 6, 1, &mut NoiseSource::new(2));
        assert_eq!(prompts[0].anchor, "a dog");
        assert!(prompts[1..].iter().all(|prompt| prompt.anchor.starts_with("a dog in ")));
    }

    #[test]
    fn without_a_vocabulary_the_prompts_are_bare() {
        let empty = Vocabulary { objects: vec![], styles: vec![], ..Vocabulary::default() };
        let concept = Concept::new("cat", ConceptKind::Object);
        let mut contexts = Contexts::new(&empty, |_| false, &[]);
        let mut noise = NoiseSource::new(3);
        assert_eq!(contexts.concept(&concept, 1, 0, &mut noise)[0].anchor, "");
        assert_eq!(contexts.neighbours(2, &mut noise), ["", ""]);
    }
}
