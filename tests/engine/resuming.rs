//! Runs that are cut off and started again end with the bytes of one that never was: for every
//! method, wherever they are cut off, and whatever became of the saved state meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, Cursor, Write},
    sync::LazyLock,
    time::Duration,
};

use keystep::{
    engine::{
        CancelFlag, CandleEngine, CheckpointPolicy, EngineError, ErasedCheckpoint, PauseFlag,
        RunContext, SavePoint, StateError, StatePart, StateStore,
    },
    outcome::{Notice, Phase, Progress, TimestepScores, TrainingLog},
    spec::{
        Concept, ConceptKind, EsdSettings, KeySteps, KeystepSettings, KscuSettings, LogSnrWindow,
        Method, ReadSeek, Scope, UnlearnSpec,
    },
};

use crate::altered_model::AlteredModel;

static ENGINE: LazyLock<CandleEngine> = LazyLock::new(|| AlteredModel::small().load());

static KEYSTEP: LazyLock<Outcome> = LazyLock::new(|| uninterrupted(&keystep()));
static KSCU: LazyLock<Outcome> = LazyLock::new(|| uninterrupted(&kscu()));
static ESD: LazyLock<Outcome> = LazyLock::new(|| uninterrupted(&esd()));

/// Everything that must come out the same.
#[derive(PartialEq)]
struct Outcome {
    log: TrainingLog,
    scores: Vec<TimestepScores>,
    delta: Vec<u8>,
    unet: Vec<u8>,
}

impl Outcome {
    fn of(erased: &ErasedCheckpoint) -> Self {
        let (mut delta, mut unet) = (Vec::new(), Vec::new());
        erased.write_delta(&BTreeMap::new(), &mut delta).unwrap();
        erased.write_unet(&mut unet).unwrap();
        Self { log: erased.log.clone(), scores: erased.scores.clone(), delta, unet }
    }

    fn assert_is(&self, other: &Self, case: &str) {
        assert_eq!(self.log, other.log, "{case}");
        assert_eq!(self.scores, other.scores, "{case}");
        assert!(self.delta == other.delta && self.unet == other.unet, "other bytes: {case}");
    }
}

/// State in memory: what a run leaves behind when its process ends.
#[derive(Debug, Default, Clone)]
struct MemoryStore {
    parts: BTreeMap<StatePart, Vec<u8>>,
    saves: BTreeMap<StatePart, usize>,
    /// Saves that fail from now on.
    failures: usize,
}

impl StateStore for MemoryStore {
    fn load(&mut self, part: StatePart) -> Result<Option<(Box<dyn ReadSeek>, u64)>, StateError> {
        Ok(self.parts.get(&part).map(|bytes| {
            let reader: Box<dyn ReadSeek> = Box::new(Cursor::new(bytes.clone()));
            (reader, bytes.len() as u64)
        }))
    }

    fn save(
        &mut self,
        SavePoint { part, .. }: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let file = || part.file_name().to_owned();
        if self.failures > 0 {
            self.failures -= 1;
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(StateError::Unwritable { file: file(), source });
        }
        let mut bytes = Vec::new();
        write(&mut bytes).map_err(|source| StateError::Unwritable { file: file(), source })?;
        self.parts.insert(part, bytes);
        *self.saves.entry(part).or_default() += 1;
        Ok(())
    }
}

/// What a watcher of a run may do.
#[derive(Default)]
struct Flags {
    cancel: CancelFlag,
    pause: PauseFlag,
    /// Whether it is always time to save.
    due: Cell<bool>,
}

/// A run with a store; `watch` sees its progress. Gives its notices beside its result.
fn run(
    spec: &UnlearnSpec,
    store: &mut MemoryStore,
    every: usize,
    watch: impl Fn(&Progress, &Flags),
) -> (Result<Outcome, EngineError>, Vec<Notice>) {
    let flags = Flags::default();
    run_with(spec, store, every, &flags, |progress| watch(progress, &flags))
}

fn run_with(
    spec: &UnlearnSpec,
    store: &mut MemoryStore,
    every: usize,
    flags: &Flags,
    watch: impl Fn(&Progress),
) -> (Result<Outcome, EngineError>, Vec<Notice>) {
    let mut notices = Vec::new();
    let mut notice = |notice| notices.push(notice);
    let mut report = |progress: Progress| watch(&progress);
    let mut due = || flags.due.get();
    let saving = CheckpointPolicy {
        store,
        every,
        due: &mut due,
        pause: flags.pause.clone(),
        notice: &mut notice,
    };
    let mut context =
        RunContext { report: &mut report, cancel: flags.cancel.clone(), saving: Some(saving) };
    let result = ENGINE.unlearn(spec, &mut context).map(|erased| Outcome::of(&erased));
    (result, notices)
}

/// Without anything that saves.
fn uninterrupted(spec: &UnlearnSpec) -> Outcome {
    let mut report = |_| {};
    let mut context = RunContext::reporting(&mut report);
    Outcome::of(&ENGINE.unlearn(spec, &mut context).unwrap())
}

/// To its end, from what the store holds.
fn finish(spec: &UnlearnSpec, store: &mut MemoryStore) -> (Outcome, Vec<Notice>) {
    let (result, notices) = run(spec, store, 0, |_, _| {});
    (result.unwrap(), notices)
}

/// The update that a run went on with.
fn resumed_at(notices: &[Notice]) -> Option<usize> {
    notices.iter().find_map(|notice| match notice {
        Notice::Resumed { update } => Some(*update),
        _ => None,
    })
}

fn trained(progress: &Progress) -> Option<usize> {
    (progress.phase == Phase::Train).then_some(progress.done)
}

fn spec(method: Method, scope: Scope) -> UnlearnSpec {
    UnlearnSpec {
        concepts: vec![Concept::new("cat", ConceptKind::Object)],
        method,
        scope,
        preserve: vec!["a dog in neon style".to_owned()],
        vocabulary: ENGINE.vocabulary().clone(),
        seed: 11,
    }
}

fn keystep_settings() -> KeystepSettings {
    KeystepSettings {
        key_steps: KeySteps::Window(LogSnrWindow { low: -9.0, high: -1.0 }),
        updates: 8,
        schedule_steps: 4,
        concept_trajectories: 2,
        anchor_trajectories: 1,
        preserve_trajectories: 3,
        erase_batch: 3,
        preserve_batch: 3,
        ..KeystepSettings::default()
    }
}

fn keystep() -> UnlearnSpec {
    spec(Method::Keystep(keystep_settings()), Scope::CrossAttention)
}

fn kscu() -> UnlearnSpec {
    let (preset, _) = KscuSettings::preset(ConceptKind::Object, false);
    let settings = KscuSettings {
        updates: 8,
        first_key_step: 1,
        loop_n: 1,
        schedule_steps: 4,
        augmented_share: 0.4,
        learning_rate: 1e-4,
        ..preset
    };
    let concepts = ["cat", "dog"].map(|text| Concept::new(text, ConceptKind::Object)).to_vec();
    UnlearnSpec {
        concepts,
        preserve: Vec::new(),
        ..spec(Method::Kscu(settings), Scope::NonCrossAttention)
    }
}

fn esd() -> UnlearnSpec {
    let settings = EsdSettings {
        updates: 8,
        schedule_steps: 4,
        learning_rate: 1e-3,
        ..EsdSettings::default()
    };
    UnlearnSpec { preserve: Vec::new(), ..spec(Method::Esd(settings), Scope::CrossAttention) }
}

/// Killed after some updates, and again on the way from there: what was saved last is all that is
/// left each time.
fn assert_survives_kills(spec: &UnlearnSpec, expected: &Outcome, kills: &[usize]) {
    let every = 3;
    let mut store = MemoryStore::default();
    let mut saved = None;
    for &kill_after in kills {
        let case = format!("saved every {every}, killed after {kill_after}");
        let (result, notices) = run(spec, &mut store, every, |progress, flags| {
            if trained(progress) == Some(kill_after) {
                flags.cancel.cancel();
            }
        });
        assert!(matches!(result, Err(EngineError::Cancelled)), "{case}");
        assert_eq!(resumed_at(&notices), saved, "{case}: {notices:?}");
        // A save comes before the next update; that of the last one never did.
        saved = Some((kill_after - 1) / every * every).filter(|updates| *updates > 0);
    }
    let (outcome, notices) = finish(spec, &mut store);
    assert_eq!(resumed_at(&notices), saved, "killed after {kills:?}: {notices:?}");
    outcome.assert_is(expected, &format!("killed after {kills:?}"));
}

/// Paused after some updates, twice over; nothing is lost.
fn assert_survives_a_pause(spec: &UnlearnSpec, expected: &Outcome) {
    let mut store = MemoryStore::default();
    for pause_after in [1, 4, 8] {
        let (result, _) = run(spec, &mut store, 3, |progress, flags| {
            if trained(progress) == Some(pause_after) {
                flags.pause.pause();
            }
        });
        assert!(matches!(result, Err(EngineError::Paused)), "after {pause_after}");
    }
    let (outcome, notices) = finish(spec, &mut store);
    assert_eq!(notices, [Notice::Resumed { update: 8 }]);
    outcome.assert_is(expected, "paused three times");
}

/// Paused by the clock, so somewhere: within walks, within updates, while saving.
fn assert_survives_pauses_anywhere(spec: &UnlearnSpec, expected: &Outcome) {
    let mut store = MemoryStore::default();
    for attempt in 1..200 {
        let flags = Flags::default();
        let pause = flags.pause.clone();
        let watch = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700 * attempt));
            pause.pause();
        });
        let (result, notices) = run_with(spec, &mut store, 2, &flags, |_| {});
        watch.join().unwrap();
        assert!(notices.iter().all(|notice| matches!(notice, Notice::Resumed { .. })));
        match result {
            Err(EngineError::Paused) => {}
            result => return result.unwrap().assert_is(expected, "paused by the clock"),
        }
    }
    panic!("the run never ended");
}

#[test]
fn keystep_survives_a_kill() {
    // The first before anything was saved.
    assert_survives_kills(&keystep(), &KEYSTEP, &[2, 7]);
}

#[test]
fn kscu_survives_a_kill() {
    assert_survives_kills(&kscu(), &KSCU, &[7]);
}

#[test]
fn esd_survives_a_kill() {
    assert_survives_kills(&esd(), &ESD, &[7]);
}

#[test]
fn every_method_survives_pauses_between_updates() {
    assert_survives_a_pause(&keystep(), &KEYSTEP);
    assert_survives_a_pause(&kscu(), &KSCU);
    assert_survives_a_pause(&esd(), &ESD);
}

#[test]
fn keystep_survives_pauses_anywhere() {
    assert_survives_pauses_anywhere(&keystep(), &KEYSTEP);
}

#[test]
fn saving_alone_changes_nothing() {
    for (spec, expected) in [(keystep(), &*KEYSTEP), (kscu(), &*KSCU), (esd(), &*ESD)] {
        let mut store = MemoryStore::default();
        let (result, notices) = run(&spec, &mut store, 2, |_, _| {});
        result.unwrap().assert_is(expected, "saved, not interrupted");
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(store.saves[&StatePart::Training], 4);
        // Resumed after its end: nothing is left but to measure.
        let (outcome, notices) = finish(&spec, &mut store);
        assert_eq!(notices, [Notice::Resumed { update: 8 }]);
        outcome.assert_is(expected, "resumed at its end");
    }
}

/// Killed after every other step of its walks, over and over: without saves on the way no walk would ever end.
#[test]
fn walks_get_on_though_every_process_is_lost() {
    let mut store = MemoryStore::default();
    let mut kills = 0;
    while !store.parts.contains_key(&StatePart::Bank) {
        let flags = Flags::default();
        flags.due.set(true);
        let (ended, reported) = (Cell::new(0), Cell::new(0));
        let (result, notices) = run_with(&keystep(), &mut store, 0, &flags, |progress| {
            // The probe's two walks come first, every time.
            reported.set(reported.get() + usize::from(ended.get() >= 2));
            ended.set(ended.get() + usize::from(progress.done == progress.total));
            if reported.get() == 3 {
                flags.cancel.cancel();
            }
        });
        assert!(matches!(result, Err(EngineError::Cancelled)), "the bank was walked at once");
        assert!(notices.is_empty(), "{notices:?}");
        kills += 1;
        assert!(kills < 30, "the walks go on for ever");
    }
    assert!(kills > 3, "{kills} kills test little");
    let (outcome, notices) = finish(&keystep(), &mut store);
    assert!(notices.is_empty(), "{notices:?}");
    outcome.assert_is(&KEYSTEP, &format!("killed {kills} times within its walks"));
}

#[test]
fn time_saves_as_updates_do() {
    let mut store = MemoryStore::default();
    let flags = Flags::default();
    flags.due.set(true);
    let (result, _) = run_with(&keystep(), &mut store, 0, &flags, |_| {});
    result.unwrap().assert_is(&KEYSTEP, "saved after every update");
    assert_eq!(store.saves[&StatePart::Training], 8);
}

#[test]
fn a_run_that_stopped_early_stays_stopped() {
    // The look after update 20 finds what it looks for.
    let settings = KeystepSettings { updates: 24, stop_below: 1.0, ..keystep_settings() };
    let spec = UnlearnSpec { method: Method::Keystep(settings), ..keystep() };
    let expected = uninterrupted(&spec);
    assert!(expected.log.stopped_early && expected.log.updates.len() == 20);
    let mut store = MemoryStore::default();
    for pause_after in [19, 20] {
        let (result, _) = run(&spec, &mut store, 0, |progress, flags| {
            if trained(progress) == Some(pause_after) {
                flags.pause.pause();
            }
        });
        assert!(matches!(result, Err(EngineError::Paused)));
        let mut left = store.clone();
        finish(&spec, &mut left).0.assert_is(&expected, &format!("after {pause_after}"));
    }
}

#[test]
fn a_measured_window_is_measured_once() {
    let settings = KeystepSettings { key_steps: KeySteps::Measured, ..keystep_settings() };
    let concepts = ["cat", "dog"].map(|text| Concept::new(text, ConceptKind::Object)).to_vec();
    let spec = UnlearnSpec { concepts, method: Method::Keystep(settings), ..keystep() };
    let expected = uninterrupted(&spec);
    // Each goes on from what the one before left. Walks before the bank's: the probe's two, and one
    // a concept whose scores are not there yet.
    let mut store = MemoryStore::default();
    for (walk, of, saved) in [
        (3, "the first concept", vec![]),
        (4, "the second concept", vec![StatePart::Scores]),
        (4, "the bank", vec![StatePart::Scores, StatePart::Walk]),
    ] {
        let begun = Cell::new(0);
        let (result, notices) = run(&spec, &mut store, 1, |progress, flags| {
            if progress.phase == Phase::Walk && progress.done == 0 {
                begun.set(begun.get() + 1);
            }
            if begun.get() == walk && progress.done == 2 {
                flags.pause.pause();
            }
        });
        assert!(matches!(result, Err(EngineError::Paused)), "{of}");
        assert!(notices.is_empty(), "{of}: {notices:?}");
        assert_eq!(store.parts.keys().copied().collect::<Vec<_>>(), saved, "{of}");
    }
    assert_eq!(store.saves[&StatePart::Scores], 2, "once a concept");
    let (outcome, notices) = finish(&spec, &mut store);
    assert!(notices.is_empty(), "{notices:?}");
    outcome.assert_is(&expected, "paused in three walks");
    assert_eq!(store.saves[&StatePart::Scores], 2, "measured again");
}

#[test]
fn a_cancel_during_the_last_update_is_seen() {
    let watch = |progress: &Progress, flags: &Flags| {
        if trained(progress) == Some(8) {
            flags.cancel.cancel();
        }
    };
    let mut store = MemoryStore::default();
    assert!(matches!(run(&esd(), &mut store, 0, watch).0, Err(EngineError::Cancelled)));
    // And without anything that saves.
    let cancel = CancelFlag::default();
    let seen = cancel.clone();
    let mut report = |progress: Progress| {
        if trained(&progress) == Some(8) {
            seen.cancel();
        }
    };
    let mut context = RunContext { report: &mut report, cancel, saving: None };
    assert!(matches!(ENGINE.unlearn(&esd(), &mut context), Err(EngineError::Cancelled)));
}

/// What a run of keystep leaves that was killed after five updates.
static LEFT: LazyLock<MemoryStore> = LazyLock::new(|| {
    let mut store = MemoryStore::default();
    let (result, _) = run(&keystep(), &mut store, 2, |progress, flags| {
        if trained(progress) == Some(5) {
            flags.cancel.cancel();
        }
    });
    assert!(matches!(result, Err(EngineError::Cancelled)));
    store
});

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

fn assert_noticed(part: StatePart, reason: &str, notices: &[Notice]) {
    let is_noticed = notices.iter().any(|notice| match notice {
        Notice::StateIgnored { file, reason: noticed } => {
            *file == part.file_name() && noticed.contains(reason)
        }
        _ => false,
    });
    assert!(is_noticed, "{reason}: {notices:?}");
    let resumed = (part != StatePart::Training).then_some(4);
    assert_eq!(resumed_at(notices), resumed, "{reason}: {notices:?}");
}

/// The run begins the part anew and says so.
fn assert_ignored(part: StatePart, bytes: Vec<u8>, reason: &str) {
    let mut store = LEFT.clone();
    store.parts.insert(part, bytes);
    let (result, notices) = run(&keystep(), &mut store, 0, |progress, flags| {
        if trained(progress).is_some() {
            flags.cancel.cancel();
        }
    });
    assert!(matches!(result, Err(EngineError::Cancelled)), "{reason}");
    assert_noticed(part, reason, &notices);
}

/// And ends with the same bytes.
fn assert_begun_anew(part: StatePart, bytes: Vec<u8>, reason: &str) {
    let mut store = LEFT.clone();
    store.parts.insert(part, bytes);
    let (outcome, notices) = finish(&keystep(), &mut store);
    assert_noticed(part, reason, &notices);
    outcome.assert_is(&KEYSTEP, reason);
}

#[test]
fn state_that_is_damaged_or_of_another_run_is_ignored() {
    let training = &LEFT.parts[&StatePart::Training];
    let bank = &LEFT.parts[&StatePart::Bank];
    assert_ignored(StatePart::Training, training[..training.len() / 2].to_vec(), "its header");
    assert_ignored(StatePart::Training, Vec::new(), "ends within its header");
    assert_ignored(StatePart::Training, bank.clone(), "keystep.part");
    assert_begun_anew(StatePart::Bank, bank[..bank.len() - 1].to_vec(), "its header");
    let version = env!("CARGO_PKG_VERSION");
    let other = version.replace(|digit: char| digit.is_ascii_digit(), "9");
    let wanted = |version: &str| format!("\"keystep.version\":\"{version}\"");
    let foreign = replaced(training, &wanted(version), &wanted(&other));
    assert_ignored(StatePart::Training, foreign, "keystep.version");
    let cuda = replaced(bank, "\"keystep.device\":\"cpu\"", "\"keystep.device\":\"gpu\"");
    assert_ignored(StatePart::Bank, cuda, "keystep.device");
    let torn = replaced(training, "\\\"next\\\":4", "\\\"next\\\":5");
    assert_ignored(StatePart::Training, torn, "records");
    // The last weight becomes NaN, after all others have been taken up.
    let mut nan = training.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_begun_anew(StatePart::Training, nan, "NaN");

    let mut store = LEFT.clone();
    let other = UnlearnSpec { seed: 12, ..keystep() };
    let (outcome, notices) = finish(&other, &mut store);
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices.iter().all(|notice| notice.to_string().contains("keystep.spec")));
    outcome.assert_is(&uninterrupted(&other), "another seed");
}

#[test]
fn no_damage_panics() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..8 {
        let mut store = LEFT.clone();
        let part = [StatePart::Bank, StatePart::Training][round % 2];
        let bytes = store.parts.get_mut(&part).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        for _ in 0..=round / 2 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Mostly in the header, where damage can do more than change a number.
            let bound = if round % 4 == 0 { bytes.len() } else { header };
            let at = (random >> 20) as usize % bound;
            bytes[at] = (random >> 8) as u8;
        }
        // The first update shows whether what was taken up can be computed with.
        let (result, _) = run(&keystep(), &mut store, 0, |progress, flags| {
            if trained(progress).is_some() {
                flags.cancel.cancel();
            }
        });
        // A number that another took the place of may well spoil the run; that is the store's to
        // tell, by its digest.
        assert!(result.is_err(), "round {round}");
    }
}

#[test]
fn a_finished_training_is_saved_so_that_judging_it_again_trains_nothing() {
    let mut store = MemoryStore::default();
    let (result, _) = run(&keystep(), &mut store, 3, |_, _| {});
    result.unwrap().assert_is(&KEYSTEP, "saved after 3 and 6 of 8 updates, and at the end");
    assert_eq!(store.saves[&StatePart::Training], 3);
    let (outcome, notices) = finish(&keystep(), &mut store);
    assert_eq!(notices, [Notice::Resumed { update: 8 }]);
    outcome.assert_is(&KEYSTEP, "resumed at its end");

    // What is finished is worth more than its state.
    let mut store = MemoryStore { failures: usize::MAX, ..MemoryStore::default() };
    let (result, notices) = run(&esd(), &mut store, 100, |_, _| {});
    result.unwrap().assert_is(&ESD, "the last save failed");
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].reason(), "state_not_saved");
}

#[test]
fn a_save_that_fails_is_reported_and_one_that_keeps_failing_ends_the_run() {
    let mut store = MemoryStore { failures: 2, ..MemoryStore::default() };
    let (result, notices) = run(&esd(), &mut store, 1, |_, _| {});
    result.unwrap().assert_is(&ESD, "two saves failed");
    assert_eq!(notices.len(), 2);
    assert!(notices.iter().all(|notice| notice.reason() == "state_not_saved"), "{notices:?}");

    let mut store = MemoryStore { failures: usize::MAX, ..MemoryStore::default() };
    let (result, notices) = run(&esd(), &mut store, 1, |_, _| {});
    let error = result.err().unwrap();
    assert!(matches!(error, EngineError::State(StateError::Unwritable { .. })), "{error}");
    assert!(error.to_string().contains("training.safetensors"), "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert_eq!(notices.len(), 2);

    let mut store = MemoryStore { failures: usize::MAX, ..MemoryStore::default() };
    let (result, _) = run(&esd(), &mut store, 0, |progress, flags| {
        if trained(progress) == Some(2) {
            flags.pause.pause();
        }
    });
    assert!(matches!(result, Err(EngineError::State(_))));
}
