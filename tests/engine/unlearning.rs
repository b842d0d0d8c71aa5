//! Erasing on the built-in model through the public API: the same bytes again, the right tensors,
//! a record of every update, and an error where nothing good can come of it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{collections::BTreeMap, sync::LazyLock};

use keystep::{
    artifacts::diffusers::UNET_WEIGHTS,
    engine::{CancelFlag, CandleEngine, EngineError, ErasedCheckpoint, RunContext},
    outcome::{Phase, Progress},
    spec::{
        Concept, ConceptKind, EsdSettings, KeySteps, KeystepSettings, KscuSettings, LogSnrWindow,
        Method, Scope, StepIndex, UnlearnSpec,
    },
};
use safetensors::SafeTensors;

use crate::altered_model::AlteredModel;

static ENGINE: LazyLock<CandleEngine> = LazyLock::new(load);

/// One short run of each method, which several tests look at.
static KEYSTEP: LazyLock<Run> = LazyLock::new(|| run(&keystep()));
static KSCU: LazyLock<Run> = LazyLock::new(|| run(&kscu()));
static ESD: LazyLock<Run> = LazyLock::new(|| run(&esd()));

/// A finished run and what it reported.
#[derive(Debug)]
struct Run {
    erased: ErasedCheckpoint,
    progress: Vec<Progress>,
}

impl Run {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.erased.write_unet(&mut bytes).unwrap();
        bytes
    }

    /// `(step, evaluations so far)` of every update.
    fn costs(&self) -> Vec<(usize, u64)> {
        let updates = self.erased.log.updates.iter();
        updates.map(|update| (update.step.0, update.unet_evaluations)).collect()
    }
}

fn load() -> CandleEngine {
    AlteredModel::small().load()
}

fn try_run(spec: &UnlearnSpec) -> Result<Run, EngineError> {
    let mut progress = Vec::new();
    let mut report = |event| progress.push(event);
    let mut context = RunContext::reporting(&mut report);
    let erased = ENGINE.unlearn(spec, &mut context)?;
    Ok(Run { erased, progress })
}

fn run(spec: &UnlearnSpec) -> Run {
    try_run(spec).unwrap()
}

/// A run on a pool of so many threads.
fn run_on(threads: usize, spec: &UnlearnSpec) -> Run {
    // Loaded outside of the pool, so that no thread of it waits for the loading.
    LazyLock::force(&ENGINE);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| run(spec))
}

fn spec(method: Method, scope: Scope) -> UnlearnSpec {
    UnlearnSpec {
        concepts: vec![Concept::new("cat", ConceptKind::Object)],
        method,
        scope,
        preserve: Vec::new(),
        vocabulary: ENGINE.vocabulary().clone(),
        seed: 7,
    }
}

/// Steps 0 and 1 of a schedule of four.
const WINDOW: LogSnrWindow = LogSnrWindow { low: -9.0, high: -1.0 };

fn keystep_settings() -> KeystepSettings {
    KeystepSettings {
        key_steps: KeySteps::Window(WINDOW),
        updates: 3,
        schedule_steps: 4,
        concept_trajectories: 2,
        anchor_trajectories: 1,
        preserve_trajectories: 3,
        // More than one pass of four, so that passes run side by side.
        erase_batch: 3,
        preserve_batch: 3,
        ..KeystepSettings::default()
    }
}

fn keystep() -> UnlearnSpec {
    spec(Method::Keystep(keystep_settings()), Scope::CrossAttention)
}

fn kscu_settings() -> KscuSettings {
    let (preset, _) = KscuSettings::preset(ConceptKind::Object, false);
    KscuSettings {
        updates: 5,
        first_key_step: 1,
        loop_n: 1,
        schedule_steps: 4,
        // The last two of five prompts are augmented.
        augmented_share: 0.4,
        learning_rate: 1e-4,
        ..preset
    }
}

fn kscu() -> UnlearnSpec {
    spec(Method::Kscu(kscu_settings()), Scope::NonCrossAttention)
}

fn esd_settings() -> EsdSettings {
    EsdSettings { updates: 4, schedule_steps: 4, learning_rate: 1e-3, ..EsdSettings::default() }
}

fn esd() -> UnlearnSpec {
    spec(Method::Esd(esd_settings()), Scope::CrossAttention)
}

fn assert_reproducible(reference: &Run, spec: &UnlearnSpec) {
    let bytes = reference.bytes();
    assert!(bytes == reference.bytes(), "writing twice gives other bytes");
    for threads in [1, 3] {
        let again = run_on(threads, spec);
        assert_eq!(again.erased.log, reference.erased.log, "on {threads} threads");
        assert!(bytes == again.bytes(), "other bytes on {threads} threads");
    }
    let other = run(&UnlearnSpec { seed: spec.seed + 1, ..spec.clone() });
    assert!(bytes != other.bytes(), "another seed gives the same bytes");
}

#[test]
fn keystep_gives_the_same_bytes_for_the_same_seed_on_any_number_of_threads() {
    assert_reproducible(&KEYSTEP, &keystep());
}

#[test]
fn kscu_gives_the_same_bytes_for_the_same_seed_on_any_number_of_threads() {
    assert_reproducible(&KSCU, &kscu());
}

#[test]
fn esd_gives_the_same_bytes_for_the_same_seed_on_any_number_of_threads() {
    assert_reproducible(&ESD, &esd());
}

#[test]
fn every_tensor_in_scope_moves_and_no_other() {
    for run in [&*KEYSTEP, &*KSCU, &*ESD] {
        // Loaded anew: what the run was given must not have been written to either.
        let base = load();
        let base = &base.pipeline().unet_tensors.tensors;
        assert_eq!(base.len(), run.erased.tensors.tensors.len());
        for (name, before) in base {
            let values = |tensor: &candle_core::Tensor| {
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let after = &run.erased.tensors.tensors[name];
            assert_eq!((before.dtype, before.tensor.dims()), (after.dtype, after.tensor.dims()));
            let moved = values(&before.tensor) != values(&after.tensor);
            let in_scope = run.erased.spec.scope.contains(name);
            assert_eq!(moved, in_scope, "{name} in {:?}", run.erased.spec.scope);
            assert_eq!(run.erased.edited.binary_search(name).is_ok(), in_scope, "{name}");
            let shared = &ENGINE.pipeline().unet_tensors.tensors[name];
            assert!(values(&before.tensor) == values(&shared.tensor), "{name} of the base moved");
        }
    }
}

#[test]
fn every_update_is_reported_once_and_in_order() {
    for run in [&*KEYSTEP, &*KSCU, &*ESD] {
        let log = &run.erased.log;
        let reported: Vec<_> =
            run.progress.iter().filter_map(|progress| progress.update.clone()).collect();
        assert_eq!(reported, log.updates);
        let training: Vec<_> =
            run.progress.iter().filter(|progress| progress.phase == Phase::Train).collect();
        assert_eq!(training.len(), log.updates.len());
        for (index, progress) in training.iter().enumerate() {
            assert_eq!((progress.done, progress.total), (index + 1, training.len()));
        }
        for (index, update) in log.updates.iter().enumerate() {
            assert_eq!(update.update, index);
            assert!(update.loss.is_finite() && update.loss > 0.0, "{update:?}");
            assert!(update.gradient_norm.is_finite() && update.gradient_norm > 0.0, "{update:?}");
        }
        let evaluations = || log.updates.iter().map(|update| update.unet_evaluations);
        assert!(evaluations().is_sorted_by(|before, after| before < after));
        assert_eq!(evaluations().next_back(), Some(log.unet_evaluations));
        assert!(run.progress.iter().all(|progress| progress.done <= progress.total));
        assert!(!log.key_steps.is_empty());
        assert!(log.key_steps.is_sorted_by(|before, after| before < after));
    }
}

#[test]
fn esd_spends_two_a_step_walked_and_three_an_update() {
    let mut spent = 0;
    for (step, evaluations) in ESD.costs() {
        spent += 2 * step as u64 + 2 + 1;
        assert_eq!(evaluations, spent);
    }
    // The frozen model's 3 · 4 prompts and 4 · 2 neighbours over ten steps, and the
    // edited one's 4 + 4 there.
    assert_eq!(ESD.erased.log.check_evaluations, 10 * (12 + 8) + 10 * (4 + 4));

    // At a scale of 1 there is no unconditional pass on the way.
    let settings = EsdSettings { guidance_scale: 1.0, ..esd_settings() };
    let unguided = run(&UnlearnSpec { method: Method::Esd(settings), ..esd() });
    let mut spent = 0;
    for (step, evaluations) in unguided.costs() {
        spent += step as u64 + 2 + 1;
        assert_eq!(evaluations, spent);
    }
}

#[test]
fn kscu_walks_on_where_it_can_and_restarts_where_it_must() {
    // 1, 2, 3 in one walk of 3 steps, then 2, 3 in another of 3: two evaluations a step walked,
    // two of the frozen and two of the edited model an update.
    let expected = [(1, 2 + 4), (2, 2 + 4), (3, 2 + 4), (2, 4 + 4), (3, 2 + 4)];
    let mut spent = 0;
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(step, evaluations)| {
            spent += evaluations;
            (step, spent)
        })
        .collect();
    assert_eq!(KSCU.costs(), expected);
    assert_eq!(KSCU.erased.log.key_steps, [1, 2, 3].map(StepIndex));
}

#[test]
fn keystep_walks_its_bank_once_and_then_pays_for_its_batches_alone() {
    let settings = keystep_settings();
    let log = &KEYSTEP.erased.log;
    assert_eq!(log.window, Some(WINDOW));
    assert_eq!(log.key_steps, [0, 1].map(StepIndex));
    assert!(KEYSTEP.erased.scores.is_empty());
    // Concept and anchor paths: three prompts a step down to the last key step; neighbours: two
    // prompts a step, all the way.
    let bank = 3 * 2 * (settings.concept_trajectories + settings.anchor_trajectories)
        + 2 * 4 * settings.preserve_trajectories;
    let batch = settings.erase_batch + settings.preserve_batch;
    let expected: Vec<_> = (1..=3).map(|update| (bank + update * batch) as u64).collect();
    let spent: Vec<_> = log.updates.iter().map(|update| update.unet_evaluations).collect();
    assert_eq!(spent, expected);
}

#[test]
fn several_concepts_take_turns() {
    let concepts = ["cat", "dog"].map(|text| Concept::new(text, ConceptKind::Object)).to_vec();
    let settings = KscuSettings { updates: 6, first_key_step: 2, ..kscu_settings() };
    let both =
        run(&UnlearnSpec { concepts: concepts.clone(), method: Method::Kscu(settings), ..kscu() });
    // Each concept's own walk; then S moves up to 3, the last step below nine tenths of 4.
    let expected = [(2, 8), (3, 14), (2, 22), (3, 28), (3, 38), (3, 48)];
    assert_eq!(both.costs(), expected);

    let both = run(&UnlearnSpec { concepts, ..keystep() });
    let alone = KEYSTEP.erased.log.updates[0].unet_evaluations;
    // The second concept's paths, 3 prompts · 2 steps · 3 trajectories.
    assert_eq!(both.erased.log.updates[0].unet_evaluations, alone + 18);
    assert!(both.bytes() != KEYSTEP.bytes());
}

#[test]
fn replacement_and_preserve_list_are_heeded() {
    let mut spec = keystep();
    spec.concepts[0].replacement = Some("dog".into());
    let replaced = run(&spec);
    assert!(replaced.bytes() != KEYSTEP.bytes());
    let preserve = vec!["a dog in neon style".to_owned(), "a star".to_owned()];
    let preserved = run(&UnlearnSpec { preserve, ..keystep() });
    assert!(preserved.bytes() != KEYSTEP.bytes());
    assert_eq!(preserved.costs().len(), 3);
}

#[test]
fn writings_of_one_concept_give_the_same_bytes() {
    for (spec, plain) in [(keystep(), &*KEYSTEP), (kscu(), &*KSCU), (esd(), &*ESD)] {
        let mut written = spec;
        written.concepts[0].text = " CAT ".to_owned();
        written.vocabulary.objects[0] = "Cat".to_owned();
        let run = run(&written);
        assert!(run.bytes() == plain.bytes(), "{}", written.method.name().name());
    }
}

#[test]
fn a_short_run_of_keystep_learns_without_wrecking() {
    let settings = KeystepSettings {
        updates: 40,
        schedule_steps: 8,
        concept_trajectories: 6,
        anchor_trajectories: 3,
        preserve_trajectories: 12,
        preserve_batch: 8,
        stop_below: -100.0,
        ..keystep_settings()
    };
    let found = run(&UnlearnSpec { method: Method::Keystep(settings), ..keystep() });
    let log = &found.erased.log;
    assert!(log.erase_measure < 0.6, "{}", log.erase_measure);
    assert!(log.damage_measure < 0.5, "{}", log.damage_measure);
    assert!(!log.stopped_early);
    let mean = |updates: &[keystep::outcome::UpdateRecord]| {
        updates.iter().map(|update| update.loss).sum::<f64>() / updates.len() as f64
    };
    assert!(mean(&log.updates[16..]) < mean(&log.updates[..8]));
}

#[test]
fn a_run_that_did_nothing_is_an_error() {
    let settings = EsdSettings { updates: 1, learning_rate: 1e-9, ..esd_settings() };
    let error = try_run(&UnlearnSpec { method: Method::Esd(settings), ..esd() }).unwrap_err();
    assert!(matches!(error, EngineError::NoOp { value, limit, .. } if value < limit), "{error}");
    assert!(error.to_string().contains("raise the learning rate"), "{error}");
}

#[test]
fn a_run_that_wrecked_the_model_is_an_error() {
    let settings = EsdSettings { learning_rate: 1.0, ..esd_settings() };
    let esd = UnlearnSpec { method: Method::Esd(settings), ..esd() };
    let settings = KeystepSettings { relative_rate: 1.0, updates: 24, ..keystep_settings() };
    let keystep = UnlearnSpec { method: Method::Keystep(settings), ..keystep() };
    for spec in [esd, keystep] {
        let error = try_run(&spec).unwrap_err();
        assert!(
            matches!(
                error,
                EngineError::WreckedModel { .. }
                    | EngineError::NotFinite { .. }
                    // Saturated attention passes no gradient on.
                    | EngineError::ZeroGradient { .. }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("lower the learning rate"), "{error}");
    }
}

#[test]
fn a_scope_without_a_tensor_is_reported_before_any_work() {
    let mut reports = 0;
    let mut report = |_| reports += 1;
    let mut context = RunContext::reporting(&mut report);
    let spec = UnlearnSpec { scope: Scope::NameContains("no_such_layer".into()), ..keystep() };
    let error = ENGINE.unlearn(&spec, &mut context).unwrap_err();
    assert!(matches!(error, EngineError::EmptyScope { .. }), "{error}");
    assert!(error.to_string().contains("no_such_layer"), "{error}");
    assert_eq!(reports, 0);
}

#[test]
fn texts_that_are_too_long_are_reported_before_any_work() {
    let long = vec!["cat"; 90].join(" ");
    let mut spec = keystep();
    spec.concepts[0].text.clone_from(&long);
    let mut replaced = keystep();
    replaced.concepts[0].replacement = Some(long.clone());
    // Far down a list of which few are drawn.
    let mut preserve = vec!["a dog".to_owned(); 40];
    preserve.push(long);
    let preserve = UnlearnSpec { preserve, ..keystep() };
    // Fits by itself, and in none of the sentences that kscu augments it to at the end.
    let mut augmented = kscu();
    augmented.concepts[0].text = vec!["cat"; 22].join(" ");
    // Thirty tokens, which fit by themselves and in no context.
    let mut in_context = keystep();
    in_context.concepts[0].text = "cat ".repeat(28);
    for (spec, field) in [
        (spec, "concepts[0].text"),
        (replaced, "concepts[0].replacement"),
        (preserve, "preserve[40]"),
        (augmented, "concepts[0].text"),
        (in_context, "concepts[0].text"),
    ] {
        let mut reports = 0;
        let mut report = |_| reports += 1;
        let mut context = RunContext::reporting(&mut report);
        let error = ENGINE.unlearn(&spec, &mut context).unwrap_err();
        let EngineError::Spec(refused) = &error else { panic!("{error}") };
        assert_eq!(refused.violations[0].field.to_string(), field);
        assert!(error.to_string().contains("reads 32"), "{error}");
        assert_eq!(reports, 0);
    }
}

#[test]
fn a_cancelled_run_stops_wherever_it_is() {
    let cancel = CancelFlag::default();
    cancel.cancel();
    let mut report = |progress: Progress| assert_eq!(progress.done, 0, "work after the flag");
    let mut context = RunContext { report: &mut report, cancel, saving: None };
    assert!(matches!(ENGINE.unlearn(&esd(), &mut context), Err(EngineError::Cancelled)));

    for (phase, spec) in
        [(Phase::Walk, keystep()), (Phase::Train, keystep()), (Phase::Train, kscu())]
    {
        let cancel = CancelFlag::default();
        let seen = cancel.clone();
        let mut after = 0;
        let mut report = |progress: Progress| {
            after += usize::from(seen.is_cancelled());
            if progress.phase == phase && progress.done == 1 {
                seen.cancel();
            }
        };
        let mut context = RunContext { report: &mut report, cancel, saving: None };
        let result = ENGINE.unlearn(&spec, &mut context);
        assert!(matches!(result, Err(EngineError::Cancelled)), "in {phase:?}");
        assert_eq!(after, 0, "work after the flag in {phase:?}");
    }
}

#[test]
fn the_delta_holds_the_edited_tensors_of_the_checkpoint_and_the_spec() {
    let erased = &KEYSTEP.erased;
    let spec = serde_json::to_string(&erased.spec).unwrap();
    let metadata = BTreeMap::from([("keystep.spec".to_owned(), spec)]);
    let mut bytes = Vec::new();
    erased.write_delta(&metadata, &mut bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let stored = &header.metadata().as_ref().unwrap()["keystep.spec"];
    assert_eq!(serde_json::from_str::<UnlearnSpec>(stored).unwrap(), erased.spec);

    let whole = KEYSTEP.bytes();
    let whole = SafeTensors::deserialize(&whole).unwrap();
    let delta = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = delta.names();
    names.sort_unstable();
    assert_eq!(names, erased.edited);
    assert!(names.len() < whole.names().len());
    for (name, tensor) in delta.iter() {
        let in_whole = whole.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (in_whole.dtype(), in_whole.shape()));
        assert!(tensor.data() == in_whole.data(), "{name}");
    }
}

#[test]
fn a_weight_that_is_not_a_number_is_refused_at_load() {
    // Half-precision NaN and infinity.
    for (bytes, value) in [([0x00, 0x7e], "NaN"), ([0x00, 0xfc], "-inf")] {
        let model = AlteredModel::builtin().with(UNET_WEIGHTS, |mut file| {
            let end = file.len() - bytes.len();
            file[end..].copy_from_slice(&bytes);
            file
        });
        let error = CandleEngine::load(&model, None).unwrap_err();
        assert!(matches!(error, EngineError::NonFiniteWeight { .. }), "{error}");
        let text = error.to_string();
        for part in ["altered", UNET_WEIGHTS, value, "fetch it again"] {
            assert!(text.contains(part), "no \"{part}\" in: {text}");
        }
    }
}

#[test]
fn a_part_that_is_missing_is_named() {
    for part in ["unet/", "vae/", "text_encoder/", "tokenizer/", "scheduler/"] {
        let error = CandleEngine::load(&AlteredModel::builtin().without(part), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("altered"), "{error}");
        assert!(error.contains(part.trim_end_matches('/')), "{error}");
    }
}
