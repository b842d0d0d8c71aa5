//! `LocalEngine`: what the verbs ask of the engine in this process. The verbs are generic over it,
//! so that their tests run with a scripted engine in milliseconds.

use std::path::Path;

use crate::{
    artifacts::{ModelFolder, open_model},
    cli::{CliError, session::Session},
    engine::{CandleEngine, Compute, EngineError, judge::GivenJudge},
    outcome::ErasureRecord,
    run::DeviceEngine,
    spec::{ModelFiles, ReadSeek},
};

/// A model that is loaded in this process, and where it came from.
#[derive(Debug)]
pub(in crate::cli) struct LocalModel<E> {
    pub(in crate::cli) files: Box<dyn ModelFiles>,
    pub(in crate::cli) engine: E,
}

impl<E: LocalEngine> LocalModel<E> {
    /// Opens and loads a folder or a built-in model, and tells what is odd about it.
    pub(in crate::cli) fn open(
        location: &str,
        variant: Option<&str>,
        compute: &Compute,
        session: &mut Session,
    ) -> Result<Self, CliError> {
        let files = open_model(location)?;
        let engine = E::load(files.as_ref(), variant, compute)?;
        for warning in engine.warnings() {
            session.note(warning);
        }
        Ok(Self { files, engine })
    }

    /// The same model with the judges of these folders beside its own, each called as its folder is;
    /// tells what is odd about them.
    pub(in crate::cli) fn with_judges(
        self,
        folders: &[String],
        session: &mut Session,
    ) -> Result<Self, CliError> {
        if folders.is_empty() {
            return Ok(self);
        }
        let mut opened = Vec::with_capacity(folders.len());
        for folder in folders {
            let folder = Path::new(folder);
            let name = folder.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
                let folder = folder.display();
                CliError::Usage(format!(
                    "--judge {folder} has no name to call the judge by; give a folder by its name"
                ))
            })?;
            opened.push((name, ModelFolder::open_judge(folder)?));
        }
        let judges: Vec<_> =
            opened.iter().map(|(name, files)| GivenJudge { name, files }).collect();
        let engine = self.engine.with_judges(&judges)?;
        for warning in engine.warnings().iter().skip(self.engine.warnings().len()) {
            session.note(warning);
        }
        Ok(Self { engine, ..self })
    }
}

/// What the verbs ask of an engine beside what a worker asks.
pub(in crate::cli) trait LocalEngine: DeviceEngine {
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
    /// An erasure of this model that was made before, of its edited tensors as
    /// [`DeviceEngine::write_delta`] wrote them, and all else of it.
    fn restore_erased(
        &self,
        record: ErasureRecord,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self::Erased, EngineError>;
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

    fn restore_erased(
        &self,
        record: ErasureRecord,
        file: &str,
        reader: Box<dyn ReadSeek>,
        length: u64,
    ) -> Result<Self::Erased, EngineError> {
        self.restore_erased(record, file, reader, length)
    }
}
