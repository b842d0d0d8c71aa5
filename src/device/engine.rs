//! The seam between the device thread and the engine, so that everything around the engine can be
//! tested in milliseconds.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    num::NonZeroUsize,
};

use super::PlanEstimate;
use crate::{
    artifacts::{EditedBytes, ErasedWeights},
    engine::{
        self, CandleEngine, Compute, ComputeSettings, Drawn, EngineError, ErasedCheckpoint,
        RunContext, WorkMemory, evaluate::PictureStore,
    },
    outcome::{DeviceKind, JudgeReport, MemorySavings, TimestepScores, TrainingLog},
    spec::{
        GenerateSpec, JudgeSpec, Method, ModelFiles, ReadSeek, SamplerKind, ScoreSpec, UnlearnSpec,
        Vocabulary,
    },
};

/// Makes engines; called by one of the device's threads at a time.
pub trait EngineSource: Send + 'static {
    /// What it makes.
    type Engine: DeviceEngine + 'static;

    /// Reads a model onto the device. Blocking.
    fn load(&mut self, files: &dyn ModelFiles) -> Result<Self::Engine, EngineError>;

    /// What an erasure would take, but for the time; reads no weight.
    fn plan(
        &mut self,
        files: &dyn ModelFiles,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, EngineError>;

    /// Bytes of a model's weights once it is loaded; reads headers alone.
    fn weight_bytes(&mut self, files: &dyn ModelFiles) -> Result<u64, EngineError>;

    /// Bytes that the process may take, where there is a limit.
    fn memory_limit(&self) -> Option<u64>;

    /// Whether the device works: called before the first command, and after a fault until it does.
    fn check(&mut self) -> Result<(), EngineError>;
}

/// Bytes of the files that an erasure writes, known before it is computed; the headers, some
/// Work whose memory is planned before it begins.
#[derive(Debug, Clone, Copy)]
pub enum Undertaking<'a> {
    /// An erasure.
    Unlearn(&'a UnlearnSpec),
    /// A judgement.
    Judge(&'a JudgeSpec),
    /// A drawing.
    Generate(&'a GenerateSpec),
    /// A measurement of steps.
    Score(&'a ScoreSpec),
}

/// A model on the device. Blocking; called by one of the device's threads at a time.
pub trait DeviceEngine: Sized + Send + Sync {
    /// An erased model, not yet written.
    type Erased: ErasedWeights;

    /// The words that the model is known to draw.
    fn vocabulary(&self) -> &Vocabulary;

    /// What computes.
    fn device_kind(&self) -> DeviceKind;

    /// Bytes of the weights that it does not share with a model that it was made of.
    fn own_bytes(&self) -> u64;

    /// What some work will hold at its peak; an error where that is more than the process may take
    /// however it saves.
    fn memory(&self, work: Undertaking<'_>) -> Result<WorkMemory, EngineError>;

    /// Width and height of its pictures where a request names none.
    fn own_size(&self) -> Result<(usize, usize), EngineError>;

    /// Whether something came with the model that can judge its pictures.
    fn can_judge(&self) -> bool;

    /// What about the model's folder is odd and no hindrance, in words.
    fn warnings(&self) -> &[String];

    /// The same model with the edited tensors of a safetensors file; the others are shared.
    fn with_edited(
        &self,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self, EngineError>;

    /// The same model with an erased U-Net.
    fn with_erased(&self, erased: &Self::Erased) -> Result<Self, EngineError>;

    /// Measures which steps decide a concept.
    fn score_timesteps(
        &self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError>;

    /// What the files of an erasure to a spec will take.
    fn edited_bytes(&self, spec: &UnlearnSpec) -> EditedBytes;

    /// Erases concepts.
    fn unlearn(
        &self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Self::Erased, EngineError>;

    /// Draws pictures and hands each over once it is done, previews every so many steps.
    fn generate(
        &self,
        spec: &GenerateSpec,
        preview_every: Option<NonZeroUsize>,
        hand_over: &mut dyn FnMut(Drawn),
        context: &mut RunContext<'_>,
    ) -> Result<(), EngineError>;

    /// What a judgement's pictures are drawn with; an error where they cannot be.
    fn judge_sampler(&self, spec: &JudgeSpec) -> Result<SamplerKind, EngineError>;

    /// Judges an edited model; called on the base model, whose pictures are looked for in a store of
    /// its own, and kept there.
    fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        store: &mut dyn PictureStore,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError>;

    /// What the optimisation measured.
    fn log(erased: &Self::Erased) -> &TrainingLog;

    /// The scores that were measured on the way, one a concept.
    fn scores(erased: &Self::Erased) -> &[TimestepScores];

    /// Stretches of the base's weights that the edit changed, as files hold them: no other file of
    /// a result may hold one.
    fn erased_stretches(erased: &Self::Erased) -> Result<Vec<Vec<u8>>, EngineError>;
}

/// The real thing: candle, by default on the best device that this build knows.
#[derive(Debug, Default)]
pub struct CandleSource {
    settings: ComputeSettings,
    /// The device once it was opened: tensors that come together must be of one and the same.
    compute: Option<Compute>,
    memory_limit: Option<u64>,
    /// Bytes of the machine's memory that there are for the process, where that is known.
    available: Option<u64>,
}

impl CandleSource {
    /// Engines on a device.
    pub fn new(settings: ComputeSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The same, whose process may take so many bytes; none where there is no limit.
    #[must_use]
    pub fn with_memory_limit(self, memory_limit: Option<u64>) -> Self {
        Self { memory_limit, ..self }
    }

    /// The same, which takes what memory there is for a limit where none was given and the CPU
    /// computes: a device refuses what it has no room for, a machine ends the process.
    #[must_use]
    pub fn with_available_memory(self, available: Option<u64>) -> Self {
        Self { available, ..self }
    }

    fn compute(&mut self) -> Result<&Compute, EngineError> {
        let opened = match self.compute.take() {
            Some(compute) => compute,
            None => self.settings.open()?,
        };
        Ok(self.compute.insert(opened))
    }
}

impl EngineSource for CandleSource {
    type Engine = CandleEngine;

    fn load(&mut self, files: &dyn ModelFiles) -> Result<CandleEngine, EngineError> {
        let engine = CandleEngine::load_on(files, None, self.compute()?)?;
        Ok(engine.with_memory_limit(self.memory_limit()))
    }

    fn weight_bytes(&mut self, files: &dyn ModelFiles) -> Result<u64, EngineError> {
        engine::weight_bytes(files)
    }

    fn memory_limit(&self) -> Option<u64> {
        let on_cpu = self.compute.as_ref().is_some_and(|compute| compute.device.is_cpu());
        self.memory_limit.or(self.available.filter(|_| on_cpu))
    }

    fn plan(
        &mut self,
        files: &dyn ModelFiles,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, EngineError> {
        let plan = engine::plan(files, spec, self.memory_limit())?;
        let mut assumptions = Vec::new();
        if plan.window_assumed {
            let width = "the window is yet to be measured; taken to be as wide as the schedule, \
                         which is the most that it can be";
            assumptions.push(width.to_owned());
        }
        assumptions.extend(saving(&plan.saving));
        if matches!(spec.method, Method::Keystep(_)) {
            assumptions.push("the run does not stop before its last update".to_owned());
        }
        Ok(PlanEstimate {
            updates: plan.updates,
            unet_evaluations: plan.unet_evaluations
                + plan.score_evaluations
                + plan.check_evaluations,
            memory_bytes: plan.memory_bytes.total,
            estimated_duration: None,
            trainable_parameters: plan.trainable_parameters,
            trainable_tensors: plan.trainable_tensors,
            assumptions,
        })
    }

    fn check(&mut self) -> Result<(), EngineError> {
        // After a fault the old one may be past use.
        self.compute = None;
        CandleEngine::check_device(self.compute()?)
    }
}

/// What the plan does to stay within the memory limit, in words.
fn saving(saving: &MemorySavings) -> Option<String> {
    let MemorySavings { recomputed_segments, segments, repeated_work, passes } = saving;
    if *recomputed_segments == 0 && passes.is_none() {
        return None;
    }
    let passes = passes.map_or_else(String::new, |passes| {
        format!(", and at most {passes} passes of a batch run side by side")
    });
    Some(format!(
        "to stay within the memory limit, {recomputed_segments} of the U-Net's {segments} segments \
         are computed twice ({:.0} % more work){passes}",
        100.0 * repeated_work,
    ))
}

impl DeviceEngine for CandleEngine {
    type Erased = ErasedCheckpoint;

    fn vocabulary(&self) -> &Vocabulary {
        self.vocabulary()
    }

    fn device_kind(&self) -> DeviceKind {
        self.device_kind()
    }

    fn own_bytes(&self) -> u64 {
        self.own_bytes()
    }

    fn memory(&self, work: Undertaking<'_>) -> Result<WorkMemory, EngineError> {
        match work {
            Undertaking::Unlearn(spec) => self.erasure_memory(spec),
            Undertaking::Judge(spec) => self.judgement_memory(spec),
            Undertaking::Generate(spec) => self.drawing_memory(spec),
            Undertaking::Score(spec) => self.scoring_memory(spec),
        }
    }

    fn own_size(&self) -> Result<(usize, usize), EngineError> {
        self.own_size()
    }

    fn can_judge(&self) -> bool {
        self.can_judge()
    }

    fn warnings(&self) -> &[String] {
        &self.pipeline().warnings
    }

    fn with_edited(
        &self,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self, EngineError> {
        self.with_edited(file, reader, length)
    }

    fn with_erased(&self, erased: &ErasedCheckpoint) -> Result<Self, EngineError> {
        self.with_erased(erased)
    }

    fn score_timesteps(
        &self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError> {
        self.score_timesteps(spec, context)
    }

    fn edited_bytes(&self, spec: &UnlearnSpec) -> EditedBytes {
        let mut bytes = EditedBytes { unet: 0, delta: 0 };
        for (name, stored) in &self.pipeline().unet_tensors.tensors {
            let bits = (stored.tensor.elem_count() * stored.dtype.bitsize()) as u64;
            bytes.unet += bits / 8;
            if spec.scope.contains(name) {
                bytes.delta += bits / 8;
            }
        }
        bytes
    }

    fn unlearn(
        &self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<ErasedCheckpoint, EngineError> {
        self.unlearn(spec, context)
    }

    fn generate(
        &self,
        spec: &GenerateSpec,
        preview_every: Option<NonZeroUsize>,
        hand_over: &mut dyn FnMut(Drawn),
        context: &mut RunContext<'_>,
    ) -> Result<(), EngineError> {
        self.generate_each(spec, preview_every, hand_over, context)
    }

    fn judge_sampler(&self, spec: &JudgeSpec) -> Result<SamplerKind, EngineError> {
        self.judge_sampler(spec)
    }

    fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        store: &mut dyn PictureStore,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        self.judge_keeping(spec, edited, store, context)
    }

    fn log(erased: &ErasedCheckpoint) -> &TrainingLog {
        &erased.log
    }

    fn scores(erased: &ErasedCheckpoint) -> &[TimestepScores] {
        &erased.scores
    }

    fn erased_stretches(erased: &ErasedCheckpoint) -> Result<Vec<Vec<u8>>, EngineError> {
        erased.erased_stretches()
    }
}

impl ErasedWeights for ErasedCheckpoint {
    fn write_unet(&self, out: &mut dyn Write) -> io::Result<()> {
        Ok(self.write_unet(out)?)
    }

    fn write_delta(
        &self,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        Ok(self.write_delta(metadata, out)?)
    }
}
