//! What a model's tokenizer makes of a request's words: which are the same, and whether the
//! sentences that they will be put into fit its text encoder. All of it before any work, from the
//! configs alone.

use super::{
    EngineError,
    family::{ClipTokenizer, TextTowerConfig},
    templates,
};
use crate::spec::{
    Concept, ConceptKind, Field, FieldPath, JudgeSpec, MethodName, ModelFiles, Prompt, ScoreSpec,
    SpecError, Suite, SuitePrompt, UnlearnSpec, Violation, Vocabulary, find_word,
};

/// Whether a word is one of these concepts to the tokenizer, whatever it looks like.
pub(super) fn names_one_of<'a>(
    tokenizer: &'a ClipTokenizer,
    concepts: &[Concept],
) -> impl Fn(&str) -> bool + use<'a> {
    let ids = |text: &str| tokenizer.encode(text).ok();
    let named: Vec<_> = concepts.iter().filter_map(|concept| ids(&concept.text)).collect();
    move |word| tokenizer.encode(word).is_ok_and(|word| named.contains(&word))
}

/// Whether a word of the vocabulary is left out of a training's contexts and neighbours: it is one of
/// the concepts, or held out.
pub(super) fn left_out<'a>(
    tokenizer: &'a ClipTokenizer,
    spec: &'a UnlearnSpec,
) -> impl Fn(&str) -> bool + use<'a> {
    let erased = names_one_of(tokenizer, &spec.concepts);
    move |word| erased(word) || find_word(&spec.held_out, word).is_some()
}

/// Reads texts as a pipeline does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    tokenizer: &'a ClipTokenizer,
    /// Most tokens of a text, with begin and end.
    limit: usize,
}

impl<'a> Reader<'a> {
    /// For text encoders that read so many tokens.
    pub(super) fn new(tokenizer: &'a ClipTokenizer, limit: usize) -> Self {
        Self { tokenizer, limit: tokenizer.length().min(limit) }
    }

    /// Refuses an erasure whose words say the same twice or nothing, or whose sentences do not fit.
    pub(super) fn check_unlearn(self, spec: &UnlearnSpec) -> Result<(), EngineError> {
        let mut check = Check::new(self);
        let concepts: Vec<_> = (spec.concepts.iter().enumerate())
            .map(|(index, concept)| (Field::Concepts.at(index), concept))
            .collect();
        check.words(&concepts, &spec.vocabulary)?;
        check.preserved(&concepts, &spec.preserve, &spec.vocabulary)?;
        check.contexts(&concepts, &spec.vocabulary)?;
        if spec.method.name() == MethodName::Kscu {
            for (field, concept) in &concepts {
                let sentences = templates::longest(concept).collect();
                check.fits(field.text(), &concept.text, sentences)?;
            }
        }
        check.finish()
    }

    /// The same for scores.
    pub(super) fn check_score(self, spec: &ScoreSpec) -> Result<(), EngineError> {
        let mut check = Check::new(self);
        let concepts = [(Field::Concept.into(), &spec.concept)];
        check.words(&concepts, &spec.vocabulary)?;
        check.contexts(&concepts, &spec.vocabulary)?;
        check.finish()
    }

    /// The same for a judgement, whose sentences pair every object with every style.
    pub(super) fn check_judge(self, spec: &JudgeSpec) -> Result<(), EngineError> {
        let mut check = Check::new(self);
        check.words(&[(Field::Concept.into(), &spec.concept)], &spec.vocabulary)?;
        check.pairs(
            &spec.vocabulary,
            |_| false,
            |prompt, anything| vec![prompt.sentence(anything)],
        )?;
        check.suites(&spec.suites)?;
        check.probes(spec)?;
        check.finish()
    }

    /// Whether a text has no more tokens than the text encoder reads.
    pub(super) fn reads_whole(self, text: &str) -> Result<bool, EngineError> {
        Ok(self.tokens(text)? <= self.limit)
    }

    /// Tokens of a text, with begin and end; at most those that a message needs.
    fn tokens(self, text: &str) -> Result<usize, EngineError> {
        let ids = match self.tokenizer.encode(text) {
            Err(EngineError::PromptTooLong { tokens, .. }) => return Ok(tokens),
            ids => ids?,
        };
        let end = self.tokenizer.end();
        // A text is padded by its end, or by another token that follows its end.
        let padding = ids.iter().rev().take_while(|id| **id == end).count();
        Ok(match padding {
            0 => ids.iter().rposition(|id| *id == end).map_or(ids.len(), |last| last + 1),
            _ => ids.len() - padding + 1,
        })
    }
}

/// Refuses an erasure whose words or sentences the model of a folder would not take, as every run
/// does before its first step; reads the tokenizer and no weight.
pub fn check_erasure_words(files: &dyn ModelFiles, spec: &UnlearnSpec) -> Result<(), EngineError> {
    spec.validate()?;
    let (tokenizer, limit) = open(files)?;
    Reader::new(&tokenizer, limit).check_unlearn(&spec.canonical())
}

/// The same for a judgement, by the base model's folder.
pub fn check_judgement_words(files: &dyn ModelFiles, spec: &JudgeSpec) -> Result<(), EngineError> {
    spec.validate()?;
    let (tokenizer, limit) = open(files)?;
    Reader::new(&tokenizer, limit).check_judge(&spec.canonical())
}

/// The tokenizer of a folder's first text tower, and how many tokens its encoder reads.
fn open(files: &dyn ModelFiles) -> Result<(ClipTokenizer, usize), EngineError> {
    let tower = TextTowerConfig::first(files)?;
    let tokenizer = ClipTokenizer::from_files(files, tower.tokenizer)?;
    Ok((tokenizer, tower.encoder.max_position_embeddings))
}

/// Ids of a text, `None` where it is too long to have any.
type Ids = Option<Vec<u32>>;

/// A check under way, with all that it found wrong.
struct Check<'a> {
    reader: Reader<'a>,
    found: Vec<Violation>,
}

impl<'a> Check<'a> {
    fn new(reader: Reader<'a>) -> Self {
        Self { reader, found: Vec::new() }
    }

    fn add(&mut self, field: impl Into<FieldPath>, message: String) {
        self.found.push(Violation { field: field.into(), message });
    }

    fn finish(self) -> Result<(), EngineError> {
        if self.found.is_empty() {
            return Ok(());
        }
        Err(SpecError { violations: self.found }.into())
    }

    fn ids(&self, text: &str) -> Result<Ids, EngineError> {
        match self.reader.tokenizer.encode(text) {
            Err(EngineError::PromptTooLong { .. }) => Ok(None),
            ids => ids.map(Some),
        }
    }

    /// Concepts, their replacements and the vocabulary: each says something, and nothing twice.
    fn words(
        &mut self,
        concepts: &[(FieldPath, &Concept)],
        vocabulary: &Vocabulary,
    ) -> Result<(), EngineError> {
        let nothing = self.ids("")?;
        let mut seen: Vec<Ids> = Vec::new();
        for (field, concept) in concepts {
            let ids = self.ids(&concept.text)?;
            if ids == nothing {
                let shown = shown(&concept.text);
                let message = format!("{shown} is no text at all to this model; name another one");
                self.add(field.text(), message);
            } else if let Some(first) = place(&seen, &ids) {
                let (shown, first) = (shown(&concept.text), &concepts[first].0);
                let message = format!("{shown} has the tokens of {first}; leave one out");
                self.add(field.text(), message);
            } else if let Some(replacement) = &concept.replacement
                && ids.is_some()
                && self.ids(replacement)? == ids
            {
                let message = format!(
                    "{} has the tokens of the concept itself; name another one or none",
                    shown(replacement)
                );
                self.add(field.replacement(), message);
            }
            seen.push(ids);
        }
        for (list, field, words) in [
            ("objects", Field::VocabularyObjects, &vocabulary.objects),
            ("styles", Field::VocabularyStyles, &vocabulary.styles),
        ] {
            let mut seen = std::collections::BTreeMap::new();
            for (index, word) in words.iter().enumerate() {
                // A tokenizer may know none of a language's letters; nobody need know all words.
                let Some(ids) = self.ids(word)?.filter(|ids| Some(ids) != nothing.as_ref()) else {
                    continue;
                };
                if let Some(first) = seen.get(&ids) {
                    let message =
                        format!("{} has the tokens of {list}[{first}]; leave one out", shown(word));
                    self.add(field.at(index), message);
                } else {
                    seen.insert(ids, index);
                }
            }
        }
        Ok(())
    }

    /// Prompts to preserve fit, and none of them is a concept.
    fn preserved(
        &mut self,
        concepts: &[(FieldPath, &Concept)],
        preserve: &[String],
        vocabulary: &Vocabulary,
    ) -> Result<(), EngineError> {
        let mut erased: Vec<(Ids, &FieldPath)> = Vec::new();
        for (field, concept) in concepts {
            let sentence = Prompt::of(&concept.text, concept.kind).sentence(&vocabulary.anything);
            erased.push((self.ids(&concept.text)?, field));
            erased.push((self.ids(&sentence)?, field));
        }
        for (index, prompt) in preserve.iter().enumerate() {
            let field = Field::Preserve.at(index);
            self.fits(field.clone(), prompt, vec![prompt.clone()])?;
            let ids = self.ids(prompt)?;
            let same = erased.iter().find(|(erased, _)| ids.is_some() && *erased == ids);
            if let Some((_, concept)) = same {
                let message =
                    format!("{} is to be erased as {concept}; leave one out", shown(prompt));
                self.add(field, message);
            }
        }
        Ok(())
    }

    /// Every sentence that a run may put its concepts and its vocabulary's words into.
    fn contexts(
        &mut self,
        concepts: &[(FieldPath, &Concept)],
        vocabulary: &Vocabulary,
    ) -> Result<(), EngineError> {
        let plain: Vec<Concept> = concepts.iter().map(|(_, concept)| (*concept).clone()).collect();
        let erased = names_one_of(self.reader.tokenizer, &plain);
        let anything = &vocabulary.anything;
        let longest = self.pairs(vocabulary, erased, every_wording)?;
        for (field, concept) in concepts {
            let mut named = Prompt::of(&concept.text, concept.kind);
            let mut sentences = every_wording(&named, anything);
            let replacement = concept.replacement.as_deref();
            let mut anchor =
                replacement.map_or_else(Prompt::default, |text| Prompt::of(text, concept.kind));
            let mut anchors = vec![anchor.sentence(anything)];
            if concept.kind == ConceptKind::Style {
                named.object.clone_from(&longest.object);
                anchor.object.clone_from(&longest.object);
            } else {
                named.style.clone_from(&longest.style);
                anchor.style.clone_from(&longest.style);
            }
            sentences.extend(every_wording(&named, anything));
            anchors.push(anchor.sentence(anything));
            self.fits(field.text(), &concept.text, sentences)?;
            if let Some(replacement) = replacement {
                self.fits(field.replacement(), replacement, anchors)?;
            }
        }
        Ok(())
    }

    /// The vocabulary's longest words that are no concepts, alone and together; gives the two.
    fn pairs(
        &mut self,
        vocabulary: &Vocabulary,
        erased: impl Fn(&str) -> bool,
        sentences: impl Fn(&Prompt, &str) -> Vec<String>,
    ) -> Result<Prompt, EngineError> {
        let anything = &vocabulary.anything;
        let as_object = |word: &str| Prompt::of(word, ConceptKind::Object);
        let as_style = |word: &str| Prompt::of(word, ConceptKind::Style);
        let object = self
            .longest(&vocabulary.objects, &erased, |word| as_object(word).wording(2, anything))?;
        let style =
            self.longest(&vocabulary.styles, &erased, |word| as_style(word).wording(2, anything))?;
        let pick = |words: &[String], place: Option<usize>| place.map(|place| words[place].clone());
        let both = Prompt {
            object: pick(&vocabulary.objects, object),
            style: pick(&vocabulary.styles, style),
            ..Prompt::default()
        };
        let before = self.found.len();
        if let (Some(place), Some(word)) = (object, &both.object) {
            let field = Field::VocabularyObjects.at(place);
            self.fits(field, word, sentences(&as_object(word), anything))?;
        }
        if let (Some(place), Some(word)) = (style, &both.style) {
            let field = Field::VocabularyStyles.at(place);
            self.fits(field, word, sentences(&as_style(word), anything))?;
        }
        if let (Some(place), Some(word), Some(_)) = (style, &both.style, &both.object)
            && self.found.len() == before
        {
            let field = Field::VocabularyStyles.at(place);
            self.fits(field, word, sentences(&both, anything))?;
        }
        Ok(both)
    }

    /// Every prompt fits; of each suite the first that does not is told, and how many there are.
    fn suites(&mut self, suites: &[Suite]) -> Result<(), EngineError> {
        for (index, suite) in suites.iter().enumerate() {
            let mut long = Vec::new();
            for (place, SuitePrompt { prompt, .. }) in suite.prompts.iter().enumerate() {
                let tokens = self.reader.tokens(prompt)?;
                if tokens > self.reader.limit {
                    long.push((place + 1, tokens));
                }
            }
            let Some((first, tokens)) = long.first() else { continue };
            let places: Vec<_> = long.iter().take(20).map(|(place, _)| place.to_string()).collect();
            let more = if long.len() > places.len() { ", …" } else { "" };
            let message = format!(
                "prompt {first} has {tokens} tokens with begin and end, the text encoder reads {}; \
                 shorten or leave out what is too long, {} of {} prompts: {}{more}",
                self.reader.limit,
                long.len(),
                suite.prompts.len(),
                places.join(", "),
            );
            self.add(Field::Suites.at(index), message);
        }
        Ok(())
    }

    /// What was given for probes fits: words as they are said, and descriptions.
    fn probes(&mut self, spec: &JudgeSpec) -> Result<(), EngineError> {
        let Some(probes) = &spec.probes else { return Ok(()) };
        for (field, words) in [
            (Field::ProbesSynonyms, &probes.synonyms),
            (Field::ProbesTranslations, &probes.translations),
        ] {
            for (index, word) in words.iter().enumerate() {
                let said = Prompt::of(word, spec.concept.kind);
                let sentences = vec![said.sentence(&spec.vocabulary.anything)];
                self.fits(field.at(index), word, sentences)?;
            }
        }
        for (index, description) in probes.descriptions.iter().enumerate() {
            let field = Field::ProbesDescriptions.at(index);
            self.fits(field, description, vec![description.clone()])?;
        }
        Ok(())
    }

    /// The place of the word whose sentence has most tokens.
    fn longest(
        &self,
        words: &[String],
        erased: impl Fn(&str) -> bool,
        sentence: impl Fn(&str) -> String,
    ) -> Result<Option<usize>, EngineError> {
        let mut longest = None;
        for (place, word) in words.iter().enumerate().filter(|(_, word)| !erased(word)) {
            let tokens = self.reader.tokens(&sentence(word))?;
            if longest.is_none_or(|(most, _)| tokens > most) {
                longest = Some((tokens, place));
            }
        }
        Ok(longest.map(|(_, place)| place))
    }

    /// Tells the longest of the sentences that a text is put into, where it does not fit.
    fn fits(
        &mut self,
        field: FieldPath,
        text: &str,
        sentences: Vec<String>,
    ) -> Result<(), EngineError> {
        // A violation of the text by itself is not repeated for its sentence.
        if self.found.iter().any(|violation| violation.field == field) {
            return Ok(());
        }
        let mut worst = (0, String::new());
        for sentence in sentences {
            let tokens = self.reader.tokens(&sentence)?;
            if tokens > worst.0 {
                worst = (tokens, sentence);
            }
        }
        let ((tokens, sentence), limit) = (worst, self.reader.limit);
        if tokens > limit {
            let said = if sentence == text {
                String::new()
            } else {
                format!(", said as {}", shown(&sentence))
            };
            let message = format!(
                "{}{said}, has {tokens} tokens with begin and end, the text encoder reads {limit}; \
                 shorten it or the words beside it",
                shown(text)
            );
            self.add(field, message);
        }
        Ok(())
    }
}

/// The place of these ids among others; texts that are too long are nobody's likeness.
fn place(seen: &[Ids], ids: &Ids) -> Option<usize> {
    ids.as_ref().and_then(|_| seen.iter().position(|other| other == ids))
}

fn every_wording(prompt: &Prompt, anything: &str) -> Vec<String> {
    (0..prompt.wordings()).map(|index| prompt.wording(index, anything)).collect()
}

/// A text as messages quote it, however long it is.
fn shown(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().nth(MOST).is_none() {
        return format!("\"{text}\"");
    }
    format!("\"{}…\"", text.chars().take(MOST).collect::<String>())
}

#[cfg(test)]
mod tests;
