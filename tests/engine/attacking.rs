//! Attacks on the built-in model through the public API: an attack finds what was never erased, the
//! same bytes come again, a budget that ends says so, and what cannot be attacked is refused first.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::sync::LazyLock;

use keystep::{
    engine::{CancelFlag, CandleEngine, EngineError, RunContext},
    outcome::{AttackResult, JudgeReport, Phase, Progress, Share},
    spec::{AttackName, AttackSpec, Concept, ConceptKind, JudgeSpec, Vocabulary},
};
use serde_json::json;

use crate::altered_model::AlteredModel;

/// Of few pixels: its pictures are noise, and its passes cheap.
static SMALL: LazyLock<CandleEngine> = LazyLock::new(|| AlteredModel::small().load());

fn vocabulary() -> Vocabulary {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Vocabulary {
        anything: "emoji".to_owned(),
        objects: words(&["cat", "car", "tree"]),
        styles: words(&["flat", "neon"]),
    }
}

fn attack(attack: AttackName) -> AttackSpec {
    AttackSpec { pictures: 2, ..AttackSpec::new(attack) }
}

fn guided(budget: u64) -> AttackSpec {
    AttackSpec { guided: true, budget, ..attack(AttackName::ConceptInversion) }
}

fn spec(attacks: Vec<AttackSpec>) -> JudgeSpec {
    let concept = Concept::new("cat", ConceptKind::Object);
    JudgeSpec {
        target_seeds: 1,
        steps: 4,
        guidance_scale: 3.0,
        attacks,
        ..JudgeSpec::new(concept, vocabulary())
    }
}

fn judge(
    base: &CandleEngine,
    edited: &CandleEngine,
    spec: &JudgeSpec,
) -> Result<(JudgeReport, Vec<Progress>), EngineError> {
    let mut progress = Vec::new();
    let mut report = |event| progress.push(event);
    let mut context =
        RunContext { report: &mut report, cancel: CancelFlag::default(), saving: None };
    let judged = base.judge(spec, edited, &mut context)?;
    Ok((judged, progress))
}

fn attacked(base: &CandleEngine, edited: &CandleEngine, spec: &JudgeSpec) -> Vec<AttackResult> {
    judge(base, edited, spec).unwrap().0.evaluation.attacks
}

/// What is said of the sharpest judge, which the folder lists last.
fn by_cnn(results: &[AttackResult], attack: AttackName) -> &AttackResult {
    results.iter().rev().find(|result| result.attack == attack && result.judge == "cnn").unwrap()
}

#[test]
fn every_attack_counts_pictures_by_every_judge_and_comes_to_the_same_again() {
    let attacks = vec![
        attack(AttackName::Completion),
        attack(AttackName::ImageToImage),
        attack(AttackName::Inpainting),
        AttackSpec { budget: 120, ..attack(AttackName::Noise) },
        guided(400),
        AttackSpec { budget: 300, ..attack(AttackName::ConceptInversion) },
        AttackSpec { budget: 1_600, ..attack(AttackName::UnlearnDiffAtk) },
        AttackSpec { budget: 500, ..attack(AttackName::P4d) },
        attack(AttackName::RingABell),
    ];
    let spec = spec(attacks);
    let (report, progress) = judge(&SMALL, &SMALL, &spec).unwrap();
    let results = &report.evaluation.attacks;
    assert_eq!(results.len(), 2 * spec.attacks.len());
    for (index, result) in results.iter().enumerate() {
        let asked = &spec.attacks[index / 2];
        assert_eq!((result.attack, result.variant.as_str()), (asked.attack, asked.variant()));
        let spent = result.forward_evaluations + result.backward_evaluations;
        assert!(spent > 0 && spent <= asked.budget, "{result:?}");
        assert_eq!((result.plain.of, result.attacked.of), (2, 2), "{result:?}");
        assert_eq!(result.ceiling.map(|share| share.of), Some(2), "{result:?}");
        assert_eq!(result.false_alarms.map(|share| share.of), Some(2), "{result:?}");
        assert!(!result.curve.is_empty(), "{result:?}");
        // One that succeeds at once searches no further.
        let searches = result.backward_evaluations > 0;
        let is_prompt = matches!(result.attack, AttackName::UnlearnDiffAtk | AttackName::P4d);
        let needs_no_gradient = matches!(
            result.attack,
            AttackName::Completion
                | AttackName::RingABell
                | AttackName::ImageToImage
                | AttackName::Inpainting
                | AttackName::Noise
        );
        assert!(is_prompt || searches != needs_no_gradient, "{result:?}");
    }
    for result in results {
        let has_enough = match result.attack {
            // It ends where every judge has seen every picture.
            AttackName::Noise => result.finished,
            AttackName::Completion
            | AttackName::ImageToImage
            | AttackName::Inpainting
            | AttackName::UnlearnDiffAtk
            | AttackName::RingABell => true,
            _ => false,
        };
        assert_eq!(result.finished, has_enough, "{result:?}");
    }
    // Both models are one: nothing is drawn with completion that is not drawn without.
    let completion = by_cnn(results, AttackName::Completion);
    assert_eq!(completion.curve.len(), 3);
    assert!(completion.curve.iter().all(|point| point.attacked == completion.plain));
    assert_eq!(completion.ceiling, Some(completion.plain));

    let phases = progress.iter().filter(|event| event.phase == Phase::Attack);
    let done: Vec<_> = phases.map(|event| (event.done, event.total)).collect();
    assert!(done.is_sorted() && done.iter().all(|(done, total)| done <= total));
    let total = spec.attacks.len() * 3 * 1_000;
    assert_eq!(done.last(), Some(&(total, total)));

    // Other threads, the same bytes.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let again = pool.install(|| judge(&SMALL, &SMALL, &spec).unwrap().0);
    assert_eq!(&again.evaluation.attacks, results);
    assert_eq!(again.unet_evaluations, report.unet_evaluations);
    let without = JudgeSpec { attacks: Vec::new(), ..spec };
    let grid = judge(&SMALL, &SMALL, &without).unwrap().0;
    assert_eq!(grid.verdicts, report.verdicts);
    assert!(grid.unet_evaluations < report.unet_evaluations);
}

#[test]
fn a_budget_that_buys_nothing_decides_nothing() {
    let attacks = [
        AttackName::ConceptInversion,
        AttackName::Completion,
        AttackName::Noise,
        AttackName::ImageToImage,
        AttackName::Inpainting,
        AttackName::RelearningFewShot,
    ];
    let attacks = attacks.map(|name| AttackSpec { budget: 1, ..attack(name) });
    for result in attacked(&SMALL, &SMALL, &spec(attacks.to_vec())) {
        assert!(!result.finished, "{result:?}");
        assert_eq!((result.attacked, result.ceiling), (Share::default(), None), "{result:?}");
        assert_eq!((result.forward_evaluations, result.backward_evaluations), (0, 0));
        assert_eq!(result.plain.of, 2);
    }
}

#[test]
fn an_attack_stops_where_it_is_cancelled() {
    let cancel = CancelFlag::default();
    let flag = cancel.clone();
    let mut seen = 0;
    let mut report = |event: Progress| {
        if event.phase == Phase::Attack {
            seen += 1;
            flag.cancel();
        }
    };
    let mut context = RunContext { report: &mut report, cancel, saving: None };
    let asked = spec(vec![guided(4_000)]);
    let stopped = SMALL.judge(&asked, &SMALL, &mut context);
    assert!(matches!(stopped, Err(EngineError::Cancelled)), "{stopped:?}");
    assert_eq!(seen, 1);
}

#[test]
fn what_cannot_be_attacked_is_refused_before_any_work() {
    let larger = AlteredModel::builtin();
    let larger = larger.with_json("unet/config.json", |config| config["sample_size"] = json!(24));
    let other = larger.load();
    let asked = spec(vec![attack(AttackName::Completion)]);
    let mut reports = 0;
    let mut report = |_| reports += 1;
    let mut context =
        RunContext { report: &mut report, cancel: CancelFlag::default(), saving: None };
    let refused = SMALL.judge(&asked, &other, &mut context).unwrap_err().to_string();
    assert!(
        refused.contains("edited_model") && refused.contains("another architecture"),
        "{refused}"
    );
    let short = JudgeSpec { steps: 3, ..asked };
    let refused = SMALL.judge(&short, &SMALL, &mut context).unwrap_err().to_string();
    assert!(refused.starts_with("steps: 3 leaves the edited model no step"), "{refused}");
    let alone = JudgeSpec {
        vocabulary: Vocabulary { objects: vec!["cat".to_owned()], ..vocabulary() },
        ..spec(vec![attack(AttackName::RelearningBenign)])
    };
    let refused = SMALL.judge(&alone, &SMALL, &mut context).unwrap_err().to_string();
    assert!(refused.contains("no word beside the concept"), "{refused}");
    assert_eq!(reports, 0);
}

#[test]
fn a_training_is_held_to_what_it_may_cost_and_counts_its_updates() {
    let base = AlteredModel::builtin().load();
    let attacks = [AttackName::RelearningBenign, AttackName::RelearningFewShot];
    let attacks = attacks.map(|name| AttackSpec { budget: 250, ..attack(name) });
    let words = base.vocabulary();
    let first = |words: &[String], most: usize| words.iter().take(most).cloned().collect();
    let mut objects: Vec<String> = first(&words.objects, 5);
    if !objects.iter().any(|word| word == "cat") {
        objects.push("cat".to_owned());
    }
    let styles = first(&words.styles, 3);
    let vocabulary = Vocabulary { objects, styles, ..words.clone() };
    let asked = JudgeSpec { vocabulary, ..spec(attacks.to_vec()) };
    let results = attacked(&base, &base, &asked);
    assert_eq!(results.len(), 4);
    for result in &results {
        assert!(result.forward_evaluations + result.backward_evaluations <= 250, "{result:?}");
        assert!(result.backward_evaluations.is_multiple_of(8), "{result:?}");
        // Nobody erased anything, and the training's own model is the ceiling's.
        assert_eq!(result.ceiling.unwrap_or_default(), result.attacked, "{result:?}");
        assert!(result.curve.iter().all(|point| [5, 10].contains(&point.step)), "{result:?}");
        let counts = result.attack == AttackName::RelearningFewShot;
        assert!(counts || result.control_first_success.is_none(), "{result:?}");
    }
}

#[test]
fn what_was_never_erased_is_found() {
    let base = AlteredModel::builtin().load();
    let attacks = [AttackName::Completion, AttackName::ImageToImage, AttackName::Inpainting];
    let attacks = attacks.map(|name| AttackSpec { pictures: 6, ..AttackSpec::new(name) });
    let asked = JudgeSpec { steps: 10, guidance_scale: 5.0, ..spec(attacks.to_vec()) };
    let results = attacked(&base, &base, &asked);
    for result in results.iter().filter(|result| result.judge == "cnn") {
        assert!(result.ceiling.unwrap().rate() > 0.8, "{result:?}");
        assert!(result.plain.rate() > 0.8 && result.attacked.rate() > 0.8, "{result:?}");
        assert!(result.finished && result.first_success.is_some(), "{result:?}");
    }
}
