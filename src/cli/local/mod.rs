//! The seam between the verbs and the engine in this process. The verbs are generic over
//! [`LocalEngine`], so that their tests run with a made-up engine in milliseconds.

pub(super) mod evaluate;
pub(super) mod generate;
pub(super) mod score;
pub(super) mod unlearn;

use super::CliError;
use crate::{
    artifacts::open_model,
    engine::{CandleEngine, Compute, EngineError},
    spec::ModelFiles,
    worker::DeviceEngine,
};

/// A model that is loaded in this process, and where it came from.
#[derive(Debug)]
pub(super) struct LocalModel<E> {
    pub(super) files: Box<dyn ModelFiles>,
    pub(super) engine: E,
}

impl<E: LocalEngine> LocalModel<E> {
    /// Opens and loads a folder or a built-in model.
    pub(super) fn open(
        location: &str,
        variant: Option<&str>,
        compute: &Compute,
    ) -> Result<Self, CliError> {
        let files = open_model(location)?;
        let engine = E::load(files.as_ref(), variant, compute)?;
        Ok(Self { files, engine })
    }
}

/// What the verbs ask of an engine beside what a worker asks.
pub(super) trait LocalEngine: DeviceEngine {
    /// Reads the weights.
    fn load(
        files: &dyn ModelFiles,
        variant: Option<&str>,
        compute: &Compute,
    ) -> Result<Self, EngineError>;
    /// The same model, whose erasures take no more memory than a limit.
    #[must_use]
    fn with_memory_limit(self, memory_limit: Option<u64>) -> Self;
    /// Digest of the U-Net's weights, as scores cite it.
    fn unet_digest(&self) -> Result<String, EngineError>;
}

impl LocalEngine for CandleEngine {
    fn load(
        files: &dyn ModelFiles,
        variant: Option<&str>,
        compute: &Compute,
    ) -> Result<Self, EngineError> {
        Self::load_on(files, variant, compute)
    }

    fn with_memory_limit(self, memory_limit: Option<u64>) -> Self {
        self.with_memory_limit(memory_limit)
    }

    fn unet_digest(&self) -> Result<String, EngineError> {
        Ok(self.pipeline().unet_tensors.digest()?)
    }
}
