//! Requests of every sort against the conversions: no panic, and violations that name real fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use proptest::{collection::vec, option, prelude::*};
use prost_reflect::DescriptorPool;

use super::world::{NOW, erase_cat, settings};
use crate::{
    api::{
        ApiError, ApiResult, ApiSettings,
        convert::{DrawingDraft, EvaluateDraft, Limits, ScoreDraft, UnlearnDraft},
        digests::unlearn_work_digest,
    },
    catalogue::{BUILTIN, ErasedOrigin, ModelEntry, ModelOrigin},
    jobs::Evaluation,
    proto::{
        DESCRIPTOR_SET,
        keystep::v1::{
            Attack, AutoWindow, ConceptKind as WireKind, EvaluateErasureRequest, GenerateRequest,
            KeySteps, LogSnrWindow, Probes, Sampler, ScoreTimestepsRequest, Suite, SuitePrompt,
            UnlearnConceptRequest, UnlearningMethod, Vocabulary as WireVocabulary,
            unlearn_concept_request::WindowSource,
        },
    },
    spec::{
        Concept, ConceptKind, Method, MethodName, OutputFormat, SamplerKind, Scope, UnlearnSpec,
        Vocabulary,
    },
    worker::testing::FolderPublisher,
};

pub(super) fn limits(settings: &ApiSettings) -> Limits<'_> {
    static PUBLISHER: LazyLock<FolderPublisher> = LazyLock::new(FolderPublisher::default);
    Limits { settings, publisher: &*PUBLISHER, highest_priority: None, now: NOW, drawn_seed: 11 }
}

pub(super) fn entry() -> ModelEntry {
    ModelEntry {
        name: BUILTIN.to_owned(),
        digest: Some("d".repeat(64)),
        vocabulary: Some(words()),
        origin: ModelOrigin::Base,
    }
}

fn words() -> Vocabulary {
    Vocabulary {
        anything: "emoji".to_owned(),
        objects: vec!["cat".to_owned(), "dog".to_owned()],
        styles: vec!["neon".to_owned()],
    }
}

fn violations<T: std::fmt::Debug>(read: ApiResult<T>) -> Vec<String> {
    match read {
        Ok(_) => Vec::new(),
        Err(ApiError::Invalid(violations)) => {
            violations.into_iter().map(|violation| violation.field.to_string()).collect()
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_the_command_line() {
    let settings = settings();
    for (wire, name) in [
        (UnlearningMethod::Unspecified, MethodName::Keystep),
        (UnlearningMethod::Kscu, MethodName::Kscu),
        (UnlearningMethod::Esd, MethodName::Esd),
    ] {
        for (wire_kind, kind) in [
            (WireKind::ObjectClass, ConceptKind::Object),
            (WireKind::Style, ConceptKind::Style),
            (WireKind::Instance, ConceptKind::Instance),
            (WireKind::Nudity, ConceptKind::Nudity),
        ] {
            let request = UnlearnConceptRequest {
                method: wire.into(),
                concept_kind: wire_kind.into(),
                ..erase_cat()
            };
            let draft = UnlearnDraft::read(request, limits(&settings)).unwrap();
            let work = draft.complete(&entry(), None).unwrap();
            let expected = UnlearnSpec {
                vocabulary: words(),
                seed: 11,
                ..UnlearnSpec::new(Concept::new("cat", kind), name)
            };
            assert_eq!(work.spec, expected);
            assert_eq!(work.formats, [OutputFormat::Delta, OutputFormat::Unet]);
            assert_eq!(work.evaluation, Evaluation::WherePossible);
            assert_eq!(work.destination, "s3://out/models");
        }
    }
}

#[test]
fn knobs_reach_the_spec() {
    let settings = settings();
    let request = UnlearnConceptRequest {
        method: UnlearningMethod::Kscu.into(),
        key_steps: Some(KeySteps { start_step: 3, end_step: 20, iterations: 9 }),
        learning_rate: Some(1e-4),
        scope_name_contains: "attn1".to_owned(),
        seed: Some(5),
        output_formats: vec![3, 1, 3],
        ..erase_cat()
    };
    let draft = UnlearnDraft::read(request, limits(&settings)).unwrap();
    assert!(draft.seed_is_given);
    let work = draft.complete(&entry(), None).unwrap();
    let Method::Kscu(kscu) = &work.spec.method else { panic!("{:?}", work.spec.method) };
    assert_eq!((kscu.first_key_step, kscu.schedule_steps, kscu.updates), (3, 20, 9));
    assert!((kscu.learning_rate - 1e-4).abs() < 1e-12);
    assert_eq!(work.spec.scope, Scope::NameContains("attn1".to_owned()));
    assert_eq!((work.spec.seed, work.formats.len()), (5, 2));
}

#[test]
fn words_that_are_held_out_are_the_models() {
    let settings = settings();
    let complete = |held_out: &[&str], preserve: &[&str]| {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (held_out, preserve) = (texts(held_out), texts(preserve));
        let request = UnlearnConceptRequest { held_out, preserve, ..erase_cat() };
        UnlearnDraft::read(request, limits(&settings)).and_then(|it| it.complete(&entry(), None))
    };
    let known = words().objects.iter().find(|word| *word != "cat").cloned().unwrap();
    let work = complete(&[&known.to_uppercase()], &[]).unwrap();
    assert_eq!(work.spec.held_out, std::slice::from_ref(&known));
    for (held_out, preserve) in [("no such word", "a tree"), ("cat", "a tree"), (&known, &known)] {
        let found = violations(complete(&[held_out], &[preserve]));
        assert_eq!(found, ["held_out[0]"], "{held_out}");
    }
    let given = WireVocabulary { objects: vec!["cat".to_owned()], ..WireVocabulary::default() };
    let vocabulary = Some(given);
    let request = UnlearnConceptRequest { vocabulary, held_out: vec![known], ..erase_cat() };
    let found = violations(UnlearnDraft::read(request, limits(&settings)));
    assert!(found.contains(&"held_out[0]".to_owned()), "{found:?}");
}

#[test]
fn a_judgement_is_sized_by_what_it_shall_show() {
    let settings = settings();
    let draft = |show, target_seeds| {
        let request = EvaluateErasureRequest {
            base_model: BUILTIN.to_owned(),
            edited_model: "edited".to_owned(),
            concept: "cat".to_owned(),
            concept_kind: WireKind::ObjectClass.into(),
            destination: erase_cat().destination,
            show,
            target_seeds,
            distances: true,
            ..EvaluateErasureRequest::default()
        };
        EvaluateDraft::read(request, limits(&settings))
    };
    assert!(draft(Some(0.95), None).is_ok());
    assert_eq!(violations(draft(Some(0.95), Some(2))), ["show"]);
    for wrong in [0.0, 1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(violations(draft(Some(wrong), None)), ["show"], "{wrong}");
    }
}

#[test]
fn writings_of_one_request_are_one_work() {
    let settings = settings();
    let asked = |concept: &str, words: [&str; 3]| {
        let [replacement, preserve, style] = words;
        let request = UnlearnConceptRequest {
            concepts: vec![concept.to_owned()],
            // A key need not be written as the concept is.
            replacements: BTreeMap::from([("cat".to_owned(), replacement.to_owned())]),
            preserve: vec![preserve.to_owned()],
            vocabulary: Some(WireVocabulary {
                styles: vec![style.to_owned()],
                ..WireVocabulary::default()
            }),
            ..erase_cat()
        };
        let draft = UnlearnDraft::read(request, limits(&settings)).unwrap();
        draft.complete(&entry(), None).unwrap()
    };
    let same = asked("cat", ["dog", "a dog", "oil painting"]);
    let digest = unlearn_work_digest(&same, true).unwrap();
    for text in ["Cat", " cat ", "CAT"] {
        let work = asked(text, ["Dog ", "A  dog", "Oil\u{a0}Painting"]);
        assert_eq!(work, same);
        assert_eq!(unlearn_work_digest(&work, true).unwrap(), digest);
    }
    let other = asked("cat", ["dog", "a dog", "oil paintings"]);
    assert_ne!(unlearn_work_digest(&other, true).unwrap(), digest);

    // A model's own words are read alike, and the judge knows the concept by them.
    let words = Vocabulary { objects: vec!["Cat".to_owned(), "dog".to_owned()], ..words() };
    let entry = ModelEntry { vocabulary: Some(words), ..entry() };
    let draft = UnlearnDraft::read(erase_cat(), limits(&settings)).unwrap();
    assert_eq!(draft.complete(&entry, None).unwrap().spec.vocabulary.objects, ["cat", "dog"]);
}

#[test]
fn writings_of_one_concept_are_judged_and_scored_alike() {
    let settings = settings();
    let edited = ModelEntry {
        origin: ModelOrigin::Erased(Box::new(ErasedOrigin {
            base_model: BUILTIN.to_owned(),
            concepts: vec!["cat".to_owned()],
            manifest_uri: String::new(),
            published_at: NOW,
            verdicts: Vec::new(),
        })),
        ..entry()
    };
    let judged = |concept: &str| {
        let request = EvaluateErasureRequest {
            base_model: BUILTIN.to_owned(),
            edited_model: "edited".to_owned(),
            concept: concept.to_owned(),
            concept_kind: WireKind::ObjectClass.into(),
            destination: erase_cat().destination,
            ..EvaluateErasureRequest::default()
        };
        let draft = EvaluateDraft::read(request, limits(&settings)).unwrap();
        draft.complete(&entry(), &edited).unwrap()
    };
    let scored = |concept: &str| {
        let request = ScoreTimestepsRequest {
            model: BUILTIN.to_owned(),
            concept: concept.to_owned(),
            concept_kind: WireKind::ObjectClass.into(),
            ..ScoreTimestepsRequest::default()
        };
        ScoreDraft::read(request, limits(&settings)).unwrap().complete(Some(words()))
    };
    for text in ["Cat", " cat "] {
        assert_eq!(judged(text), judged("cat"));
        assert_eq!(scored(text), scored("cat"));
    }
}

#[test]
fn a_judgements_sampler_is_part_of_the_work() {
    let settings = settings();
    let asked = |sampler: Sampler, evaluate| {
        let request =
            UnlearnConceptRequest { evaluate, evaluate_sampler: sampler.into(), ..erase_cat() };
        UnlearnDraft::read(request, limits(&settings))
    };
    let works = [Sampler::Unspecified, Sampler::Ddim, Sampler::Lcm].map(|sampler| {
        let work = asked(sampler, None).unwrap().complete(&entry(), None).unwrap();
        (work.evaluation_sampler, unlearn_work_digest(&work, true).unwrap())
    });
    let samplers = works.clone().map(|(sampler, _)| sampler);
    assert_eq!(samplers, [None, Some(SamplerKind::Ddim), Some(SamplerKind::Lcm)]);
    let digests: BTreeSet<_> = works.into_iter().map(|(_, digest)| digest).collect();
    assert_eq!(digests.len(), 3);
    assert_eq!(violations(asked(Sampler::Pndm, Some(false))), ["evaluate_sampler"]);
    assert!(asked(Sampler::Unspecified, Some(false)).is_ok());
}

#[test]
fn writings_of_one_concept_are_told_as_duplicates() {
    let settings = settings();
    let request = UnlearnConceptRequest {
        concepts: ["cat", "dog", "Cat"].map(str::to_owned).to_vec(),
        replacements: BTreeMap::from(
            [("DOG", " dog"), ("dog", "star"), ("cow", "dog")]
                .map(|(key, text)| (key.to_owned(), text.to_owned())),
        ),
        preserve: vec!["A cat".to_owned()],
        vocabulary: Some(WireVocabulary {
            objects: ["star", " ", "Star "].map(str::to_owned).to_vec(),
            ..WireVocabulary::default()
        }),
        ..erase_cat()
    };
    let found = violations(UnlearnDraft::read(request, limits(&settings)));
    let expected = [
        "replacements[\"cow\"]", "replacements[\"dog\"]", "replacements[\"DOG\"]", "concepts[2]",
        "preserve[0]", "vocabulary.objects[1]", "vocabulary.objects[2]",
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected.into());
}

#[test]
fn every_violation_is_told_under_the_wires_path() {
    let settings = settings();
    let request = UnlearnConceptRequest {
        request_id: "7".to_owned(),
        base_model: String::new(),
        concepts: vec!["cat".to_owned(), String::new(), "cat".to_owned()],
        concept_kind: 9,
        key_steps: Some(KeySteps::default()),
        replacements: BTreeMap::from([
            ("cat".to_owned(), "CAT".to_owned()),
            ("cow".to_owned(), "dog".to_owned()),
        ]),
        preserve: vec![" ".to_owned()],
        scope: 2,
        scope_name_contains: "\u{7}".to_owned(),
        updates: Some(0),
        learning_rate: Some(f64::INFINITY),
        vocabulary: Some(WireVocabulary {
            objects: vec!["a".to_owned(), "a".to_owned()],
            ..WireVocabulary::default()
        }),
        output_formats: vec![0, 8],
        destination: "s3://elsewhere".to_owned(),
        labels: BTreeMap::from([(String::new(), "x".repeat(257))]),
        deadline: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 }),
        priority: 101,
        window_source: Some(WindowSource::Window(LogSnrWindow { low: 1.0, high: 1.0 })),
        ..UnlearnConceptRequest::default()
    };
    let found: BTreeSet<_> =
        violations(UnlearnDraft::read(request, limits(&settings))).into_iter().collect();
    let expected = [
        "base_model", "concept_kind", "concepts[1]", "concepts[2]", "deadline", "destination",
        "key_steps", "labels[\"\"]", "learning_rate", "output_formats[0]", "output_formats[1]",
        "preserve[0]", "priority", "replacements[\"cat\"]", "replacements[\"cow\"]", "request_id",
        "scope_name_contains", "key_steps.iterations", "vocabulary.objects[1]", "window",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
}

#[test]
fn key_steps_and_windows_are_each_for_their_method() {
    let settings = settings();
    let of = |request| violations(UnlearnDraft::read(request, limits(&settings)));
    let kscu = || UnlearnConceptRequest { method: UnlearningMethod::Kscu.into(), ..erase_cat() };
    let late = Some(KeySteps { start_step: 18, end_step: 20, iterations: 9 });
    assert_eq!(of(UnlearnConceptRequest { key_steps: late, ..kscu() }), ["key_steps.start_step"]);
    let auto = Some(WindowSource::Auto(AutoWindow {}));
    assert_eq!(of(UnlearnConceptRequest { window_source: auto.clone(), ..kscu() }), ["auto"]);
    assert_eq!(of(UnlearnConceptRequest { window_source: auto, ..erase_cat() }), [""; 0]);
    let replaced = BTreeMap::from([("cat".to_owned(), "dog".to_owned())]);
    assert_eq!(of(UnlearnConceptRequest { replacements: replaced, ..kscu() }), ["replacements"]);
    let window = Some(WindowSource::Window(LogSnrWindow { low: f64::NAN, high: 1.0 }));
    assert_eq!(of(UnlearnConceptRequest { window_source: window, ..erase_cat() }), ["window"]);
}

#[test]
fn lists_that_are_far_too_long_are_refused_quickly() {
    let settings = settings();
    let many = |prefix: &str| (0..100_000).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    let request = UnlearnConceptRequest {
        concepts: many("c"),
        preserve: many("p"),
        replacements: many("r").into_iter().map(|key| (key, "x".to_owned())).collect(),
        labels: many("l").into_iter().map(|key| (key, String::new())).collect(),
        output_formats: vec![0; 100_000],
        vocabulary: Some(WireVocabulary {
            objects: many("o"),
            styles: many("s"),
            ..WireVocabulary::default()
        }),
        ..erase_cat()
    };
    let found = violations(UnlearnDraft::read(request, limits(&settings)));
    for field in ["concepts", "preserve", "labels", "vocabulary.objects", "vocabulary.styles"] {
        assert!(found.iter().any(|other| other == field), "{field}");
    }
}

#[test]
fn texts_have_a_limit_together() {
    let settings = ApiSettings { prompt_characters: 1_000, ..settings() };
    let texts = |count: usize, length: usize| {
        (0..count).map(|n| format!("{n:04}{}", "a".repeat(length - 4))).collect::<Vec<_>>()
    };
    let preserve = |texts| UnlearnConceptRequest { preserve: texts, ..erase_cat() };
    let read = |request| UnlearnDraft::read(request, limits(&settings));
    assert!(read(preserve(texts(1_024, 128))).is_ok());
    assert_eq!(violations(read(preserve(texts(1_024, 980)))), ["preserve"]);
    let refusal = format!("{:?}", read(preserve(texts(1_024, 980))).unwrap_err());
    assert!(refusal.contains("1003520 bytes") && refusal.contains("131072"), "{refusal}");
    let objects = WireVocabulary { objects: texts(1_000, 900), ..WireVocabulary::default() };
    let request = UnlearnConceptRequest { vocabulary: Some(objects), ..erase_cat() };
    let found = violations(read(request));
    assert!(found.contains(&"vocabulary.objects".to_owned()), "{found:?}");
}

/// Names of a request's fields.
fn field_names(message: &str) -> BTreeSet<String> {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(DESCRIPTOR_SET).unwrap());
    let message = POOL.get_message_by_name(&format!("keystep.v1.{message}")).unwrap();
    message.fields().map(|field| field.name().to_owned()).collect()
}

fn check<T: std::fmt::Debug>(read: ApiResult<T>, message: &str) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(ApiError::Invalid(violations)) => {
            assert!(!violations.is_empty());
            let known = field_names(message);
            for violation in violations {
                let field = violation.field.to_string();
                let head = field.split(['[', '.']).next().unwrap();
                assert!(known.contains(head), "{message} has no field {field}");
            }
            None
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["cat", "dog", "neon", "Van Gogh", "s3://out/models/x"])
            .prop_map(str::to_owned),
        1 => Just(String::new()),
        1 => "\\PC{0,12}",
        1 => any::<String>(),
    ]
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![8 => 0..5, 1 => any::<i32>()]
}

fn time() -> impl Strategy<Value = prost_types::Timestamp> {
    (prop_oneof![Just(1_900_000_000), any::<i64>()], prop_oneof![Just(0), any::<i32>()])
        .prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos })
}

fn vocabulary() -> impl Strategy<Value = WireVocabulary> {
    (text(), vec(text(), 0..4), vec(text(), 0..4))
        .prop_map(|(anything, objects, styles)| WireVocabulary { anything, objects, styles })
}

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(text(), text(), 0..3)
}

fn window() -> impl Strategy<Value = WindowSource> {
    prop_oneof![
        Just(WindowSource::Auto(AutoWindow {})),
        text().prop_map(WindowSource::ScoreDigest),
        (any::<f64>(), any::<f64>())
            .prop_map(|(low, high)| WindowSource::Window(LogSnrWindow { low, high })),
    ]
}

prop_compose! {
    fn unlearn_requests()(
        (request_id, base_model, concepts, concept_kind) in
            (text(), text(), vec(text(), 0..4), number()),
        (steps, seed, replacements, preserve) in
            (option::of(any::<[u32; 3]>()), any::<Option<u64>>(), map(), vec(text(), 0..3)),
        (scope, scope_name_contains, method, updates, learning_rate) in
            (number(), text(), number(), any::<Option<u32>>(), any::<Option<f64>>()),
        (words, output_formats, destination, labels) in
            (option::of(vocabulary()), vec(number(), 0..4), text(), map()),
        (deadline, priority, window_source, (evaluate, evaluate_sampler, held_out)) in
            (option::of(time()), any::<i32>(), option::of(window()),
                (any::<Option<bool>>(), number(), vec(text(), 0..3))),
    ) -> UnlearnConceptRequest {
        UnlearnConceptRequest {
            request_id, base_model, concepts, concept_kind,
            key_steps: steps.map(|[start_step, end_step, iterations]| {
                KeySteps { start_step, end_step, iterations }
            }),
            seed, replacements, preserve, scope, scope_name_contains, method, updates,
            learning_rate, vocabulary: words, output_formats, destination, labels, deadline,
            priority, window_source, evaluate, evaluate_sampler, held_out, force: false,
            validate_only: false,
        }
    }
}

prop_compose! {
    fn suite()(
        (name, expects, columns) in (text(), number(), vec(text(), 0..2)),
        prompts in vec((text(), any::<u64>(), option::of(any::<f64>()), text(), text()), 0..3),
    ) -> Suite {
        let prompts = prompts.into_iter().map(|(prompt, seed, guidance_scale, object, style)| {
            SuitePrompt { prompt, seed, guidance_scale, object, style }
        });
        Suite { name, expects, prompts: prompts.collect(), columns }
    }
}

prop_compose! {
    fn probes()(
        (synonyms, translations) in (vec(text(), 0..3), vec(text(), 0..3)),
        descriptions in vec(text(), 0..3),
        (seeds, neighbours, seed) in any::<(Option<u32>, Option<u32>, Option<u64>)>(),
    ) -> Probes {
        Probes { synonyms, translations, descriptions, seeds, neighbours, seed }
    }
}

prop_compose! {
    fn other_requests()(
        (model, prompt, kind, words) in (text(), text(), number(), option::of(vocabulary())),
        (a, b, c, d) in any::<(Option<u32>, Option<u32>, Option<u32>, Option<u32>)>(),
        (scale, seed, seeds) in any::<(Option<f64>, Option<u64>, Vec<u64>)>(),
        (measures, scope, name, sampler) in (vec(number(), 0..3), number(), text(), number()),
        (labels, deadline, priority) in (map(), option::of(time()), any::<i32>()),
        (init_image, strength) in (vec(any::<u8>(), 0..40), option::of(any::<f64>())),
        (suites, probes) in (vec(suite(), 0..3), option::of(probes())),
    ) -> (EvaluateErasureRequest, ScoreTimestepsRequest, GenerateRequest) {
        let evaluate = EvaluateErasureRequest {
            request_id: name.clone(), base_model: model.clone(), edited_model: name.clone(),
            concept: prompt.clone(), concept_kind: kind, vocabulary: words.clone(),
            target_seeds: a, retain_seeds: b, steps: c, guidance_scale: scale, seed, labels,
            deadline, priority, force: false, validate_only: false, destination: model.clone(),
            sampler, show: strength, distances: d.is_some(), suites, probes,
            judges: Vec::new(),
            attacks: vec![Attack { name: kind, guided: true, budget: seed, seed, pictures: a }],
        };
        let score = ScoreTimestepsRequest {
            model: model.clone(), concept: prompt.clone(), concept_kind: kind, steps: a,
            guidance_scale: scale, trajectories: b, seed, measures, scope, vocabulary: words,
            scope_name_contains: name.clone(),
        };
        let generate = GenerateRequest {
            model, prompt, negative_prompt: name, steps: a, guidance_scale: scale, width: b,
            height: c, seeds, count: d, sampler, preview_every_steps: a.unwrap_or(0), init_image,
            strength,
        };
        (evaluate, score, generate)
    }
}

proptest! {
    #[test]
    fn no_erasure_panics_and_violations_name_fields(request in unlearn_requests()) {
        let settings = settings();
        let read = UnlearnDraft::read(request, limits(&settings));
        if let Some(draft) = check(read, "UnlearnConceptRequest") {
            check(draft.complete(&entry(), None), "UnlearnConceptRequest");
        }
    }

    #[test]
    fn no_other_request_panics(requests in other_requests()) {
        let settings = settings();
        let (evaluate, score, generate) = requests;
        let read = EvaluateDraft::read(evaluate, limits(&settings));
        if let Some(draft) = check(read, "EvaluateErasureRequest") {
            check(draft.complete(&entry(), &entry()), "EvaluateErasureRequest");
        }
        let read = ScoreDraft::read(score, limits(&settings));
        if let Some(draft) = check(read, "ScoreTimestepsRequest") {
            prop_assert!(draft.complete(Some(words())).validate().is_ok());
        }
        if let Some(draft) = check(DrawingDraft::read(generate, limits(&settings)), "GenerateRequest") {
            prop_assert!(draft.spec.pictures.len() <= 4);
        }
    }
}
