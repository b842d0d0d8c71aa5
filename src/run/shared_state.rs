//! A run's state in object storage as well as in its folder, so that a worker with another disk can
//! go on with the run.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
};

use tokio::runtime::Handle;

use super::{StateFiles, saving::SavePace};
use crate::{
    engine::{PartReader, PauseFlag, SavePoint, StateError, StatePart, StateStore},
    jobs::Clock,
    storage::{
        LocalFile, StorageError, StorageLocation, TransferOptions, download, list_below, remove,
        remove_below, send,
    },
};

/// Remembers which parts of an upload were sent.
const JOURNAL: &str = "uploads.json";

/// Where runs share their state. Clones share it.
#[derive(Debug, Clone)]
pub struct SharedState {
    root: StorageLocation,
    transfers: TransferOptions,
    clock: Clock,
}

impl SharedState {
    /// Below a place.
    pub fn new(root: StorageLocation, transfers: TransferOptions) -> Self {
        Self { root, transfers, clock: Clock::default() }
    }

    /// The same, with the time of another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The store of one attempt at a run. Attempts of one run have growing numbers; each writes
    /// under its own, so that one that was given up and goes on all the same overwrites nothing.
    /// `pause` says that the run saves for the last time.
    ///
    /// The store blocks on the runtime: use it on a thread of its own.
    pub fn open(
        &self,
        run: &str,
        attempt: u64,
        files: StateFiles,
        runtime: Handle,
        pause: PauseFlag,
    ) -> Result<SharedStateStore, StorageError> {
        let transfers = TransferOptions {
            journal: Some(files.folder().join(JOURNAL)),
            ..self.transfers.clone()
        };
        Ok(SharedStateStore {
            files,
            place: self.root.child(run)?,
            attempt,
            transfers,
            runtime,
            pause,
            alone: BTreeSet::new(),
            clock: self.clock.clone(),
            outage: None,
        })
    }

    /// Removes the state of a run, of all its attempts.
    pub async fn remove(&self, run: &str) -> Result<(), StorageError> {
        remove_below(&self.root.child(run)?, self.transfers.patience).await.map(|_| ())
    }
}

/// The state of one attempt: each part in the folder, and the same bytes as the object
/// `PART/ATTEMPT`.
///
/// Where the storage is away, a part is saved in the folder alone and the log says so: a run of
/// hours does not end for an outage. It takes minutes to find that a storage does not answer, so that
/// it is asked again only after a multiple of that time, or for the last save before a pause.
#[derive(Debug, Clone)]
pub struct SharedStateStore {
    files: StateFiles,
    place: StorageLocation,
    attempt: u64,
    transfers: TransferOptions,
    runtime: Handle,
    /// Parts of which no earlier attempt's object is left.
    alone: BTreeSet<StatePart>,
    pause: PauseFlag,
    clock: Clock,
    /// When to ask a storage again that was away.
    outage: Option<SavePace>,
}

impl StateStore for SharedStateStore {
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError> {
        if let Err(error) = self.runtime.block_on(self.fetch(part)) {
            let file = part.file_name();
            tracing::warn!(file, %error, "shared state cannot be read; what this disk has is used");
        }
        self.files.load(part)
    }

    fn save(
        &mut self,
        point: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let part = point.part;
        let began = self.clock.monotonic();
        self.files.save(point, write)?;
        let noted = self.files.note_attempt(part, self.attempt);
        noted.map_err(|source| StateError::Unwritable { file: part.file_name().into(), source })?;
        let is_away = self.outage.as_ref().is_some_and(|outage| !outage.is_due());
        if is_away && !self.pause.is_paused() {
            return Ok(());
        }
        match self.runtime.block_on(self.share(part)) {
            Ok(()) => {
                self.alone.insert(part);
                self.outage = None;
            }
            Err(error) => {
                let file = part.file_name();
                tracing::warn!(file, %error, "state is saved on this disk alone");
                self.outage = Some(SavePace::after(self.clock.clone(), began));
            }
        }
        Ok(())
    }
}

impl SharedStateStore {
    /// Brings a part of the newest attempt into the folder, unless what lies there is as new.
    async fn fetch(&self, part: StatePart) -> Result<(), StorageError> {
        let attempts = self.attempts(part).await?;
        let Some(newest) = attempts.into_iter().filter(|attempt| *attempt <= self.attempt).max()
        else {
            return Ok(());
        };
        if self.files.attempt(part) >= newest {
            return Ok(());
        }
        let on_disk = |source| StorageError::of_disk(part.file_name(), source);
        fs::create_dir_all(self.files.folder()).map_err(on_disk)?;
        let unfinished = self.files.unfinished(part);
        let object = self.object(part, newest)?;
        download(&object, &unfinished, self.transfers.patience, &|_| {}).await?;
        self.files.adopt(part, &unfinished, newest).map_err(on_disk)
    }

    /// Sends a part as it lies in the folder.
    async fn share(&self, part: StatePart) -> Result<(), StorageError> {
        let file = LocalFile::open(self.files.path(part)).await?;
        send(&self.object(part, self.attempt)?, &file, &self.transfers, &|_| {}).await?;
        if !self.alone.contains(&part) {
            for earlier in self.attempts(part).await?.into_iter().filter(|it| *it < self.attempt) {
                remove(&self.object(part, earlier)?, self.transfers.patience).await?;
            }
        }
        Ok(())
    }

    /// Attempts that saved a part.
    async fn attempts(&self, part: StatePart) -> Result<Vec<u64>, StorageError> {
        let names =
            list_below(&self.place.child(part.file_name())?, self.transfers.patience).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn object(&self, part: StatePart, attempt: u64) -> Result<StorageLocation, StorageError> {
        self.place.child(&format!("{}/{attempt}", part.file_name()))
    }
}
