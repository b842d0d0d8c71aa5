//! Suites of prompts and probes on the built-in model, judged beside the grid.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::collections::BTreeMap;

use keystep::{
    artifacts::open_model,
    engine::{
        CancelFlag, CandleEngine, EngineError, RunContext, check_judgement_words,
        evaluate::{NoPictures, PictureStore, PicturesInMemory},
    },
    outcome::{JudgeReport, PairedDrop, Phase, Progress, Share, SuiteResult},
    spec::{
        Concept, ConceptKind, Expectation, JudgeSpec, ProbesSpec, Suite, SuitePrompt, Vocabulary,
    },
};

fn builtin() -> CandleEngine {
    CandleEngine::load(open_model("builtin:emoji-canvas").unwrap().as_ref(), None).unwrap()
}

/// Two cells of one picture each, a step a picture.
fn small() -> JudgeSpec {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let vocabulary = Vocabulary {
        anything: "emoji".to_owned(),
        objects: words(&["cat", "dog", "rocket"]),
        styles: words(&["neon"]),
    };
    let concept = Concept::new("cat", ConceptKind::Object);
    let spec = JudgeSpec::new(concept, vocabulary);
    JudgeSpec { target_seeds: 1, steps: 1, guidance_scale: 1.0, ..spec }
}

fn prompt(prompt: &str, seed: u64) -> SuitePrompt {
    SuitePrompt { prompt: prompt.to_owned(), seed, ..SuitePrompt::default() }
}

fn suite(name: &str, prompts: Vec<SuitePrompt>) -> Suite {
    Suite { name: name.to_owned(), prompts, ..Suite::default() }
}

/// A model judged against itself.
fn judge(
    engine: &CandleEngine,
    spec: &JudgeSpec,
    store: &mut dyn PictureStore,
) -> (Result<JudgeReport, EngineError>, Vec<Progress>) {
    let mut reports = Vec::new();
    let mut report = |progress| reports.push(progress);
    let mut context =
        RunContext { report: &mut report, cancel: CancelFlag::default(), saving: None };
    let judged = engine.judge_keeping(spec, engine, store, &mut context);
    (judged, reports)
}

fn judged(engine: &CandleEngine, spec: &JudgeSpec) -> JudgeReport {
    judge(engine, spec, &mut NoPictures).0.unwrap()
}

fn violation(judged: Result<JudgeReport, EngineError>) -> (String, String) {
    let Err(EngineError::Spec(error)) = judged else { panic!("{:?}", judged.map(drop)) };
    let first = error.violations.into_iter().next().unwrap();
    (first.field.to_string(), first.message)
}

#[test]
fn every_suite_is_drawn_and_counted_by_every_judge() {
    let engine = builtin();
    let guided = SuitePrompt { guidance_scale: Some(2.0), ..prompt("a cat", 5) };
    let found = Suite {
        columns: vec!["prompt".to_owned()],
        ..suite("found", vec![prompt("a cat", 3), guided, prompt("a cat", 4)])
    };
    let dog = SuitePrompt { object: Some("Dog".to_owned()), ..prompt("a dog", 1) };
    let kept = Suite { expects: Expectation::Kept, ..suite("kept", vec![dog]) };
    let spec = JudgeSpec { suites: vec![found.clone(), kept], ..small() };
    let mut store = PicturesInMemory::default();
    let (first, reports) = judge(&engine, &spec, &mut store);
    let first = first.unwrap();
    let results = &first.evaluation.suites;
    let judges: Vec<_> = first.verdicts.iter().map(|verdict| &verdict.judge).collect();
    assert_eq!(results.len(), 2 * judges.len());
    for (result, judge) in results.iter().zip(judges.iter().cycle()) {
        assert_eq!((&result.judge, result.concept.as_str()), (*judge, "cat"));
        // The same model twice: nothing is lost.
        let count = if result.suite == "found" { 3 } else { 1 };
        assert_eq!(result.named.base, result.named.edited);
        assert_eq!(result.named.base.of, count);
        assert_eq!(result.named.drop, PairedDrop { of: count, ..PairedDrop::default() });
        let Share { count, of } = result.named.base;
        assert_eq!(result.applicable, 2 * count >= of);
    }
    assert_eq!(results[0].sha256, found.sha256().unwrap());
    assert_eq!((results[0].expects, &results[0].columns), (Expectation::Gone, &found.columns));
    assert_eq!(results[judges.len()].expects, Expectation::Kept);

    // Three cells and three pictures without guidance, and one with it, by both models.
    assert_eq!((first.unet_evaluations, first.kept_evaluations), (2 * (3 + 3 + 2), 0));
    let draws = reports.iter().filter(|progress| progress.phase == Phase::Draw);
    let of_suites: Vec<_> = draws.filter(|progress| progress.total == 8).collect();
    assert!(of_suites.iter().all(|progress| progress.done <= 8), "{of_suites:?}");
    assert!(of_suites.is_sorted_by_key(|progress| progress.done), "{of_suites:?}");
    assert_eq!(of_suites.last().unwrap().done, 8);

    // The base model's pictures are drawn once, and the report is the same.
    let again = judge(&engine, &spec, &mut store).0.unwrap();
    assert_eq!(again.kept_evaluations, 8);
    assert!(JudgeReport { kept_evaluations: 0, ..again } == first);
}

#[test]
fn a_suite_that_the_base_does_not_draw_proves_nothing() {
    let engine = builtin();
    let of = |text: &str| (0..8).map(|seed| prompt(text, seed)).collect();
    let rockets = (0..8)
        .map(|seed| SuitePrompt { object: Some("rocket".into()), ..prompt("a rocket", seed) })
        .collect();
    let suites = vec![
        suite("asked", of("a cat in neon style")),
        suite("unasked", of("a rocket in neon style")),
        Suite { expects: Expectation::Kept, ..suite("kept", rockets) },
    ];
    let spec = JudgeSpec { suites, steps: 8, guidance_scale: 5.0, ..small() };
    let judged = judged(&engine, &spec);
    let sharpest = &judged.verdicts.last().unwrap().judge;
    let results = judged.evaluation.suites.iter().filter(|result| result.judge == *sharpest);
    let applicable: Vec<_> = results.map(|it| (it.suite.as_str(), it.applicable)).collect();
    assert_eq!(applicable, [("asked", true), ("unasked", false), ("kept", true)]);
}

#[test]
fn what_cannot_be_drawn_is_refused_before_the_first_picture() {
    let engine = builtin();
    let long = "cat ".repeat(40);
    let prompts = vec![prompt("a cat", 0), prompt(&long, 0), prompt("a cat", 1), prompt(&long, 1)];
    let suites = vec![suite("fits", vec![prompt("a cat", 0)]), suite("long", prompts)];
    let spec = JudgeSpec { suites, ..small() };
    let (refused, reports) = judge(&engine, &spec, &mut NoPictures);
    let (field, message) = violation(refused);
    assert_eq!(field, "suites[1]");
    assert!(message.starts_with("prompt 2 has 42 tokens"), "{message}");
    assert!(message.ends_with("2 of 4 prompts: 2, 4"), "{message}");
    assert!(reports.is_empty(), "{reports:?}");
    // The same from the folder alone.
    let files = open_model("builtin:emoji-canvas").unwrap();
    assert!(check_judgement_words(files.as_ref(), &spec).is_err());

    for (field, probes) in [
        ("probes.synonyms[0]", ProbesSpec { synonyms: vec![long.clone()], ..Default::default() }),
        (
            "probes.descriptions[1]",
            ProbesSpec { descriptions: vec!["purrs".into(), long], ..Default::default() },
        ),
    ] {
        let spec = JudgeSpec { probes: Some(probes), ..small() };
        let (refused, reports) = judge(&engine, &spec, &mut NoPictures);
        assert_eq!(violation(refused).0, field);
        assert!(reports.is_empty());
    }
}

#[test]
fn probes_are_suites_of_their_own() {
    let engine = builtin();
    let probes = ProbesSpec {
        synonyms: vec!["Kitty".to_owned(), "tom".to_owned()],
        translations: vec!["gato".to_owned()],
        descriptions: vec!["an animal that purrs".to_owned()],
        seeds: 1,
        neighbours: 3,
        seed: 9,
    };
    let spec = JudgeSpec { probes: Some(probes.clone()), ..small() };
    let first = judged(&engine, &spec);
    let judge = &first.verdicts[0].judge;
    let of = |report: &JudgeReport| -> Vec<SuiteResult> {
        let suites = report.evaluation.suites.iter();
        suites.filter(|suite| suite.judge == *judge).cloned().collect()
    };
    let counted: BTreeMap<_, _> =
        of(&first).into_iter().map(|suite| (suite.suite, suite.named.base.of)).collect();
    // Words that the small tokenizer takes apart do not all fit.
    for (name, least, most) in [
        ("templates", 10, 10),
        ("plural", 10, 10),
        ("synonyms", 2, 2),
        ("neighbours", 3, 3),
        ("misspellings", 8, 8),
        ("homoglyphs", 4, 4),
        ("translations", 1, 1),
        ("dilution", 2, 6),
        ("descriptions", 1, 1),
    ] {
        let count = counted.get(name).copied().unwrap_or(0);
        assert!((least..=most).contains(&count), "{name}: {counted:?}");
    }
    assert_eq!(counted.len(), 9);
    // The same seed asks in the same words, another one does not.
    let digest = |report: &JudgeReport, name: &str| {
        of(report).into_iter().find(|suite| suite.suite == name).unwrap().sha256
    };
    assert!(judged(&engine, &spec) == first);
    let other = ProbesSpec { seed: 10, ..probes };
    let other = judged(&engine, &JudgeSpec { probes: Some(other), ..small() });
    assert_ne!(digest(&other, "misspellings"), digest(&first, "misspellings"));
}

#[test]
fn suites_count_for_memory_and_can_be_cancelled() {
    let engine = builtin();
    let prompts = |count| (0..count).map(|seed| prompt("a cat", seed)).collect::<Vec<_>>();
    let with = |count| JudgeSpec { suites: vec![suite("some", prompts(count))], ..small() };
    let memory = |spec: &JudgeSpec| engine.judgement_memory(spec).unwrap().work;
    assert!(memory(&with(100)) > memory(&small()));
    // They are not all held at once.
    assert_eq!(memory(&with(128)), memory(&with(1_000)));

    let cancel = CancelFlag::default();
    let (stop, mut seen) = (cancel.clone(), 0);
    let mut report = |progress: Progress| {
        if progress.phase == Phase::Draw && progress.total == 600 {
            seen += 1;
            stop.cancel();
        }
    };
    let mut context = RunContext { report: &mut report, cancel, saving: None };
    let judged = engine.judge(&with(300), &engine, &mut context);
    assert!(matches!(judged, Err(EngineError::Cancelled)), "{:?}", judged.map(drop));
    assert!(seen > 0);
}
