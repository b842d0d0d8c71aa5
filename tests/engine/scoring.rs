//! Scoring on the built-in model through the public API: what a record holds, what a seed decides,
//! and what the switch curve must look like at its ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::sync::LazyLock;

use keystep::{
    engine::{CancelFlag, CandleEngine, EngineError, RunContext},
    outcome::{Estimate, Phase, TimestepScores},
    spec::{Concept, ConceptKind, ScoreSpec, StepIndex, Vocabulary},
};

use crate::altered_model::AlteredModel;

/// Pictures are looked at, for which they must be of their own size.
static ENGINE: LazyLock<CandleEngine> = LazyLock::new(|| AlteredModel::builtin().load());
static SMALL: LazyLock<CandleEngine> = LazyLock::new(|| AlteredModel::small().load());

/// Without the curve; several tests look at it.
static PLAIN: LazyLock<TimestepScores> = LazyLock::new(|| score(&spec()));
/// With the curve, on enough steps to draw a cat.
static CURVE: LazyLock<TimestepScores> = LazyLock::new(|| score(&curve_spec()));

fn try_score(spec: &ScoreSpec) -> Result<TimestepScores, EngineError> {
    let mut report = |_| {};
    let mut context = RunContext::reporting(&mut report);
    let engine = if spec.switch_curve { &ENGINE } else { &SMALL };
    engine.score_timesteps(spec, &mut context)
}

fn score(spec: &ScoreSpec) -> TimestepScores {
    try_score(spec).unwrap()
}

fn spec() -> ScoreSpec {
    ScoreSpec {
        steps: 6,
        trajectories: 3,
        switch_curve: false,
        seed: 3,
        ..ScoreSpec::new(Concept::new("cat", ConceptKind::Object), ENGINE.vocabulary().clone())
    }
}

fn curve_spec() -> ScoreSpec {
    ScoreSpec { steps: 12, switch_curve: true, gradient_share: false, ..spec() }
}

fn assert_sound(estimate: Estimate) {
    assert!(estimate.mean.is_finite() && estimate.mean >= 0.0, "{estimate:?}");
    assert!(estimate.standard_error.is_finite() && estimate.standard_error >= 0.0, "{estimate:?}");
}

#[test]
fn there_is_one_sound_record_a_step_in_order() {
    for (scores, steps) in [(&*PLAIN, 6), (&*CURVE, 12)] {
        assert_eq!(scores.steps.len(), steps);
        for (index, record) in scores.steps.iter().enumerate() {
            assert_eq!(record.step, StepIndex(index));
            assert_sound(record.guidance_energy);
            assert_sound(record.guidance_effect);
            assert!(record.guidance_energy.mean > 0.0);
            for estimate in [record.concept_until, record.concept_from, record.gradient_share] {
                estimate.into_iter().for_each(assert_sound);
            }
        }
        assert!(scores.steps.is_sorted_by(|a, b| a.timestep > b.timestep && a.log_snr < b.log_snr));
    }
    assert!(PLAIN.steps.iter().all(|step| step.gradient_share.is_some()));
    assert!(PLAIN.steps.iter().all(|step| step.concept_until.is_none()));
    assert!(CURVE.steps.iter().all(|step| step.gradient_share.is_none()));
}

#[test]
fn the_window_lies_on_the_schedule() {
    for scores in [&*PLAIN, &*CURVE] {
        let (first, last) = scores.window_steps;
        assert!(first <= last && last.0 < scores.steps.len());
        let level = |step: StepIndex| scores.steps[step.0].log_snr;
        assert_eq!((scores.window.low.to_bits(), scores.window.high.to_bits()), {
            (level(first).to_bits(), level(last).to_bits())
        });
        for record in &scores.steps {
            let inside = (first..=last).contains(&record.step);
            assert_eq!(scores.window.contains(record.log_snr), inside);
        }
        // What the rule says, counted anew: no shorter band holds as much.
        let effects: Vec<f64> = scores.steps.iter().map(|step| step.guidance_effect.mean).collect();
        let enough = 0.7 * effects.iter().sum::<f64>();
        assert!(effects[first.0..=last.0].iter().sum::<f64>() >= enough);
        let length = last.0 - first.0;
        assert!(
            length == 0 || effects.windows(length).all(|band| band.iter().sum::<f64>() < enough)
        );
    }
}

#[test]
fn scores_survive_json() {
    for scores in [&*PLAIN, &*CURVE] {
        let json = serde_json::to_string(scores).unwrap();
        assert_eq!(serde_json::from_str::<TimestepScores>(&json).unwrap(), *scores);
    }
}

#[test]
fn the_seed_decides_every_number() {
    LazyLock::force(&ENGINE);
    LazyLock::force(&SMALL);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| score(&spec())), *PLAIN, "on {threads} threads");
    }
    let other = score(&ScoreSpec { seed: 4, ..spec() });
    for (one, other) in PLAIN.steps.iter().zip(&other.steps) {
        assert_ne!(one.guidance_energy, other.guidance_energy);
        assert_ne!(one.gradient_share, other.gradient_share);
    }
}

#[test]
fn evaluations_are_what_was_predicted() {
    // A step: concept, anchor and empty prompt on one path, neighbour and empty prompt on another,
    // and two losses for the gradient share, on three trajectories each.
    assert_eq!(PLAIN.unet_evaluations, 6 * 3 * (3 + 2 + 2));
    let without = score(&ScoreSpec { gradient_share: false, ..spec() });
    assert_eq!(without.unet_evaluations, 6 * 3 * 3);
    assert_eq!(without.window, PLAIN.window);
    // The curve: at every second of 12 steps a branch leaves either trunk, so that two steps are
    // walked by 2, 3, … 7 paths of each kind; with the concept guided, without it not.
    let paths: u64 = 2 * (2..=7).sum::<u64>();
    assert_eq!(CURVE.unet_evaluations, 12 * 3 * 3 + 3 * paths * (2 + 1));
}

#[test]
fn the_switch_curve_goes_from_nothing_to_the_concept() {
    let point = |index: usize| {
        let step = &CURVE.steps[index];
        (step.concept_until.unwrap().mean, step.concept_from.unwrap().mean)
    };
    for (index, step) in CURVE.steps.iter().enumerate() {
        assert_eq!(step.concept_until.is_some(), index % 2 == 0, "step {index}");
        assert_eq!(step.concept_from.is_some(), index % 2 == 0, "step {index}");
        for estimate in [step.concept_until, step.concept_from].into_iter().flatten() {
            assert!(estimate.mean <= 1.0);
        }
    }
    let (never, always) = point(0);
    assert!(always > 0.8, "named from the first step on: {always}");
    assert!(never < 0.3, "never named: {never}");
    let (nearly_always, nearly_never) = point(10);
    assert!(nearly_always > 0.8, "named until the last steps: {nearly_always}");
    assert!(nearly_never < 0.3, "named in the last steps alone: {nearly_never}");
    assert_eq!(score(&curve_spec()), *CURVE);
}

#[test]
fn words_in_another_order_are_the_same_words() {
    let Vocabulary { anything, objects, styles } = ENGINE.vocabulary().clone();
    // The curve's prompts hold no other word, so that its points can be compared.
    let shuffled = Vocabulary { anything, objects: objects.into_iter().rev().collect(), styles };
    let other = score(&ScoreSpec { vocabulary: shuffled, ..curve_spec() });
    for (one, other) in CURVE.steps.iter().zip(&other.steps) {
        for (one, other) in
            [(one.concept_until, other.concept_until), (one.concept_from, other.concept_from)]
        {
            let difference = one.map_or(0.0, |one| one.mean) - other.map_or(0.0, |one| one.mean);
            assert!(difference.abs() < 1e-4, "{one:?} {other:?}");
        }
    }
}

#[test]
fn a_word_that_the_judge_does_not_know_is_reported() {
    let mut vocabulary = ENGINE.vocabulary().clone();
    vocabulary.objects.push("zebra".into());
    let concept = Concept::new("zebra", ConceptKind::Object);
    let zebra = ScoreSpec { concept, vocabulary, steps: 4, ..curve_spec() };
    let error = try_score(&zebra).unwrap_err();
    assert!(matches!(error, EngineError::Spec(_)), "{error}");
    assert!(error.to_string().contains("does not know \"zebra\""), "{error}");
    assert_eq!(score(&ScoreSpec { switch_curve: false, ..zebra }).steps.len(), 4);
}

#[test]
fn a_cancelled_scoring_stops_wherever_it_is() {
    for (phase, spec) in
        [(Phase::Walk, spec()), (Phase::Score, spec()), (Phase::SwitchCurve, curve_spec())]
    {
        let cancel = CancelFlag::default();
        let seen = cancel.clone();
        let mut report = |progress: keystep::outcome::Progress| {
            assert!(!seen.is_cancelled(), "work after the flag in {phase:?}");
            if progress.phase == phase && progress.done == 1 {
                seen.cancel();
            }
        };
        let mut context = RunContext { report: &mut report, cancel, saving: None };
        let result = ENGINE.score_timesteps(&spec, &mut context);
        assert!(matches!(result, Err(EngineError::Cancelled)), "in {phase:?}");
    }
}
