//! `StateStore`: where a run's state is kept, part by part.

use std::io::{self, Write};

use crate::spec::ReadSeek;

/// The parts of a run's state, each saved whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatePart {
    /// The scores that a run measures for its window; written anew after each concept.
    Scores,
    /// How far Keystep's walks are; written anew on the way.
    Walk,
    /// Keystep's walked bank; written once.
    Bank,
    /// Everything that an update changes; written anew every so many updates.
    Training,
}

impl StatePart {
    /// Every part, in the order in which a run comes to them.
    pub const ALL: [Self; 4] = [Self::Scores, Self::Walk, Self::Bank, Self::Training];

    /// What a file of the part is called.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Scores => "scores.safetensors",
            Self::Walk => "walk.safetensors",
            Self::Bank => "bank.safetensors",
            Self::Training => "training.safetensors",
        }
    }
}

/// How far a run is when it saves: grows along the run, by its part and within that by what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SavePoint {
    /// What is saved.
    pub part: StatePart,
    /// Concepts that are scored, steps that are walked, or updates that are made.
    pub done: u64,
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
        point: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError>;
}

/// Why a part of a run's state could not be kept or found again.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store could not take it.
    #[error(
        "cannot save the run's state to {file}: {}; {}, then start the run again",
        said(source),
        remedy(source)
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

fn said(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::IsADirectory => "a folder has its name".to_owned(),
        _ => source.to_string(),
    }
}

fn remedy(source: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match source.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => "make room where it lies",
        Kind::IsADirectory => "remove that folder",
        _ => "see to the disk and its permissions",
    }
}
