//! Converts `UnlearnConceptRequest` into the work of an erasure.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{
    Limits, RequestTerms,
    fields::{
        WireTerms, check_name, read_destination, read_kind, read_sampler, read_scope,
        read_vocabulary,
    },
};
use crate::{
    api::{ApiError, ApiResult, violations::Violations},
    catalogue::ModelEntry,
    jobs::{Evaluation, StoredScores, UnlearnWork},
    proto::keystep::v1::{
        AutoWindow, KeySteps as WireKeySteps, LogSnrWindow as WireWindow,
        OutputFormat as WireFormat, UnlearnConceptRequest, UnlearningMethod,
        unlearn_concept_request::WindowSource,
    },
    spec::{
        Concept, Field, FieldPath, KeySteps, LogSnrWindow, Method, MethodName, OutputFormat,
        SamplerKind, UnlearnSpec, canonical, same_words,
    },
};

const MOST_PRESERVED: usize = 1_024;
/// Of all preserved prompts: of as many as may be given, each of a usual length.
const MOST_PRESERVED_BYTES: usize = 128 << 10;

/// A request whose every field was checked; what the model and earlier scores bring is yet to come.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::api) struct UnlearnDraft {
    pub(in crate::api) base_model: String,
    /// Earlier scores that the window is to be taken from.
    pub(in crate::api) score_digest: Option<String>,
    pub(in crate::api) terms: RequestTerms,
    pub(in crate::api) seed_is_given: bool,
    spec: UnlearnSpec,
    takes_own_words: bool,
    formats: Vec<OutputFormat>,
    destination: String,
    evaluation: Evaluation,
    evaluation_sampler: Option<SamplerKind>,
    paths: Paths,
}

impl UnlearnDraft {
    /// Checks everything that needs no model, and gives every violation at once.
    pub(in crate::api) fn read(
        request: UnlearnConceptRequest,
        limits: Limits<'_>,
    ) -> ApiResult<Self> {
        let UnlearnConceptRequest {
            request_id,
            base_model,
            concepts,
            concept_kind,
            key_steps,
            seed,
            validate_only,
            replacements,
            preserve,
            scope,
            scope_name_contains,
            method,
            updates,
            learning_rate,
            vocabulary,
            output_formats,
            destination: asked_destination,
            labels,
            deadline,
            priority,
            force,
            evaluate,
            evaluate_sampler,
            window_source,
        } = request;
        let mut found = Violations::default();
        let terms = WireTerms { request_id, labels, deadline, priority, force, validate_only }
            .read(limits, &mut found);
        check_name(Field::BaseModel, &base_model, &mut found);
        let kind = read_kind(concept_kind, &mut found);
        let concepts = Texts { concepts, preserve, replacements, keys: BTreeMap::new() }
            .read(limits, &mut found);
        let paths = Paths {
            replaced: (concepts.concepts.iter())
                .map(|concept| concepts.key(concept).unwrap_or(concept).clone())
                .collect(),
            has_key_steps: key_steps.is_some(),
            names_tensors: !scope_name_contains.is_empty(),
        };
        let knobs = Knobs { method, key_steps, updates, learning_rate };
        let name = knobs.name(&mut found);
        let (mut method, preset_scope) = Method::preset(name, kind, concepts.concepts.len() > 1);
        knobs.apply(&mut method, &mut found);
        let score_digest = apply_window(window_source, &mut method, &mut found);
        let scope = read_scope(scope, scope_name_contains, &mut found);
        let vocabulary = read_vocabulary(vocabulary, limits, &mut found);
        let takes_own_words = vocabulary.is_none();
        let spec = UnlearnSpec {
            concepts: concepts.of_kind(kind),
            method,
            scope: scope.unwrap_or(preset_scope),
            preserve: concepts.preserve,
            vocabulary: vocabulary.unwrap_or_default(),
            seed: seed.unwrap_or(limits.drawn_seed),
        };
        found.absorb_as(spec.validate(), |field| paths.on_wire(field));
        let formats = read_formats(&output_formats, &mut found);
        let evaluation_sampler = read_sampler(Field::EvaluateSampler, evaluate_sampler, &mut found);
        if evaluation_sampler.is_some() && evaluate == Some(false) {
            let message = "is for results that are judged, and evaluate is false; leave one out";
            found.add(Field::EvaluateSampler, message);
        }
        let destination = read_destination(&asked_destination, limits, &mut found);
        found.finish()?;
        Ok(Self {
            base_model,
            score_digest,
            terms,
            seed_is_given: seed.is_some(),
            // From here on equal requests have equal specs; violations above quote what was written.
            spec: spec.canonical(),
            takes_own_words,
            formats,
            destination,
            evaluation: match evaluate {
                None => Evaluation::WherePossible,
                Some(true) => Evaluation::Required,
                Some(false) => Evaluation::Skipped,
            },
            evaluation_sampler,
            paths,
        })
    }

    /// The concepts, for logs.
    pub(in crate::api) fn concepts(&self) -> impl Iterator<Item = &str> {
        self.spec.concepts.iter().map(|concept| concept.text.as_str())
    }

    /// The work on a model that is ready, with the window of the scores that were cited.
    pub(in crate::api) fn complete(
        &self,
        base: &ModelEntry,
        cited: Option<&StoredScores>,
    ) -> ApiResult<UnlearnWork> {
        let base_digest =
            base.digest.clone().ok_or(ApiError::Internal("a model that is ready has no digest"))?;
        let mut found = Violations::default();
        let mut spec = self.spec.clone();
        if self.takes_own_words {
            spec.vocabulary = base.vocabulary.clone().unwrap_or_default().canonical();
        }
        if self.score_digest.is_some() {
            match cited_window(cited, &base_digest, &spec) {
                Ok(window) => set_window(&mut spec.method, window),
                Err(message) => found.add(Field::ScoreDigest, message),
            }
        }
        found.absorb_as(spec.validate(), |field| self.paths.on_wire(field));
        found.finish()?;
        Ok(UnlearnWork {
            base_model: self.base_model.clone(),
            base_digest,
            spec,
            score_digest: self.score_digest.clone(),
            formats: self.formats.clone(),
            destination: self.destination.clone(),
            evaluation: self.evaluation,
            evaluation_sampler: self.evaluation_sampler,
        })
    }
}

/// Everything that is text.
struct Texts {
    concepts: Vec<String>,
    preserve: Vec<String>,
    replacements: BTreeMap<String, String>,
    /// The first key of the replacements for each concept, by the canonical words of both.
    keys: BTreeMap<String, String>,
}

impl Texts {
    fn read(mut self, limits: Limits<'_>, found: &mut Violations) -> Self {
        let most = limits.settings.prompt_characters;
        for (field, texts, most_texts) in [
            (Field::Concepts, &mut self.concepts, UnlearnSpec::MAX_CONCEPTS),
            (Field::Preserve, &mut self.preserve, MOST_PRESERVED),
        ] {
            found.at_most(field, texts, most_texts);
            for (index, text) in texts.iter().enumerate() {
                found.prompt(field.at(index), text, most);
            }
        }
        found.bytes(Field::Preserve, &self.preserve, MOST_PRESERVED_BYTES);
        let (given, most_given) = (self.replacements.len(), UnlearnSpec::MAX_CONCEPTS);
        if given > most_given {
            found.add(
                Field::Replacements,
                format!("has {given} entries, the limit is {most_given}"),
            );
        }
        let concepts: BTreeSet<_> = self.concepts.iter().map(|text| canonical(text)).collect();
        for (concept, replacement) in self.replacements.iter().take(most_given) {
            let path = Field::Replacements.key(concept);
            found.prompt(path.clone(), replacement, most);
            let words = canonical(concept);
            if !concepts.contains(&words) {
                found.add(path, "is for no concept of this request; name one of them");
            } else if let Entry::Vacant(key) = self.keys.entry(words) {
                key.insert(concept.clone());
            } else {
                found.add(path, "is a second one for the same concept; leave one out");
            }
        }
        self
    }

    /// The key of a concept's replacement, however either is written.
    fn key(&self, concept: &str) -> Option<&String> {
        self.keys.get(&canonical(concept))
    }

    fn of_kind(&self, kind: crate::spec::ConceptKind) -> Vec<Concept> {
        let concept = |text: &String| Concept {
            text: text.clone(),
            kind,
            replacement: self.key(text).and_then(|key| self.replacements.get(key)).cloned(),
        };
        self.concepts.iter().map(concept).collect()
    }
}

/// The method and what of it is given.
struct Knobs {
    method: i32,
    key_steps: Option<WireKeySteps>,
    updates: Option<u32>,
    learning_rate: Option<f64>,
}

impl Knobs {
    fn name(&self, found: &mut Violations) -> MethodName {
        match found.choice(Field::Method, self.method) {
            Some(UnlearningMethod::Unspecified | UnlearningMethod::Keystep) | None => {
                MethodName::Keystep
            }
            Some(UnlearningMethod::Kscu) => MethodName::Kscu,
            Some(UnlearningMethod::Esd) => MethodName::Esd,
        }
    }

    fn apply(self, method: &mut Method, found: &mut Violations) {
        let (updates, rate) = match method {
            Method::Keystep(settings) => (&mut settings.updates, &mut settings.relative_rate),
            Method::Kscu(settings) => (&mut settings.updates, &mut settings.learning_rate),
            Method::Esd(settings) => (&mut settings.updates, &mut settings.learning_rate),
        };
        *updates = self.updates.map_or(*updates, |updates| updates as usize);
        *rate = self.learning_rate.unwrap_or(*rate);
        let Some(WireKeySteps { start_step, end_step, iterations }) = self.key_steps else {
            return;
        };
        let Method::Kscu(settings) = method else {
            let message = "is for UNLEARNING_METHOD_KSCU; other methods take a window or none";
            found.add(Field::KeySteps, message);
            return;
        };
        if self.updates.is_some_and(|updates| updates != iterations) {
            let message = "differs from key_steps.iterations; leave it out";
            found.add(Field::Updates, message);
        }
        settings.first_key_step = start_step as usize;
        settings.schedule_steps = end_step as usize;
        settings.updates = iterations as usize;
    }
}

/// Sets a window that is given; gives the digest of scores that it is to be taken from.
fn apply_window(
    source: Option<WindowSource>,
    method: &mut Method,
    found: &mut Violations,
) -> Option<String> {
    let source = source?;
    let field = match &source {
        WindowSource::Auto(AutoWindow {}) => Field::Auto,
        WindowSource::ScoreDigest(_) => Field::ScoreDigest,
        WindowSource::Window(_) => Field::Window,
    };
    if method.name() != MethodName::Keystep {
        let message = format!(
            "is for UNLEARNING_METHOD_KEYSTEP; the method {} has its own steps",
            method.name().name()
        );
        found.add(field, message);
        return None;
    }
    match source {
        // The preset measures.
        WindowSource::Auto(AutoWindow {}) => None,
        WindowSource::ScoreDigest(digest) => {
            if digest.is_empty() || digest.len() > 128 {
                found.add(
                    Field::ScoreDigest,
                    "is no digest; take it from ScoreSummary.score_digest",
                );
            }
            Some(digest)
        }
        WindowSource::Window(WireWindow { low, high }) => {
            if low.is_finite() && high.is_finite() && low < high {
                set_window(method, LogSnrWindow { low, high });
            } else {
                let message = format!("{low} to {high} is no window; give two numbers, low < high");
                found.add(Field::Window, message);
            }
            None
        }
    }
}

fn set_window(method: &mut Method, window: LogSnrWindow) {
    if let Method::Keystep(settings) = method {
        settings.key_steps = KeySteps::Window(window);
    }
}

/// The window of earlier scores of the same model and of one of the concepts.
fn cited_window(
    cited: Option<&StoredScores>,
    base_digest: &str,
    spec: &UnlearnSpec,
) -> Result<LogSnrWindow, &'static str> {
    let cited = cited
        .ok_or("no scores with this digest are kept for this caller; call ScoreTimesteps again")?;
    if cited.model_digest != base_digest {
        return Err("these scores are of another model; score this one");
    }
    let scored = &cited.scores.spec.concept.text;
    if spec.concepts.iter().any(|concept| same_words(&concept.text, scored)) {
        Ok(cited.scores.window)
    } else {
        Err("these scores are of a concept that is not to be erased; score one that is")
    }
}

/// What to publish, in one order and without repetition, so that equal work is seen to be equal.
fn read_formats(numbers: &[i32], found: &mut Violations) -> Vec<OutputFormat> {
    if numbers.is_empty() {
        return vec![OutputFormat::Delta, OutputFormat::Unet];
    }
    let mut formats = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        let field = Field::OutputFormats.at(index);
        // One violation says as much as thousands of them.
        if index > 16 {
            found.add(Field::OutputFormats, "has more entries than there are formats");
            break;
        }
        match found.choice(field.clone(), *number) {
            Some(WireFormat::Unspecified) => found.add(field, "is unset; name a format"),
            Some(WireFormat::Delta) => formats.push(OutputFormat::Delta),
            Some(WireFormat::Unet) => formats.push(OutputFormat::Unet),
            Some(WireFormat::Pipeline) => formats.push(OutputFormat::Pipeline),
            None => {}
        }
    }
    formats.sort_unstable();
    formats.dedup();
    formats
}

/// What is needed to name a spec's field as the request does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Paths {
    /// The key of each concept's replacement, as it was given.
    replaced: Vec<String>,
    has_key_steps: bool,
    names_tensors: bool,
}

impl Paths {
    fn on_wire(&self, path: FieldPath) -> FieldPath {
        match path.field {
            Field::MethodUpdates if self.has_key_steps => Field::KeyStepsIterations.into(),
            Field::Scope if self.names_tensors => Field::ScopeNameContains.into(),
            Field::ConceptsReplacement => {
                let replaced = path.index().and_then(|index| self.replaced.get(index));
                replaced.map_or(path, |concept| Field::Replacements.key(concept))
            }
            _ => path,
        }
        .on_wire()
    }
}
