//! What the attempts at a run share in object storage, each under its own number, so that one that
//! was given up and goes on all the same overwrites nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::saving::SavePace;
use crate::{
    jobs::{Clock, Monotonic},
    storage::{StorageError, StorageLocation, TransferOptions, list_below, remove},
};

/// The objects of one attempt at a run: what is called `NAME` lies at `NAME/ATTEMPT`, a file as one
/// object and a folder as those below it.
#[derive(Debug, Clone)]
pub(super) struct AttemptObjects {
    /// Of the run.
    pub(super) place: StorageLocation,
    pub(super) attempt: u64,
    pub(super) transfers: TransferOptions,
    pub(super) outage: Outage,
}

impl AttemptObjects {
    /// The newest attempt, this one or one before it, that left an object: `whole` is the name of a
    /// folder's last file, empty for a file.
    pub(super) async fn newest(
        &self,
        name: &str,
        whole: &str,
    ) -> Result<Option<u64>, StorageError> {
        if self.attempt <= 1 {
            // Nobody came before, and this disk has what this one left.
            return Ok(None);
        }
        let listed = self.listed(name).await?;
        let left = listed.iter().filter(|(_, below)| below == whole);
        Ok(left.map(|(attempt, _)| *attempt).filter(|attempt| *attempt <= self.attempt).max())
    }

    /// Removes what earlier attempts left under a name.
    pub(super) async fn remove_earlier(&self, name: &str) -> Result<(), StorageError> {
        for (attempt, below) in self.listed(name).await? {
            if attempt < self.attempt {
                let object = self.object(name, attempt)?;
                let object = if below.is_empty() { object } else { object.child(&below)? };
                remove(&object, self.transfers.patience).await?;
            }
        }
        Ok(())
    }

    /// Where an attempt has what is called so.
    pub(super) fn object(&self, name: &str, attempt: u64) -> Result<StorageLocation, StorageError> {
        self.place.child(&format!("{name}/{attempt}"))
    }

    /// Each object under a name, by its attempt and its path below that.
    async fn listed(&self, name: &str) -> Result<Vec<(u64, String)>, StorageError> {
        let names = list_below(&self.place.child(name)?, self.transfers.patience).await?;
        let split = names.iter().filter_map(|name| {
            let (attempt, below) = name.split_once('/').unwrap_or((name, ""));
            Some((attempt.parse().ok()?, below.to_owned()))
        });
        Ok(split.collect())
    }
}

/// When to ask a storage again that was away: it takes minutes to find that one does not answer, so
/// that it is left alone for a multiple of that time. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Outage {
    clock: Clock,
    pace: Arc<Mutex<Option<SavePace>>>,
}

impl Outage {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, pace: Arc::default() }
    }

    pub(super) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// Whether the storage was away lately, and is not to be asked yet.
    pub(super) fn lasts(&self) -> bool {
        self.pace().as_ref().is_some_and(|pace| !pace.is_due())
    }

    /// The storage was asked then, and is found to be away now.
    pub(super) fn was_found(&self, asked: Monotonic) {
        *self.pace() = Some(SavePace::after(self.clock.clone(), asked));
    }

    pub(super) fn is_over(&self) {
        *self.pace() = None;
    }

    fn pace(&self) -> MutexGuard<'_, Option<SavePace>> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
