//! A scripted engine: delays, faults, deterministic bytes, and state that is saved and resumed as
//! by the real one.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

use crate::{
    artifacts::{EditedBytes, ErasedWeights},
    device::{EngineSource, PlanEstimate},
    engine::{
        CancelFlag, EngineError, RunContext, SavePoint, StatePart, WorkMemory,
        checkpoint::{StoredTensor, StoredTensors, read_edited, write_safetensors},
        evaluate::{KeptPictures, PictureStore},
    },
    outcome::{
        DeviceKind, Drawn, ErasureRecord, Estimate, EvaluationResults, Figures, JudgeReport,
        JudgedPicture, Notice, Phase, Picture, Progress, StepScore, TimestepScores, TrainingLog,
        UpdateRecord, Verdict,
    },
    run::{DeviceEngine, Undertaking},
    spec::{
        Field, GenerateSpec, JudgeSpec, LogSnrWindow, ModelFiles, Prompt, ReadSeek, SamplerKind,
        ScoreSpec, SpecError, StepIndex, Timestep, UnlearnSpec, Vocabulary,
    },
};

/// The one tensor that it trains.
const WEIGHTS: &str = "weights";
/// U-Net evaluations that a made-up update takes.
const EVALUATIONS_AN_UPDATE: u64 = 8;

/// What a fake engine does. Set before it is handed over, or from a test while it runs.
#[derive(Debug, Default)]
pub struct FakeScript {
    /// Updates of an erasure.
    pub updates: usize,
    /// How long an update, a step of a drawing and a judgement's unit last.
    pub delay: Duration,
    /// How long loading a model lasts.
    pub load_delay: Duration,
    /// Whether there is a judge, for the words "cat", "dog" and "neon".
    pub can_judge: bool,
    /// Whether the sampler that the folder names cannot draw, so that one must be asked for.
    pub own_sampler_fails: bool,
    /// What it says that it computes on.
    pub device: DeviceKind,
    /// What the edited U-Net is said to take before it is there, and its delta too.
    pub edited_bytes: u64,
    /// Whether the disk is full when the edited U-Net is written.
    pub disk_is_full: bool,
    /// What is odd about its models.
    pub warnings: Vec<String>,
    /// What goes wrong.
    pub fault: Mutex<Option<Fault>>,
    /// Whether the device is found not to work when it is looked at.
    pub device_is_broken: AtomicBool,
    /// Updates made so far, over all runs: tells what was done twice.
    pub updates_made: AtomicUsize,
    /// Models loaded so far.
    pub loads: AtomicUsize,
    /// Grids that base models drew so far to be judged by.
    pub base_grids: AtomicUsize,
    /// What it is said to hold.
    pub bytes: FakeBytes,
    /// A clock (microseconds) that every unit of work moves on by a second.
    pub clock: Option<Arc<AtomicI64>>,
    /// The units of work so far, over all runs and calls.
    pub units: Mutex<Vec<FakeUnit>>,
    /// What happens before each update of an erasure, on the thread that makes it.
    pub before_update: BeforeUpdate,
}

/// Called with an erasure's seed and the number of its update, from 0; may block or panic.
pub struct BeforeUpdate(pub Box<dyn Fn(u64, usize) + Send + Sync>);

impl Default for BeforeUpdate {
    fn default() -> Self {
        Self(Box::new(|_, _| {}))
    }
}

impl fmt::Debug for BeforeUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeUpdate")
    }
}

/// What a fake engine is said to hold, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeBytes {
    /// A model.
    pub model: u64,
    /// A job.
    pub job: u64,
    /// A call.
    pub call: u64,
    /// What all of it may come to.
    pub limit: Option<u64>,
}

/// A unit of a fake engine's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeUnit {
    /// Of an erasure.
    Update,
    /// Of a drawing.
    Step,
    /// Of a measurement.
    Score,
    /// Of a judgement.
    Judge,
}

/// Something that goes wrong before an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Before which update, from 0.
    pub at: usize,
    /// What.
    pub kind: FaultKind,
    /// How often, before it is over.
    pub times: usize,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A panic.
    Panic,
    /// The device runs out of memory.
    OutOfMemory,
    /// The device fails.
    Device,
    /// The loss is not a number.
    NotFinite,
    /// The caller wants it no more.
    Cancelled,
}

impl FakeScript {
    /// So many updates that take so long each.
    pub fn new(updates: usize, delay: Duration) -> Arc<Self> {
        Arc::new(Self { updates, delay, ..Self::default() })
    }

    /// Plants a fault.
    pub fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    fn strike(&self, update: usize, cancel: &CancelFlag) -> Result<(), EngineError> {
        let kind = {
            let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            match fault.as_mut() {
                Some(planted) if planted.at == update && planted.times > 0 => {
                    planted.times -= 1;
                    planted.kind
                }
                _ => return Ok(()),
            }
        };
        match kind {
            #[expect(clippy::panic, reason = "it is what the script asks for")]
            FaultKind::Panic => std::panic::panic_any("a scripted panic"),
            FaultKind::OutOfMemory => {
                Err(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned()).into())
            }
            FaultKind::Device => Err(broken_device()),
            FaultKind::NotFinite => {
                Err(EngineError::NotFinite { what: "the loss", value: f64::NAN, update })
            }
            FaultKind::Cancelled => {
                cancel.cancel();
                Err(EngineError::Cancelled)
            }
        }
    }
}

fn broken_device() -> EngineError {
    candle_core::Error::Msg("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned()).into()
}

/// Makes fake engines after a script.
#[derive(Debug, Clone)]
pub struct FakeSource(pub Arc<FakeScript>);

impl EngineSource for FakeSource {
    type Engine = FakeEngine;

    fn load(&mut self, _: &dyn ModelFiles) -> Result<FakeEngine, EngineError> {
        std::thread::sleep(self.0.load_delay);
        self.0.loads.fetch_add(1, Ordering::SeqCst);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Ok(FakeEngine {
            script: self.0.clone(),
            vocabulary: Vocabulary {
                anything: "emoji".to_owned(),
                objects: words(&["cat", "dog"]),
                styles: words(&["neon"]),
            },
            shade: 120,
        })
    }

    fn plan(
        &mut self,
        _: &dyn ModelFiles,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, EngineError> {
        spec.validate()?;
        Ok(PlanEstimate {
            updates: self.0.updates,
            unet_evaluations: self.0.updates as u64 * EVALUATIONS_AN_UPDATE,
            memory_bytes: 1 << 20,
            estimated_duration: None,
            trainable_parameters: 1_000,
            trainable_tensors: 10,
            assumptions: vec!["made up".to_owned()],
        })
    }

    fn weight_bytes(&mut self, _: &dyn ModelFiles) -> Result<u64, EngineError> {
        Ok(self.0.bytes.model)
    }

    fn memory_limit(&self) -> Option<u64> {
        self.0.bytes.limit
    }

    fn check(&mut self) -> Result<(), EngineError> {
        if self.0.device_is_broken.load(Ordering::SeqCst) { Err(broken_device()) } else { Ok(()) }
    }
}

/// A model that is none.
#[derive(Debug, Clone)]
pub struct FakeEngine {
    script: Arc<FakeScript>,
    vocabulary: Vocabulary,
    /// What its pictures are filled with.
    shade: u8,
}

/// What a fake erasure comes to.
#[derive(Debug, Clone)]
pub struct FakeErased {
    log: TrainingLog,
    bytes: Vec<u8>,
    disk_is_full: bool,
}

impl FakeEngine {
    fn picture(&self, seed: u64) -> Picture {
        let [low, ..] = seed.to_le_bytes();
        Picture { width: 8, height: 8, rgb: vec![self.shade.wrapping_add(low); 192] }
    }

    fn unit(&self, unit: FakeUnit) {
        std::thread::sleep(self.script.delay);
        if let Some(clock) = &self.script.clock {
            clock.fetch_add(1_000_000, Ordering::SeqCst);
        }
        self.script.units.lock().unwrap_or_else(PoisonError::into_inner).push(unit);
    }

    /// An erasure that was made before, as it was written; of its own weights alone.
    pub fn restored(
        &self,
        record: ErasureRecord,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<FakeErased, EngineError> {
        let tensor = Tensor::zeros(8, DType::F32, &Device::Cpu)?;
        let stored = StoredTensor { tensor, file: String::new(), dtype: Dtype::F32 };
        let mut base = StoredTensors::default();
        base.tensors.insert(WEIGHTS.to_owned(), stored);
        let read = read_edited(file, reader, length, &base, &Device::Cpu)?;
        let numbers = read.tensors.values().map(|stored| stored.tensor.to_vec1::<f32>());
        let numbers = numbers.collect::<candle_core::Result<Vec<_>>>()?.concat();
        Ok(FakeErased {
            log: record.log,
            bytes: numbers.into_iter().map(|number| number as u8).collect(),
            disk_is_full: self.script.disk_is_full,
        })
    }
}

fn record(update: usize) -> UpdateRecord {
    UpdateRecord {
        update,
        step: StepIndex(update % 4),
        timestep: Timestep(900 - update % 4),
        loss: 1.0 / (update as f64 + 1.0),
        gradient_norm: 1.0,
        unet_evaluations: (update as u64 + 1) * EVALUATIONS_AN_UPDATE,
    }
}

/// The "weights" after an update: they depend on every update before.
fn step(weights: u64, update: usize) -> u64 {
    (weights ^ update as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31)
}

/// Update that comes next, and the weights; none where nothing usable was saved.
fn restore(context: &mut RunContext<'_>) -> Option<(usize, u64)> {
    let saving = context.saving.as_mut()?;
    let (mut reader, length) = saving.store.load(StatePart::Training).ok().flatten()?;
    let mut bytes = [0; 16];
    if length != 16 || reader.read_exact(&mut bytes).is_err() {
        return None;
    }
    let (next, weights) = bytes.split_at(8);
    let number = |half: &[u8]| half.try_into().map(u64::from_le_bytes).ok();
    let next = usize::try_from(number(next)?).ok()?;
    (saving.notice)(Notice::Resumed { update: next });
    Some((next, number(weights)?))
}

fn save(context: &mut RunContext<'_>, next: usize, weights: u64) -> Result<(), EngineError> {
    if let Some(saving) = &mut context.saving {
        let point = SavePoint { part: StatePart::Training, done: next as u64 };
        saving.store.save(point, &mut |out| {
            out.write_all(&(next as u64).to_le_bytes())?;
            out.write_all(&weights.to_le_bytes())
        })?;
    }
    Ok(())
}

impl DeviceEngine for FakeEngine {
    type Erased = FakeErased;

    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn device_kind(&self) -> DeviceKind {
        self.script.device
    }

    fn own_bytes(&self) -> u64 {
        self.script.bytes.model
    }

    fn memory(&self, work: Undertaking<'_>) -> Result<WorkMemory, EngineError> {
        let work = match work {
            Undertaking::Unlearn(_) | Undertaking::Judge(_) => self.script.bytes.job,
            Undertaking::Generate(_) | Undertaking::Score(_) => self.script.bytes.call,
        };
        Ok(WorkMemory { program: 0, work })
    }

    fn own_size(&self) -> Result<(usize, usize), EngineError> {
        Ok((8, 8))
    }

    fn can_judge(&self) -> bool {
        self.script.can_judge
    }

    fn warnings(&self) -> &[String] {
        &self.script.warnings
    }

    fn with_edited(&self, _: &str, _: Box<dyn ReadSeek>, _: u64) -> Result<Self, EngineError> {
        Ok(Self { shade: 200, ..self.clone() })
    }

    fn with_erased(&self, _: &FakeErased) -> Result<Self, EngineError> {
        Ok(Self { shade: 200, ..self.clone() })
    }

    fn score_timesteps(
        &self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError> {
        spec.validate()?;
        let estimate = Estimate { mean: 0.5, standard_error: 0.1 };
        let mut steps = Vec::new();
        for step in 0..spec.steps {
            self.unit(FakeUnit::Score);
            context.advance(Phase::Score, step + 1, spec.steps)?;
            steps.push(StepScore {
                step: StepIndex(step),
                timestep: Timestep(981_usize.saturating_sub(step)),
                log_snr: step as f64 - 5.0,
                guidance_energy: estimate,
                guidance_effect: estimate,
                concept_until: None,
                concept_from: None,
                gradient_share: spec.gradient_share.then_some(estimate),
            });
        }
        Ok(TimestepScores {
            spec: spec.clone(),
            model_digest: "fake".to_owned(),
            steps,
            window: LogSnrWindow { low: -4.0, high: -1.0 },
            window_steps: (StepIndex(1), StepIndex(3)),
            rule: "made up".to_owned(),
            unet_evaluations: 100,
        })
    }

    fn edited_bytes(&self, _: &UnlearnSpec) -> EditedBytes {
        let bytes = self.script.edited_bytes;
        EditedBytes { unet: bytes, delta: bytes }
    }

    fn unlearn(
        &self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<FakeErased, EngineError> {
        spec.validate()?;
        let total = self.script.updates;
        let (mut next, mut weights) = restore(context).unwrap_or((0, spec.seed));
        loop {
            let is_time = context.saving.as_mut().is_some_and(|saving| {
                let is_counted = next == total || next.is_multiple_of(saving.every.max(1));
                let is_due = saving.every > 0 && is_counted || (saving.due)();
                saving.pause.is_paused() || (is_due && next > 0)
            });
            if is_time {
                save(context, next, weights)?;
            }
            context.check()?;
            if next >= total {
                break;
            }
            self.script.strike(next, &context.cancel)?;
            (self.script.before_update.0)(spec.seed, next);
            self.unit(FakeUnit::Update);
            weights = step(weights, next);
            self.script.updates_made.fetch_add(1, Ordering::SeqCst);
            let update = Some(record(next));
            next += 1;
            (context.report)(Progress { phase: Phase::Train, done: next, total, update });
        }
        let log = TrainingLog {
            updates: (0..total).map(record).collect(),
            key_steps: (0..total.min(4)).map(StepIndex).collect(),
            window: Some(LogSnrWindow { low: -4.0, high: -1.0 }),
            unet_evaluations: total as u64 * EVALUATIONS_AN_UPDATE,
            check_evaluations: 4,
            stopped_early: false,
            erase_measure: -0.5,
            damage_measure: 0.01,
            weight_change: 0.02,
            learning_rate: 1e-4,
        };
        let disk_is_full = self.script.disk_is_full;
        Ok(FakeErased { log, bytes: weights.to_le_bytes().to_vec(), disk_is_full })
    }

    fn generate(
        &self,
        spec: &GenerateSpec,
        preview_every: Option<NonZeroUsize>,
        hand_over: &mut dyn FnMut(Drawn),
        context: &mut RunContext<'_>,
    ) -> Result<(), EngineError> {
        spec.validate()?;
        let total = spec.pictures.len() * spec.steps;
        for (index, (_, seed)) in spec.pictures.iter().enumerate() {
            for step in 1..=spec.steps {
                self.unit(FakeUnit::Step);
                if preview_every.is_some_and(|every| step.is_multiple_of(every.get())) {
                    hand_over(Drawn::Preview { index, picture: self.picture(*seed) });
                }
                context.advance(Phase::Draw, index * spec.steps + step, total)?;
            }
            hand_over(Drawn::Picture { index, picture: self.picture(*seed) });
        }
        Ok(())
    }

    fn judge_sampler(&self, spec: &JudgeSpec) -> Result<SamplerKind, EngineError> {
        match spec.sampler {
            None if self.script.own_sampler_fails => {
                Err(SpecError::one(Field::Steps, "is too many for its own sampler").into())
            }
            sampler => Ok(sampler.unwrap_or_default()),
        }
    }

    fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        store: &mut dyn PictureStore,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        spec.validate()?;
        self.unit(FakeUnit::Judge);
        let drawing = format!("{:?} {}", spec.sampler, spec.seed);
        let found = store.load(&drawing);
        let kept_evaluations = found.as_ref().map_or(0, |kept| kept.unet_evaluations);
        let kept = found.unwrap_or_else(|| {
            self.script.base_grids.fetch_add(1, Ordering::SeqCst);
            let pictures = vec![self.picture(0)];
            let drawn = KeptPictures { pictures, unet_evaluations: 250 };
            store.save(&drawing, &drawn);
            drawn
        });
        context.advance(Phase::Judge, 1, 1)?;
        let figures = |ua| Figures { ua, ira: 0.9, cra: 0.95 };
        let verdict = Verdict {
            judge: "cnn".to_owned(),
            sampler: self.judge_sampler(spec)?,
            edited: figures(1.0),
            base: figures(0.0),
            measures: None,
        };
        let judged = JudgedPicture {
            prompt: Prompt::of(&spec.concept.text, spec.concept.kind),
            seed: spec.seed,
            is_target: true,
            before: kept.pictures.into_iter().next().unwrap_or_else(|| self.picture(0)),
            after: edited.picture(0),
        };
        Ok(JudgeReport {
            spec: spec.clone(),
            verdicts: vec![verdict],
            pictures: vec![judged],
            unet_evaluations: 500,
            kept_evaluations,
            evaluation: EvaluationResults::default(),
        })
    }

    fn log(erased: &FakeErased) -> &TrainingLog {
        &erased.log
    }

    fn scores(_: &FakeErased) -> &[TimestepScores] {
        &[]
    }

    fn erased_stretches(_: &FakeErased) -> Result<Vec<Vec<u8>>, EngineError> {
        Ok(Vec::new())
    }
}

impl ErasedWeights for FakeErased {
    fn write_unet(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.disk_is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        out.write_all(&self.bytes)
    }

    fn write_delta(
        &self,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let tensor =
            Tensor::from_iter(self.bytes.iter().map(|&byte| f32::from(byte)), &Device::Cpu)
                .map_err(io::Error::other)?;
        let tensors = BTreeMap::from([(WEIGHTS.to_owned(), (tensor, Dtype::F32))]);
        Ok(write_safetensors(&tensors, metadata, out)?)
    }
}
