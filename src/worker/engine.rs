//! The seam between the device thread and the engine, so that everything around the engine can be
//! tested in milliseconds.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    num::NonZeroUsize,
};

use super::PlanEstimate;
use crate::{
    engine::{
        self, CandleEngine, Compute, ComputeSettings, Drawn, EngineError, ErasedCheckpoint,
        RunContext,
    },
    outcome::{JudgeReport, Saving, TimestepScores, TrainingLog},
    spec::{
        GenerateSpec, JudgeSpec, Method, ModelFiles, ReadSeek, ScoreSpec, UnlearnSpec, Vocabulary,
    },
};

/// Makes engines; moves onto the device thread, which alone calls it.
pub trait EngineSource: Send + 'static {
    /// What it makes.
    type Engine: DeviceEngine;

    /// Reads a model onto the device. Blocking.
    fn load(&mut self, files: &dyn ModelFiles) -> Result<Self::Engine, EngineError>;

    /// What an erasure would take, but for the time; reads no weight.
    fn plan(
        &mut self,
        files: &dyn ModelFiles,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, EngineError>;

    /// Whether the device works: called before the first command, and after a fault until it does.
    fn check(&mut self) -> Result<(), EngineError>;
}

/// A model on the device. Blocking; only the device thread calls it.
pub trait DeviceEngine: Sized {
    /// An erased model, not yet written.
    type Erased;

    /// The words that the model is known to draw.
    fn vocabulary(&self) -> &Vocabulary;

    /// Whether something came with the model that can judge its pictures.
    fn can_judge(&self) -> bool;

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

    /// Judges an edited model; called on the base model.
    fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError>;

    /// What the optimisation measured.
    fn log(erased: &Self::Erased) -> &TrainingLog;

    /// The scores that were measured on the way, one a concept.
    fn scores(erased: &Self::Erased) -> &[TimestepScores];

    /// Writes the edited U-Net as safetensors.
    fn write_unet(erased: &Self::Erased, out: &mut dyn Write) -> io::Result<()>;

    /// Writes the edited tensors alone as safetensors.
    fn write_delta(
        erased: &Self::Erased,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()>;
}

/// The real thing: candle, by default on the best device that this build knows.
#[derive(Debug, Default)]
pub struct CandleSource {
    settings: ComputeSettings,
    /// The device once it was opened: tensors that come together must be of one and the same.
    compute: Option<Compute>,
    memory_limit: Option<u64>,
}

impl CandleSource {
    /// Engines on a device.
    pub fn new(settings: ComputeSettings) -> Self {
        Self { settings, compute: None, memory_limit: None }
    }

    /// The same, whose processes may take so many bytes while they erase; none where there is no
    /// limit.
    #[must_use]
    pub fn with_memory_limit(self, memory_limit: Option<u64>) -> Self {
        Self { memory_limit, ..self }
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
        Ok(engine.with_memory_limit(self.memory_limit))
    }

    fn plan(
        &mut self,
        files: &dyn ModelFiles,
        spec: &UnlearnSpec,
    ) -> Result<PlanEstimate, EngineError> {
        let plan = engine::plan(files, spec, self.memory_limit)?;
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
fn saving(saving: &Saving) -> Option<String> {
    let Saving { recomputed_segments, segments, repeated_work, passes } = saving;
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

    fn can_judge(&self) -> bool {
        self.can_judge()
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

    fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        self.judge(spec, edited, context)
    }

    fn log(erased: &ErasedCheckpoint) -> &TrainingLog {
        &erased.log
    }

    fn scores(erased: &ErasedCheckpoint) -> &[TimestepScores] {
        &erased.scores
    }

    fn write_unet(erased: &ErasedCheckpoint, out: &mut dyn Write) -> io::Result<()> {
        Ok(erased.write_unet(out)?)
    }

    fn write_delta(
        erased: &ErasedCheckpoint,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        Ok(erased.write_delta(metadata, out)?)
    }
}
