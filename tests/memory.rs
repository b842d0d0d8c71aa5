//! What runs take of memory, against what was planned, and what saving memory leaves the same.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]
#![allow(unsafe_code, reason = "an allocator that counts is a thin layer over the program's")]

use std::{
    alloc::{GlobalAlloc, Layout},
    collections::BTreeSet,
    fs,
    process::Command,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use assert_cmd::cargo::cargo_bin_cmd;
use candle_core::{Device, Tensor};
use keystep::{
    artifacts::open_model,
    engine::{
        CandleEngine, EngineError, RunContext, WorkMemory,
        checkpoint::{StoredTensors, read_component, read_text},
        family::{Denoiser, Unet, UnetConfig},
        nn::{MemoryPolicy, Scoped, Weights},
        plan,
        schedule::NoiseSource,
    },
    outcome::{MemoryPlan, Picture, Plan},
    spec::{
        Concept, ConceptKind, GenerateSpec, JudgeSpec, KeySteps, KeystepSettings, LogSnrWindow,
        Method, Scope, ScoreSpec, UnlearnSpec, Vocabulary,
    },
};
use mimalloc::MiMalloc;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const MODEL: &str = "builtin:emoji-canvas";
/// Threads of every run here, so that its memory is the same on every machine.
const THREADS: usize = 2;

/// Counts what the program's allocator is asked for.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the program's allocator as it came; the counts are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { MiMalloc.dealloc(place, layout) }
    }
}

/// One test at a time: what one allocates, another would count.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that are held when `work` is done, and the most that were, beyond what there was before.
fn held_and_most<R>(work: impl FnOnce() -> R) -> (R, usize, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    let beyond = |count: usize| count.saturating_sub(before);
    (result, beyond(LIVE.load(Ordering::Relaxed)), beyond(MOST.load(Ordering::Relaxed)))
}

/// On as many threads as every run here has.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static POOL: LazyLock<ThreadPool> =
        LazyLock::new(|| ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap());
    POOL.install(work)
}

/// On one thread, always the same: with several, chance decides which keeps what at hand.
fn on_a_thread<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static THREAD: LazyLock<ThreadPool> =
        LazyLock::new(|| ThreadPoolBuilder::new().num_threads(1).build().unwrap());
    THREAD.install(work)
}

/// Few steps, and updates of three passes of eight samples.
fn spec(scope: Scope) -> UnlearnSpec {
    let settings = KeystepSettings {
        key_steps: KeySteps::Window(LogSnrWindow { low: -9.0, high: -1.0 }),
        updates: 6,
        schedule_steps: 4,
        concept_trajectories: 2,
        anchor_trajectories: 1,
        preserve_trajectories: 3,
        erase_batch: 16,
        preserve_batch: 8,
        stop_below: -100.0,
        ..KeystepSettings::default()
    };
    UnlearnSpec {
        concepts: vec![Concept::new("cat", ConceptKind::Object)],
        method: Method::Keystep(settings),
        scope,
        preserve: Vec::new(),
        vocabulary: Vocabulary::default(),
        seed: 5,
    }
}

fn planned(scope: &Scope, limit: Option<u64>) -> Result<Plan, EngineError> {
    let spec = spec(scope.clone());
    in_pool(|| plan(open_model(MODEL).unwrap().as_ref(), &spec, limit))
}

/// What [`the_run_of_a_child`] does.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Task {
    Erase(Scope),
    Draw(GenerateSpec),
    Score(ScoreSpec),
    Judge(JudgeSpec),
}

/// The task and the limit of [`the_run_of_a_child`], as JSON.
const TASK: &str = "KEYSTEP_TEST_OF_MEMORY";

/// What a process of its own measured of a run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Measured {
    /// The most memory that the process held, in bytes.
    peak: u64,
    /// The most that was planned, in bytes.
    planned: u64,
    /// Of what came out.
    digest: String,
}

/// Nothing, but in a process that [`measure`] started.
#[test]
fn the_run_of_a_child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (task, limit): (Task, Option<u64>) = serde_json::from_str(&task).unwrap();
    let engine = CandleEngine::load(open_model(MODEL).unwrap().as_ref(), None).unwrap();
    let engine = engine.with_memory_limit(limit);
    let mut report = |_| {};
    let mut context = RunContext::reporting(&mut report);
    let digest_of = |pictures: &[Picture]| {
        let mut hasher = Sha256::new();
        for picture in pictures {
            hasher.update(&picture.rgb);
        }
        format!("{:?}", hasher.finalize())
    };
    let (memory, digest) = match &task {
        Task::Erase(scope) => {
            let spec = spec(scope.clone());
            let erased = engine.unlearn(&spec, &mut context).unwrap();
            (engine.erasure_memory(&spec), erased.tensors.digest().unwrap())
        }
        Task::Draw(spec) => {
            let pictures = engine.generate(spec, &mut context).unwrap();
            (engine.drawing_memory(spec), digest_of(&pictures))
        }
        Task::Score(spec) => {
            let scores = engine.score_timesteps(spec, &mut context).unwrap();
            (engine.scoring_memory(spec), scores.rule)
        }
        Task::Judge(spec) => {
            let report = engine.judge(spec, &engine, &mut context).unwrap();
            let after: Vec<_> = report.pictures.into_iter().map(|judged| judged.after).collect();
            (engine.judgement_memory(spec), digest_of(&after))
        }
    };
    let planned = memory.unwrap().total(engine.own_bytes());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    let measured = Measured { peak: kibibytes << 10, planned, digest };
    println!("{MARK}{}", serde_json::to_string(&measured).unwrap());
}

/// What precedes the child's answer.
const MARK: &str = "measured ";

fn measure(task: &Task, limit: Option<u64>) -> Measured {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_run_of_a_child", "--nocapture", "--test-threads", "1"])
        .env(TASK, serde_json::to_string(&(task, limit)).unwrap())
        .env("CANDLE_NUM_THREADS", "1")
        .env("RAYON_NUM_THREADS", THREADS.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    let answer = said.lines().find_map(|line| line.split_once(MARK));
    let (_, answer) = answer.unwrap_or_else(|| {
        panic!("{said}{}", String::from_utf8_lossy(&child.stderr));
    });
    serde_json::from_str(answer).unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_plan_tells_the_peak_of_a_process() {
    let _alone = alone();
    let mut off = Vec::new();
    for scope in [Scope::CrossAttentionKeyValue, Scope::CrossAttention, Scope::All] {
        let planned = planned(&scope, None).unwrap();
        let measured = measure(&Task::Erase(scope.clone()), None);
        let MemoryPlan { margin, total, .. } = planned.memory_bytes;
        let ratio = (total - margin) as f64 / measured.peak as f64;
        println!(
            "{scope}: planned {:?}, measured {}, {ratio:.3}",
            planned.memory_bytes, measured.peak
        );
        if !(0.85..=1.15).contains(&ratio) || measured.peak > total {
            off.push((scope, ratio));
        }
    }
    assert!(off.is_empty(), "planned over measured: {off:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_run_stays_within_its_limit_and_its_result_is_the_same() {
    let _alone = alone();
    for scope in [Scope::CrossAttentionKeyValue, Scope::All] {
        let plain = planned(&scope, None).unwrap();
        assert_eq!((plain.saving.recomputed_segments, plain.saving.passes), (0, None));
        let least = match planned(&scope, Some(1)).unwrap_err() {
            EngineError::MemoryLimit { need, .. } => need,
            error => panic!("{error}"),
        };
        let task = Task::Erase(scope.clone());
        let plainly = measure(&task, None);
        for limit in [u64::midpoint(least, plain.memory_bytes.total), least] {
            let saving = planned(&scope, Some(limit)).unwrap();
            assert!(saving.saving.recomputed_segments > 0);
            assert!(saving.memory_bytes.total <= limit);
            let thriftily = measure(&task, Some(limit));
            println!(
                "{scope}: {} planned, {} measured; limit {limit}: {} planned, {} measured, {:?}",
                plain.memory_bytes.total,
                plainly.peak,
                saving.memory_bytes.total,
                thriftily.peak,
                saving.saving,
            );
            assert_eq!(thriftily.digest, plainly.digest, "saving memory changed the result");
            assert!(thriftily.peak <= limit, "{scope}: {} of {limit}", thriftily.peak);
            assert!(thriftily.peak < plainly.peak);
        }
    }
}

#[test]
fn what_cannot_fit_is_refused() {
    let _alone = alone();
    let plain = planned(&Scope::All, None).unwrap();
    let error = planned(&Scope::All, Some(64 << 20)).unwrap_err();
    let EngineError::MemoryLimit { need, limit, .. } = error else { panic!("{error}") };
    assert!(limit == 64 << 20 && need > limit && need < plain.memory_bytes.total);
    let leanest = planned(&Scope::All, Some(need)).unwrap();
    assert_eq!(leanest.memory_bytes.total, need);
    assert!(planned(&Scope::All, Some(need - 1)).is_err());
    let place = TempDir::new().unwrap();
    let line = [
        "unlearn", "--local", "--model", MODEL, "--concept", "cat", "--kind", "object", "--out",
        "out", "--memory-limit", "64MiB",
    ];
    let refused = cargo_bin_cmd!("keystep").current_dir(place.path()).args(line).assert().failure();
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("may take 64 MiB; raise the memory limit"), "{said}");
}

fn drawing(count: u64, size: Option<(usize, usize)>) -> GenerateSpec {
    GenerateSpec {
        size,
        ..GenerateSpec::new((0..count).map(|seed| ("a cat".to_owned(), seed)).collect(), 1, 5.0)
    }
}

/// The least that some work takes, by the refusal of a smaller limit.
fn least(memory: impl Fn(&CandleEngine) -> Result<WorkMemory, EngineError> + Sync) -> u64 {
    let engine = CandleEngine::load(open_model(MODEL).unwrap().as_ref(), None).unwrap();
    match in_pool(|| memory(&engine.with_memory_limit(Some(1)))).unwrap_err() {
        EngineError::MemoryLimit { need, .. } => need,
        error => panic!("{error}"),
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_drawing_stays_within_its_plan_and_within_its_limit() {
    let _alone = alone();
    for (count, size) in [(40, None), (4, Some((256, 256)))] {
        let spec = drawing(count, size);
        let plainly = measure(&Task::Draw(spec.clone()), None);
        let least = least(|engine| engine.drawing_memory(&spec));
        let thriftily = measure(&Task::Draw(spec.clone()), Some(least));
        println!("{count} of {size:?}: {plainly:?}, limit {least}: {thriftily:?}");
        let planned = measure(&Task::Draw(spec.clone()), Some(plainly.planned));
        assert!(planned.peak <= plainly.planned, "{size:?}: {plainly:?}");
        assert_eq!(planned.digest, plainly.digest);
        // Where no limit is near, the allocator keeps what is freed for a while.
        assert!(plainly.peak <= 2 * plainly.planned, "{size:?}: {plainly:?}");
        assert!(thriftily.planned <= least && thriftily.peak <= least, "{size:?}: {thriftily:?}");
        // What this model's pictures take the U-Net takes, so that none needs tiles.
        assert_eq!(thriftily.digest, plainly.digest, "{size:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn scores_and_judgements_stay_within_their_plans() {
    let _alone = alone();
    let vocabulary = || {
        let files = open_model(MODEL).unwrap();
        let engine = CandleEngine::load(files.as_ref(), None).unwrap();
        engine.vocabulary().clone()
    };
    let concept = Concept::new("cat", ConceptKind::Object);
    let scores = ScoreSpec { steps: 4, ..ScoreSpec::new(concept.clone(), vocabulary()) };
    let judgement = JudgeSpec {
        steps: 1,
        target_seeds: 1,
        retain_seeds: 1,
        ..JudgeSpec::new(concept, vocabulary())
    };
    for task in [Task::Score(scores), Task::Judge(judgement)] {
        let measured = measure(&task, None);
        println!("{measured:?}");
        assert!(measured.peak <= 2 * measured.planned, "{measured:?}");
        assert!(measured.planned <= 3 * measured.peak, "{measured:?}");
        let limited = measure(&task, Some(measured.planned));
        assert!(limited.peak <= measured.planned, "{limited:?}");
    }
}

/// The built-in U-Net with a scope trained, and a batch.
struct Training {
    config: UnetConfig,
    stored: StoredTensors,
}

impl Training {
    fn new() -> Self {
        let files = open_model(MODEL).unwrap();
        let config = read_text(files.as_ref(), "unet/config.json").unwrap();
        Self {
            config: UnetConfig::parse(&config, "unet").unwrap(),
            stored: read_component(files.as_ref(), "unet", None, &Device::Cpu).unwrap(),
        }
    }

    /// Gradients of every variable, with the most bytes that were held on the way to them.
    fn gradients(&self, scope: &Scope, memory_policy: MemoryPolicy) -> (Vec<Vec<f32>>, usize) {
        let scoped = Scoped::new(&self.stored, scope).unwrap();
        let unet = Unet::new(&Weights::scoped(&self.stored, &scoped), &self.config).unwrap();
        let unet = unet.with_memory_policy(memory_policy);
        let mut noise = NoiseSource::new(3);
        let [height, width] = self.config.own_size("unet").unwrap();
        let mut draw = |shape: &[usize]| noise.randn_tensor(shape, &Device::Cpu).unwrap();
        let timesteps = [900.0, 780.0, 650.0, 500.0, 350.0, 220.0, 100.0, 1.0];
        let sample = draw(&[timesteps.len(), self.config.in_channels, height, width]);
        let text = draw(&[timesteps.len(), 32, self.config.cross_attention_dim]).into();
        let (gradients, _, most) = held_and_most(|| {
            let prediction = unet.trace(&sample, &timesteps, &text).unwrap();
            let gradient = prediction.tensor().clone();
            prediction.backward(gradient).unwrap()
        });
        let mut gradients = gradients;
        let values = |gradient: Tensor| gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let of_variables = scoped.variables.values();
        (of_variables.map(|v| values(gradients.take(v).unwrap())).collect(), most)
    }
}

#[test]
fn gradients_are_the_same_whatever_is_computed_twice() {
    let _alone = alone();
    let training = Training::new();
    for scope in [Scope::CrossAttentionKeyValue, Scope::All] {
        let plainly = || on_a_thread(|| training.gradients(&scope, MemoryPolicy::default()));
        // What the thread keeps at hand is there from the second run on.
        let (_, plain) = (plainly(), plainly());
        let mut least = plain.1;
        // The built-in model's segments, and some of them.
        for recomputed in [(0..64).collect::<BTreeSet<usize>>(), [1, 4, 7].into(), [0].into()] {
            let memory_policy = MemoryPolicy { recomputed, passes: None };
            let saving = on_a_thread(|| training.gradients(&scope, memory_policy));
            let bits = |gradients: &[Vec<f32>]| -> Vec<u32> {
                gradients.iter().flatten().map(|value| value.to_bits()).collect()
            };
            assert!(bits(&plain.0) == bits(&saving.0), "{scope:?}: other gradients");
            least = least.min(saving.1);
        }
        // The plan's is of two passes of as many samples.
        let planned = planned(&scope, None).unwrap().memory_bytes.activations / THREADS as u64;
        println!(
            "{scope:?}: {planned} planned, {} bytes at most, {least} where all is computed twice",
            plain.1
        );
        assert!(5 * least < 4 * plain.1, "{scope:?}: {least} of {}", plain.1);
        let ratio = planned as f64 / plain.1 as f64;
        assert!((0.95..=1.05).contains(&ratio), "{scope:?}: planned over measured: {ratio}");
    }
}

#[test]
fn weights_are_read_without_a_second_copy() {
    let _alone = alone();
    let files = open_model(MODEL).unwrap();
    let read = || read_component(files.as_ref(), "unet", None, &Device::Cpu).unwrap();
    let (stored, held, most) = held_and_most(read);
    let weights: usize = stored.tensors.values().map(|s| 4 * s.tensor.elem_count()).sum();
    println!("{weights} bytes of weights, {held} held, {most} at most");
    assert!(held < weights + (1 << 20), "{held} bytes for {weights}");
    // The chunk that is being converted, and the header.
    assert!(most < held + (2 << 20), "{most} bytes on the way to {held}");
}
