//! The seam between the verbs and the engine in this process. The verbs are generic over
//! [`LocalEngine`], so that their tests run with a made-up engine in milliseconds.

pub(super) mod evaluate;
pub(super) mod generate;
pub(super) mod score;
pub(super) mod unlearn;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::CliError;
use crate::{
    artifacts::open_model,
    engine::{CandleEngine, Engine, EngineError, ErasedCheckpoint, RunContext},
    outcome::{JudgeReport, Picture, TimestepScores, TrainingLog},
    spec::{GenerateSpec, JudgeSpec, ModelFiles, ScoreSpec, UnlearnSpec, Vocabulary},
};

/// A model that is loaded in this process, and where it came from.
#[derive(Debug)]
pub(super) struct LocalModel<E> {
    pub(super) files: Box<dyn ModelFiles>,
    pub(super) engine: E,
}

impl<E: LocalEngine> LocalModel<E> {
    /// Opens and loads a folder or a built-in model.
    pub(super) fn open(location: &str, variant: Option<&str>) -> Result<Self, CliError> {
        let files = open_model(location)?;
        let engine = E::load(files.as_ref(), variant)?;
        Ok(Self { files, engine })
    }
}

/// What the verbs ask of an engine; the methods are `engine::CandleEngine`'s.
pub(super) trait LocalEngine: Sized {
    /// An erased model, not yet written; `engine::ErasedCheckpoint`.
    type Erased;

    /// Reads the weights.
    fn load(files: &dyn ModelFiles, variant: Option<&str>) -> Result<Self, EngineError>;
    /// The words that the model is known to draw.
    fn vocabulary(&self) -> &Vocabulary;
    /// Digest of the U-Net's weights, as scores cite it.
    fn unet_digest(&self) -> Result<String, EngineError>;
    /// Measures which steps decide a concept.
    fn score_timesteps(
        &mut self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError>;
    /// Erases concepts.
    fn unlearn(
        &mut self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Self::Erased, EngineError>;
    /// Draws pictures.
    fn generate(
        &mut self,
        spec: &GenerateSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Vec<Picture>, EngineError>;
    /// Judges an edited model; called on the base model.
    fn judge(
        &mut self,
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

impl LocalEngine for CandleEngine {
    type Erased = ErasedCheckpoint;

    fn load(files: &dyn ModelFiles, variant: Option<&str>) -> Result<Self, EngineError> {
        Self::load(files, variant)
    }

    fn vocabulary(&self) -> &Vocabulary {
        self.vocabulary()
    }

    fn unet_digest(&self) -> Result<String, EngineError> {
        Ok(self.pipeline().unet_tensors.digest()?)
    }

    fn score_timesteps(
        &mut self,
        spec: &ScoreSpec,
        context: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError> {
        Engine::score_timesteps(self, spec, context)
    }

    fn unlearn(
        &mut self,
        spec: &UnlearnSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Self::Erased, EngineError> {
        Engine::unlearn(self, spec, context)
    }

    fn generate(
        &mut self,
        spec: &GenerateSpec,
        context: &mut RunContext<'_>,
    ) -> Result<Vec<Picture>, EngineError> {
        Engine::generate(self, spec, context)
    }

    fn judge(
        &mut self,
        spec: &JudgeSpec,
        edited: &Self,
        context: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        Self::judge(self, spec, edited, context)
    }

    fn log(erased: &Self::Erased) -> &TrainingLog {
        &erased.log
    }

    fn scores(erased: &Self::Erased) -> &[TimestepScores] {
        &erased.scores
    }

    fn write_unet(erased: &Self::Erased, out: &mut dyn Write) -> io::Result<()> {
        Ok(erased.write_unet(out)?)
    }

    fn write_delta(
        erased: &Self::Erased,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        Ok(erased.write_delta(metadata, out)?)
    }
}
