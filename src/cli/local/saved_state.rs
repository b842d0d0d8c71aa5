//! The saved state of `keystep unlearn --local`, from which the same command goes on after the
//! process was killed.

use std::{
    io::{self, Write},
    path::Path,
};

use crate::{
    cli::{CliError, interrupt::Interrupt, session::Session},
    engine::{EngineError, PartReader, SavePoint, StateError, StatePart, StateStore},
    run::StateFiles,
};

/// The state's folder.
#[derive(Debug)]
pub(super) struct SavedState {
    files: StateFiles,
    /// Whether an interruption leaves nothing: the folder was neither asked for nor there before.
    is_passing: bool,
    /// Whether the last save failed.
    has_failed: bool,
    interrupt: Interrupt,
}

impl SavedState {
    /// In the folder that was asked for, else in one beside the result, which is named after it.
    pub(super) fn of(asked: Option<&Path>, out: &Path, interrupt: &Interrupt) -> Self {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".state");
        let beside = out.with_file_name(name);
        let files = StateFiles::new(asked.unwrap_or(&beside));
        let is_passing = asked.is_none() && !beside.exists();
        if is_passing {
            interrupt.guard(&beside);
        }
        Self { files, is_passing, has_failed: false, interrupt: interrupt.clone() }
    }

    /// Removes what no further run can use; `failed` is why there is no result.
    pub(super) fn settle(&self, failed: Option<&CliError>, session: &mut Session) {
        self.interrupt.release(self.files.folder());
        let stays = failed.is_some_and(|error| match error {
            CliError::Interrupted => !self.is_passing,
            CliError::NotWritten { kept, .. } => kept.is_none(),
            CliError::Engine(error) => !is_final(error),
            _ => true,
        });
        let folder = self.files.folder().display();
        if !stays {
            if let Err(error) = self.files.clear() {
                session.note(&format!("cannot remove the saved state in {folder}: {error}"));
            }
        } else if !self.files.is_empty() {
            session.note(&format!(
                "how far the run came is saved in {folder}: the same command goes on from there"
            ));
        }
    }
}

/// Whether the same run would end the same way.
fn is_final(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::NoOp { .. }
            | EngineError::WreckedModel { .. }
            | EngineError::NotFinite { .. }
            | EngineError::ZeroGradient { .. }
            | EngineError::MissingGradient { .. }
    )
}

impl StateStore for SavedState {
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError> {
        self.files.load(part)
    }

    /// Of several failures in a row only the first is one to the run: a disk that fills shall not
    /// end a training whose result may be kept elsewhere.
    fn save(
        &mut self,
        point: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let saved = self.files.save(point, write);
        let has_failed = std::mem::replace(&mut self.has_failed, saved.is_err());
        if has_failed { Ok(()) } else { saved }
    }
}
