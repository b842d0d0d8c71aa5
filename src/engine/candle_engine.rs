//! The engine: a model on one device, and what can be done with it.

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor};

use super::{
    Compute, ComputeSettings, Drawn, EngineError, Pipeline, RunContext,
    checkpoint::read_edited,
    generate, judge, score,
    unlearn::{self, ErasedCheckpoint},
};
use crate::{
    outcome::{JudgeReport, Picture, TimestepScores},
    spec::{
        GenerateSpec, JudgeSpec, ModelFiles, ReadSeek, ScoreSpec, SpecError, UnlearnSpec,
        Vocabulary,
    },
};

/// A pipeline in memory.
#[derive(Debug, Clone)]
pub struct CandleEngine {
    pipeline: Pipeline,
    memory_limit: Option<u64>,
}

impl CandleEngine {
    /// Reads a model onto the best device that this build knows: CUDA where it is compiled in and
    /// there, else the CPU.
    pub fn load(files: &dyn ModelFiles, variant: Option<&str>) -> Result<Self, EngineError> {
        Self::load_on(files, variant, &ComputeSettings::default().open()?)
    }

    /// The same model, whose erasures keep the process within so many bytes. Their results are the
    /// same; where it takes computing things twice or passes one after the other, they are slower.
    /// None lifts the limit.
    #[must_use]
    pub fn with_memory_limit(self, memory_limit: Option<u64>) -> Self {
        Self { memory_limit, ..self }
    }

    /// Reads a model onto a device.
    pub fn load_on(
        files: &dyn ModelFiles,
        variant: Option<&str>,
        compute: &Compute,
    ) -> Result<Self, EngineError> {
        Ok(Self { pipeline: Pipeline::load(files, variant, compute)?, memory_limit: None })
    }

    /// Adds two numbers on a device: whether it works.
    pub fn check_device(compute: &Compute) -> Result<(), EngineError> {
        let one = Tensor::ones(1, DType::F32, &compute.device)?;
        (&one + &one)?.to_vec1::<f32>()?;
        Ok(())
    }

    /// The words that the model is known to draw.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.pipeline.vocabulary
    }

    /// The parts.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The same model with an erased U-Net; everything else is shared.
    pub fn with_erased(&self, erased: &ErasedCheckpoint) -> Result<Self, EngineError> {
        Ok(Self { pipeline: self.pipeline.with_unet(erased.tensors.clone())?, ..*self })
    }

    /// The same model with some of its U-Net's tensors replaced by those of a safetensors file, such
    /// as an erasure's delta; all others are shared. `file` is how messages name the file.
    pub fn with_edited(
        &self,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self, EngineError> {
        let base = &self.pipeline.unet_tensors;
        let tensors = read_edited(file, reader, length, base, &Device::Cpu)?;
        Ok(Self { pipeline: self.pipeline.with_unet(tensors)?, ..*self })
    }

    /// Whether the model's folder brought something that can judge its pictures.
    pub fn can_judge(&self) -> bool {
        self.pipeline.judges.all().is_ok()
    }

    /// [`CandleEngine::generate`], with each picture handed over once it is drawn, and small previews
    /// every so many steps where they are asked for. The pictures are the same.
    pub fn generate_each(
        &self,
        spec: &GenerateSpec,
        preview_every: Option<NonZeroUsize>,
        hand_over: &mut dyn FnMut(Drawn),
        context: &mut RunContext<'_>,
    ) -> Result<(), EngineError> {
        generate::generate_each(&self.pipeline, spec, preview_every, hand_over, context)?;
        Ok(())
    }

    /// Judges an edited model against this one.
    pub fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        judge::judge(&self.pipeline, &edited.pipeline, spec, context)
    }

    /// What [`CandleEngine::judge`] draws with each model, for callers that keep the base model's
    /// pictures from one judgement to the next.
    pub fn judged_pictures(spec: &JudgeSpec) -> Result<GenerateSpec, EngineError> {
        spec.validate()?;
        Ok(judge::drawing(spec))
    }

    /// Judges pictures that were drawn to [`CandleEngine::judged_pictures`] by this model and by an
    /// edited one.
    pub fn judge_drawn(
        &self,
        spec: &JudgeSpec,
        before: Vec<Picture>,
        after: Vec<Picture>,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        let wanted = Self::judged_pictures(spec)?.pictures.len();
        for (field, drawn) in [("before", before.len()), ("after", after.len())] {
            if drawn != wanted {
                let message = format!("{drawn} pictures were given, the grid has {wanted}");
                return Err(SpecError::one(field, message).into());
            }
        }
        judge::compare(&self.pipeline, spec, before, after, context)
    }
}

/// What can be done with a model. Blocking.
impl CandleEngine {
    /// Measures which steps decide a concept.
    pub fn score_timesteps(
        &self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError> {
        score::score_timesteps(&self.pipeline, spec, context)
    }

    /// Erases concepts; reports every update and returns early when cancelled.
    pub fn unlearn(
        &self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<ErasedCheckpoint, EngineError> {
        unlearn::unlearn(&self.pipeline, spec, self.memory_limit, context)
    }

    /// Draws pictures.
    pub fn generate(
        &self,
        spec: &GenerateSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Vec<Picture>, EngineError> {
        Ok(generate::generate(&self.pipeline, spec, context)?.0)
    }
}
