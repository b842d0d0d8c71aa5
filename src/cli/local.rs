//! The seam between the verbs and the engine in this process. The verbs are generic over
//! [`LocalEngine`], so that their tests run with a made-up engine in milliseconds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{CliError, interrupt::Interrupt};
use crate::{
    engine::{EngineError, RunContext},
    outcome::{JudgeReport, Picture, TimestepScores, TrainingLog},
    spec::{GenerateSpec, JudgeSpec, ModelFiles, ScoreSpec, UnlearnSpec, Vocabulary},
};

/// The model that comes with the program.
pub(super) const BUILTIN_MODEL: &str = "builtin:emoji-canvas";

/// A model in this process.
pub(super) trait LocalEngine: Sized {
    /// An erased model, not yet written.
    type Erased;

    /// Opens a folder or a built-in model by name.
    fn open(model: &str, variant: Option<&str>) -> Result<Self, CliError>;
    /// The folder it was opened from.
    fn files(&self) -> &dyn ModelFiles;
    /// The words that the model is known to draw.
    fn vocabulary(&self) -> &Vocabulary;
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
    /// Writes a whole diffusers folder with the edited U-Net.
    fn write_checkpoint(&self, erased: &Self::Erased, folder: &Path) -> Result<(), CliError>;
    /// Writes a safetensors file of the edited tensors alone.
    fn write_delta(
        &self,
        erased: &Self::Erased,
        metadata: &BTreeMap<String, String>,
        file: &Path,
    ) -> Result<(), CliError>;
}

/// PLACEHOLDER: stands for `engine::CandleEngine` over `artifacts::open_model` until both are
/// here. Every call says so; nothing else in `cli` has to change.
#[derive(Debug)]
pub(super) struct CandleLocal {
    never: std::convert::Infallible,
}

impl LocalEngine for CandleLocal {
    type Erased = std::convert::Infallible;

    fn open(model: &str, _variant: Option<&str>) -> Result<Self, CliError> {
        Err(CliError::Artifact(format!("cannot open {model}: the engine is not wired yet").into()))
    }

    fn files(&self) -> &dyn ModelFiles {
        match self.never {}
    }

    fn vocabulary(&self) -> &Vocabulary {
        match self.never {}
    }

    fn score_timesteps(
        &mut self,
        _: &ScoreSpec,
        _: &mut RunContext<'_>,
    ) -> Result<TimestepScores, EngineError> {
        match self.never {}
    }

    fn unlearn(
        &mut self,
        _: &UnlearnSpec,
        _: &mut RunContext<'_>,
    ) -> Result<Self::Erased, EngineError> {
        match self.never {}
    }

    fn generate(
        &mut self,
        _: &GenerateSpec,
        _: &mut RunContext<'_>,
    ) -> Result<Vec<Picture>, EngineError> {
        match self.never {}
    }

    fn judge(
        &mut self,
        _: &JudgeSpec,
        _: &Self,
        _: &mut RunContext<'_>,
    ) -> Result<JudgeReport, EngineError> {
        match self.never {}
    }

    fn log(erased: &Self::Erased) -> &TrainingLog {
        match *erased {}
    }

    fn scores(erased: &Self::Erased) -> &[TimestepScores] {
        match *erased {}
    }

    fn write_checkpoint(&self, _: &Self::Erased, _: &Path) -> Result<(), CliError> {
        match self.never {}
    }

    fn write_delta(
        &self,
        _: &Self::Erased,
        _: &BTreeMap<String, String>,
        _: &Path,
    ) -> Result<(), CliError> {
        match self.never {}
    }
}

/// A folder that appears under its name when it is complete, and else never.
///
/// PLACEHOLDER: the staging itself goes to `artifacts::StagedFolder`; what stays here is that an
/// interrupt removes it.
#[derive(Debug)]
pub(super) struct StagedFolder {
    folder: tempfile::TempDir,
    out: PathBuf,
    interrupt: Interrupt,
}

impl StagedFolder {
    /// Makes an unfinished folder beside the final one, on the same disk.
    pub(super) fn create(out: &Path, interrupt: &Interrupt) -> Result<Self, CliError> {
        super::files::refuse_existing(out)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".keystep-unfinished-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let folder = builder.tempdir_in(super::files::parent_of(out)).map_err(|source| {
            CliError::File { action: "make the folder", path: out.to_owned(), source }
        })?;
        interrupt.guard(folder.path());
        Ok(Self { folder, out: out.to_owned(), interrupt: interrupt.clone() })
    }

    /// Where to write until it is complete.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the folder its name, unless a signal came or another took the name meanwhile.
    pub(super) fn commit(self) -> Result<(), CliError> {
        self.interrupt.check()?;
        super::files::refuse_existing(&self.out)?;
        std::fs::rename(self.folder.path(), &self.out).map_err(|source| CliError::File {
            action: "make the folder",
            path: self.out.clone(),
            source,
        })
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        self.interrupt.release(self.folder.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_when_it_is_complete() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let interrupt = Interrupt::default();
        let staged = StagedFolder::create(&out, &interrupt).unwrap();
        std::fs::write(staged.path().join("a"), "1").unwrap();
        assert!(!out.exists());
        staged.commit().unwrap();
        assert_eq!(std::fs::read(out.join("a")).unwrap(), b"1");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_of_an_interrupted_folder() {
        let parent = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::default();
        let staged = StagedFolder::create(&parent.path().join("out"), &interrupt).unwrap();
        interrupt.cancel.cancel();
        assert!(matches!(staged.commit(), Err(CliError::Interrupted)));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
