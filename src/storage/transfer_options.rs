//! How files are sent.

use std::path::PathBuf;

use super::{Patience, StorageSettings};

/// How a file is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferOptions {
    /// Bytes of a part; a file of no more goes in one piece.
    pub part_bytes: u64,
    /// Parts in flight, each of which is held in memory.
    pub parts_in_flight: usize,
    /// A file that remembers which parts were sent, so that another process can go on; several
    /// uploads may share it, one after another.
    pub journal: Option<PathBuf>,
    /// How often a part is tried.
    pub patience: Patience,
}

impl From<&StorageSettings> for TransferOptions {
    fn from(settings: &StorageSettings) -> Self {
        Self {
            part_bytes: settings.effective_part_bytes(),
            parts_in_flight: settings.effective_parts_in_flight(),
            journal: None,
            patience: Patience::default(),
        }
    }
}
