//! State that outlives a process: what a long run saves on its way, and where it finds it again.
//!
//! A run that is killed at any moment and started again with what it had saved ends with the same
//! bytes as one that was never interrupted. The engine writes and reads the state's bytes; a
//! [`StateStore`] keeps them.

mod file;

use std::io::{self, Write};

pub(super) use file::{Contents, Identity, SavedPart};

use super::{EngineError, RunContext, run::PauseFlag};
use crate::{outcome::Notice, spec::ReadSeek};

/// The parts of a run's state, each saved whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatePart {
    /// The scores that a run measures for its window; written anew after each concept.
    Scores,
    /// Keystep's walked bank; written once.
    Bank,
    /// Everything that an update changes; written anew every so many updates.
    Training,
}

impl StatePart {
    /// Every part, in the order in which a run comes to them.
    pub const ALL: [Self; 3] = [Self::Scores, Self::Bank, Self::Training];

    /// What a file of the part is called.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Scores => "scores.safetensors",
            Self::Bank => "bank.safetensors",
            Self::Training => "training.safetensors",
        }
    }
}

/// A part as it was saved: its reader and its length in bytes.
pub type PartReader = (Box<dyn ReadSeek>, u64);

/// Where a run's state goes and comes from.
///
/// The store answers for the bytes: what [`StateStore::load`] gives is what one call of
/// [`StateStore::save`] wrote from beginning to end, or nothing. A save that was cut short leaves
/// the one before it in place. The engine checks the structure of what it is given and for which
/// run it was written; a bit that flipped within a weight only a digest of the store's can tell.
pub trait StateStore {
    /// Opens a part, if it was ever saved; gives the reader and its length in bytes.
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError>;

    /// Saves a part in place of the one before. `write` is called at most once and streams: the
    /// state of a large model never lies in memory as a whole.
    fn save(
        &mut self,
        part: StatePart,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError>;
}

/// Why a part of a run's state could not be kept or found again.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store could not take it.
    #[error(
        "cannot save the run's state to {file}: {source}; make room where it lies, then start the run again"
    )]
    Unwritable {
        /// The part's file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The store could not give it back.
    #[error("cannot read the run's state from {file}: {source}; the run begins that part anew")]
    Unreadable {
        /// The part's file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// What the store has is not what was saved.
    #[error("the run's state in {file} is damaged: {message}; the run begins that part anew")]
    Damaged {
        /// The part's file.
        file: String,
        /// How it can tell.
        message: String,
    },
}

/// How a run saves its state.
pub struct Saving<'a> {
    /// Where to.
    pub store: &'a mut dyn StateStore,
    /// Updates from one save to the next; 0 saves on a pause alone.
    pub every: usize,
    /// Watched before every unit of work: once set, the run saves where it stands and ends with
    /// [`EngineError::Paused`].
    pub pause: PauseFlag,
    /// Told what became of saved state, for a log.
    pub notice: &'a mut dyn FnMut(Notice),
}

impl std::fmt::Debug for Saving<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Saving")
            .field("every", &self.every)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// A part that fails to be saved so often in a row ends the run: its disk will not take the result
/// either, and a run of days shall not hang on the hope that nobody stops it.
const MOST_FAILURES: usize = 3;

/// Saves and finds the state of one run; does nothing where the context has no store.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Who the run is; none where nothing is kept.
    identity: Option<Identity>,
    /// Saves that failed since one succeeded.
    failures: usize,
}

impl Keeper {
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

    /// Saves a part; says whether that succeeded. A failure is told and passed over, unless it is
    /// one too many or `must` says that the run will not come to save again.
    pub(super) fn save(
        &mut self,
        part: StatePart,
        must: bool,
        contents: &Contents<'_>,
        context: &mut RunContext<'_>,
    ) -> Result<bool, EngineError> {
        let (Some(identity), Some(saving)) = (&self.identity, &mut context.saving) else {
            return Ok(false);
        };
        let saved = saving.store.save(part, &mut |out| identity.write(part, contents, out));
        match saved {
            Ok(()) => {
                self.failures = 0;
                Ok(true)
            }
            Err(error) => {
                self.failures += 1;
                if must || self.failures >= MOST_FAILURES {
                    return Err(error.into());
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
