//! `CandleEngine`: a model on one device, and everything that can be done with it.

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor};

use super::{
    Compute, ComputeSettings, EngineError, Pipeline, RunContext, WorkMemory,
    checkpoint::read_edited,
    evaluate::{self, Evaluation, NoPictures, PictureStore},
    generate,
    plan::{self, Drawing},
    sampler, score,
    unlearn::{self, ErasedCheckpoint},
};
use crate::{
    outcome::{DeviceKind, Drawn, ErasureRecord, JudgeReport, Picture, TimestepScores},
    spec::{
        GenerateSpec, JudgeSpec, ModelFiles, ReadSeek, SamplerKind, ScoreSpec, UnlearnSpec,
        Vocabulary,
    },
};

/// A pipeline in memory. Its calls read every spec in canonical words, so that two writings of one
/// concept give the same bytes.
///
/// ```no_run
/// use keystep::{
///     artifacts::open_model,
///     engine::{CandleEngine, RunContext},
///     spec::{GenerateSpec, UnlearnSpec},
/// };
///
/// # fn erase(spec: &UnlearnSpec, drawing: &GenerateSpec) -> Result<(), Box<dyn std::error::Error>> {
/// let files = open_model("builtin:emoji-canvas")?;
/// let base = CandleEngine::load(files.as_ref(), None)?;
/// let mut report = |progress| eprintln!("{progress:?}");
/// let mut context = RunContext::reporting(&mut report);
/// let erased = base.unlearn(spec, &mut context)?;
/// let pictures = base.with_erased(&erased)?.generate(drawing, &mut context)?;
/// # drop(pictures);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CandleEngine {
    pipeline: Pipeline,
}

impl CandleEngine {
    /// Reads a model onto the best device that this build knows: CUDA where it is compiled in and
    /// there, else the CPU.
    pub fn load(files: &dyn ModelFiles, variant: Option<&str>) -> Result<Self, EngineError> {
        Self::load_on(files, variant, &ComputeSettings::default().open()?)
    }

    /// The same model, whose work keeps the process within so many bytes, or is refused. Its results
    /// are the same, but that pictures of more than 512 pixels a side are decoded in tiles where
    /// nothing else helps; where it takes computing things twice or passes one after the other, it is
    /// slower. None lifts the limit.
    #[must_use]
    pub fn with_memory_limit(mut self, memory_limit: Option<u64>) -> Self {
        self.pipeline.memory_limit = memory_limit;
        self
    }

    /// Bytes of the weights that this model does not share with the one that it was made of.
    pub fn own_bytes(&self) -> u64 {
        self.pipeline.own_bytes
    }

    /// What a drawing holds at its peak; an error where that is more than the limit, and so below.
    pub fn drawing_memory(&self, spec: &GenerateSpec) -> Result<WorkMemory, EngineError> {
        Ok(plan::drawing(&self.pipeline, spec)?.memory)
    }

    /// What a measurement holds.
    pub fn scoring_memory(&self, spec: &ScoreSpec) -> Result<WorkMemory, EngineError> {
        plan::scoring(&self.pipeline, &spec.canonical())
    }

    /// What a judgement holds.
    pub fn judgement_memory(&self, spec: &JudgeSpec) -> Result<WorkMemory, EngineError> {
        Ok(plan::judgement(&self.pipeline, &spec.canonical())?.memory)
    }

    /// What an erasure holds.
    pub fn erasure_memory(&self, spec: &UnlearnSpec) -> Result<WorkMemory, EngineError> {
        plan::erasure(&self.pipeline, &spec.canonical())
    }

    /// Reads a model onto a device.
    pub fn load_on(
        files: &dyn ModelFiles,
        variant: Option<&str>,
        compute: &Compute,
    ) -> Result<Self, EngineError> {
        Ok(Self { pipeline: Pipeline::load(files, variant, compute)? })
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
        Ok(Self { pipeline: self.pipeline.with_unet(erased.tensors.clone())? })
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
        Ok(Self { pipeline: self.pipeline.with_unet(tensors)? })
    }

    /// An erasure of this model that was made before: its edited tensors in a safetensors file, as
    /// [`ErasedCheckpoint::write_delta`] wrote them, and all else of it. `file` is how messages name
    /// the file.
    pub fn restore_erased(
        &self,
        record: ErasureRecord,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<ErasedCheckpoint, EngineError> {
        record.spec.validate()?;
        ErasedCheckpoint::restore(&self.pipeline, record, (file, reader, length))
    }

    /// What computes.
    pub fn device_kind(&self) -> DeviceKind {
        self.pipeline.device_kind()
    }

    /// Width and height of the pictures that it draws where a spec names none.
    pub fn own_size(&self) -> Result<(usize, usize), EngineError> {
        let [_, height, width] = self.pipeline.latent_shape(None)?;
        let factor = self.pipeline.vae.factor();
        Ok((width * factor, height * factor))
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
        let Drawing { policy, .. } = self.plan_drawing(spec)?;
        let asked = (spec, policy);
        generate::generate_each(&self.pipeline, asked, preview_every, hand_over, context)?;
        Ok(())
    }

    /// What [`CandleEngine::judge`] draws with; an error where the sampler cannot take so many steps,
    /// or cannot follow the folder's config.
    pub fn judge_sampler(&self, spec: &JudgeSpec) -> Result<SamplerKind, EngineError> {
        let Pipeline { sampling, scheduler, .. } = &self.pipeline;
        let kind = sampling.kind(spec.sampler);
        sampler::open(kind, sampling, scheduler, spec.steps)?;
        Ok(kind)
    }

    /// Judges an edited model against this one.
    pub fn judge(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        self.judge_keeping(spec, edited, &mut NoPictures, context)
    }

    /// [`CandleEngine::judge`], with this model's pictures looked for in a store, and kept there. The
    /// report is the same but for `kept_evaluations`. The store must be of this model alone.
    pub fn judge_keeping(
        &self,
        spec: &JudgeSpec,
        edited: &Self,
        store: &mut dyn PictureStore,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        let (base, spec) = (&self.pipeline, &spec.canonical());
        spec.validate()?;
        let Drawing { policy, memory } = plan::judgement(base, spec)?;
        plan::spare(base, memory);
        let evaluation = Evaluation { base, edited: &edited.pipeline, spec, policy };
        evaluate::judge(evaluation, store, context)
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
        let (pipeline, spec) = (&self.pipeline, &spec.canonical());
        spec.validate()?;
        plan::spare(pipeline, plan::scoring(pipeline, spec)?);
        score::score_timesteps(pipeline, spec, context)
    }

    /// Erases concepts; reports every update and returns early when cancelled.
    pub fn unlearn(
        &self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<ErasedCheckpoint, EngineError> {
        let spec = &spec.canonical();
        unlearn::check(&self.pipeline, spec)?;
        let Some(limit) = self.pipeline.memory_limit else {
            return unlearn::unlearn(&self.pipeline, spec, context);
        };
        let policy = plan::memory_policy(&self.pipeline, spec, limit)?;
        let pipeline = self.pipeline.with_memory_policy(policy);
        plan::spare(&pipeline, plan::erasure(&pipeline, spec)?);
        unlearn::unlearn(&pipeline, spec, context)
    }

    /// Draws pictures.
    pub fn generate(
        &self,
        spec: &GenerateSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Vec<Picture>, EngineError> {
        let Drawing { policy, .. } = self.plan_drawing(spec)?;
        Ok(generate::generate(&self.pipeline, spec, policy, context)?.0)
    }

    /// Before the first large thing that is computed.
    fn plan_drawing(&self, spec: &GenerateSpec) -> Result<Drawing, EngineError> {
        spec.validate()?;
        let plan = plan::drawing(&self.pipeline, spec)?;
        plan::spare(&self.pipeline, plan.memory);
        Ok(plan)
    }
}
