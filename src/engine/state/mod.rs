//! State that outlives a process: what a long run saves on its way, and where it finds it again.
//!
//! A run that is killed at any moment and started again with what it had saved ends with the same
//! bytes as one that was never interrupted. The engine writes and reads the state's bytes; a
//! [`super::StateStore`] keeps them.

mod file;

pub(super) use file::{Contents, Identity, SavedPart};

use super::{EngineError, RunContext, SavePoint, StatePart};
use crate::outcome::Notice;

/// A part that fails to be saved so often in a row ends the run: its disk will not take the result
/// either, and a run of days shall not hang on the hope that nobody stops it.
const MOST_FAILURES: usize = 3;

/// Why a part is saved, which decides what a failure does to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaveOccasion {
    /// On the way: a failure becomes a notice, and an error once [`MOST_FAILURES`] came in a row.
    UnderWay,
    /// Before a pause, after which nothing but the saved state is left: a failure is an error.
    Pause,
    /// At the end: the run goes on to its result whether or not the state was saved.
    End,
}

/// Saves and finds the state of one run; does nothing where the context has no store.
#[derive(Debug)]
pub(super) struct Checkpointer {
    /// Who the run is; none where nothing is kept.
    identity: Option<Identity>,
    /// Saves that failed since one succeeded.
    failures: usize,
}

impl Checkpointer {
    /// `identity` is called only where there is a store.
    pub(super) fn new(
        context: &RunContext<'_>,
        identity: impl FnOnce() -> Result<Identity, EngineError>,
    ) -> Result<Self, EngineError> {
        let identity = context.saving.as_ref().map(|_| identity()).transpose()?;
        Ok(Self { identity, failures: 0 })
    }

    /// A part that this very run has saved; tells why where there is one that cannot be used.
    pub(super) fn find(&self, part: StatePart, context: &mut RunContext<'_>) -> Option<SavedPart> {
        let (Some(identity), Some(saving)) = (&self.identity, &mut context.saving) else {
            return None;
        };
        let opened = match saving.store.load(part) {
            Ok(None) => return None,
            Ok(Some((reader, length))) => SavedPart::open(identity, part, reader, length),
            Err(error) => Err(error.to_string()),
        };
        opened.map_err(|reason| ignore(part, reason, context)).ok()
    }

    /// Saves a part; says whether that succeeded.
    pub(super) fn save(
        &mut self,
        point: SavePoint,
        occasion: SaveOccasion,
        contents: &Contents<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<bool, EngineError> {
        let (Some(identity), Some(saving)) = (&self.identity, &mut context.saving) else {
            return Ok(false);
        };
        let part = point.part;
        let saved = saving.store.save(point, &mut |out| identity.write(part, contents, out));
        match saved {
            Ok(()) => {
                self.failures = 0;
                Ok(true)
            }
            Err(error) => {
                self.failures += 1;
                match occasion {
                    SaveOccasion::Pause => return Err(error.into()),
                    SaveOccasion::UnderWay if self.failures >= MOST_FAILURES => {
                        return Err(error.into());
                    }
                    SaveOccasion::UnderWay | SaveOccasion::End => {}
                }
                let reason = error.to_string();
                (saving.notice)(Notice::StateNotSaved { file: part.file_name(), reason });
                Ok(false)
            }
        }
    }
}

/// Tells that a part was found and begins anew all the same.
pub(super) fn ignore(part: StatePart, reason: String, context: &mut RunContext<'_>) {
    tell(Notice::StateIgnored { file: part.file_name(), reason }, context);
}

/// Passes a notice on, where anyone listens.
pub(super) fn tell(notice: Notice, context: &mut RunContext<'_>) {
    if let Some(saving) = &mut context.saving {
        (saving.notice)(notice);
    }
}
