//! What a plan says against what the runs then spend.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::sync::LazyLock;

use keystep::{
    engine::{CandleEngine, EngineError, RunContext, plan},
    outcome::Plan,
    spec::{
        Concept, ConceptKind, EsdSettings, KeySteps, KeystepSettings, KscuSettings, LogSnrWindow,
        Method, Scope, UnlearnSpec,
    },
};

use crate::altered_model::AlteredModel;

static ENGINE: LazyLock<CandleEngine> = LazyLock::new(|| AlteredModel::small().load());

fn planned(spec: &UnlearnSpec) -> Plan {
    plan(&AlteredModel::small(), spec, None).unwrap()
}

fn spec(method: Method, scope: Scope) -> UnlearnSpec {
    UnlearnSpec {
        concepts: ["cat", "dog"].map(|text| Concept::new(text, ConceptKind::Object)).to_vec(),
        method,
        scope,
        preserve: Vec::new(),
        vocabulary: ENGINE.vocabulary().clone(),
        seed: 5,
    }
}

fn keystep(updates: usize) -> KeystepSettings {
    KeystepSettings {
        key_steps: KeySteps::Window(LogSnrWindow { low: -9.0, high: -1.0 }),
        updates,
        schedule_steps: 4,
        concept_trajectories: 2,
        anchor_trajectories: 1,
        preserve_trajectories: 3,
        erase_batch: 2,
        preserve_batch: 1,
        stop_below: -100.0,
        ..KeystepSettings::default()
    }
}

/// Runs it, and holds every count of the plan against the run's own.
fn assert_exact(spec: &UnlearnSpec) {
    let plan = planned(spec);
    let mut report = |_| {};
    let mut context = RunContext::reporting(&mut report);
    let erased = ENGINE.unlearn(spec, &mut context).unwrap();
    assert_eq!(plan.updates, erased.log.updates.len());
    assert_eq!(plan.check_evaluations, erased.log.check_evaluations);
    assert_eq!(plan.trainable_tensors, erased.edited.len());
    let numbers = |name| erased.tensors.tensors[name].tensor.elem_count() as u64;
    assert_eq!(plan.trainable_parameters, erased.edited.iter().map(numbers).sum::<u64>());
    let scored: u64 = erased.scores.iter().map(|scores| scores.unet_evaluations).sum();
    assert_eq!(plan.score_evaluations, scored);
    if plan.window_assumed {
        assert!(plan.unet_evaluations >= erased.log.unet_evaluations);
    } else {
        assert_eq!(plan.unet_evaluations, erased.log.unet_evaluations);
    }
}

#[test]
fn a_plan_counts_what_the_runs_spend() {
    // With one look at the erase measure on the way.
    assert_exact(&spec(Method::Keystep(keystep(21)), Scope::CrossAttention));
    let (preset, _) = KscuSettings::preset(ConceptKind::Object, false);
    let settings = KscuSettings {
        updates: 9,
        first_key_step: 1,
        loop_n: 1,
        schedule_steps: 4,
        learning_rate: 1e-4,
        ..preset
    };
    assert_exact(&spec(Method::Kscu(settings), Scope::NonCrossAttention));
    let settings = EsdSettings {
        updates: 6,
        schedule_steps: 8,
        learning_rate: 1e-3,
        ..EsdSettings::default()
    };
    let mut replacing = spec(Method::Esd(settings), Scope::CrossAttention);
    replacing.concepts[1].replacement = Some("fish".to_owned());
    assert_exact(&replacing);
}

#[test]
fn a_window_that_is_yet_to_be_measured_is_assumed_to_be_wide() {
    let settings = KeystepSettings { key_steps: KeySteps::Measured, ..keystep(4) };
    let measured = spec(Method::Keystep(settings), Scope::CrossAttention);
    let plan = planned(&measured);
    assert!(plan.window_assumed);
    let given = planned(&spec(Method::Keystep(keystep(4)), Scope::CrossAttention));
    assert!(!given.window_assumed && given.score_evaluations == 0);
    assert!(plan.unet_evaluations > given.unet_evaluations);
    // Two concepts, 8 trajectories, 20 steps, 3 prompts.
    assert_eq!(plan.score_evaluations, 2 * 8 * 20 * 3);
}

#[test]
fn memory_is_the_sum_of_its_parts() {
    let plan = planned(&spec(Method::Keystep(keystep(4)), Scope::All));
    let memory = plan.memory_bytes;
    let parts = [
        memory.program, memory.weights, memory.trainable, memory.optimiser, memory.gradients,
        memory.activations, memory.bank, memory.margin,
    ];
    assert!(parts.iter().all(|part| *part > 0), "{memory:?}");
    assert_eq!(memory.total, parts.iter().sum::<u64>());
    assert_eq!(memory.trainable, 4 * plan.trainable_parameters);
    assert_eq!(memory.optimiser, 8 * plan.trainable_parameters);
}

#[test]
fn a_scope_without_a_tensor_is_refused() {
    let asked = spec(Method::Keystep(keystep(4)), Scope::NameContains("no_such_layer".into()));
    let error = plan(&AlteredModel::small(), &asked, None).unwrap_err();
    assert!(matches!(error, EngineError::EmptyScope { .. }), "{error}");
}
