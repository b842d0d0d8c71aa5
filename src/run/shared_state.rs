//! A run's state in object storage as well as in its folder, so that a worker with another disk can
//! go on with the run.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
};

use tokio::runtime::Handle;

use super::{
    ResultFiles, ResultStore, StateFiles,
    attempt_objects::{AttemptObjects, Outage},
};
use crate::{
    engine::{PartReader, PauseFlag, SavePoint, StateError, StatePart, StateStore},
    jobs::Clock,
    storage::{
        JOURNAL, LocalFile, StorageError, StorageLocation, TransferOptions, download, remove_below,
        send,
    },
};

/// Where runs share their state and their finished results. Clones share it.
#[derive(Debug, Clone)]
pub struct SharedState {
    root: StorageLocation,
    transfers: TransferOptions,
    outage: Outage,
}

impl SharedState {
    /// Below a place.
    pub fn new(root: StorageLocation, transfers: TransferOptions) -> Self {
        Self { root, transfers, outage: Outage::default() }
    }

    /// The same, with the time of another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { outage: Outage::new(clock), ..self }
    }

    /// The store of one attempt at a run. Attempts of one run have growing numbers; each writes
    /// under its own. `pause` says that the run saves for the last time.
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
        let objects = self.objects(run, attempt, transfers)?;
        Ok(SharedStateStore { files, objects, runtime, pause, alone: BTreeSet::new() })
    }

    /// The store of an attempt's finished result. Uploads that do not come to their end are noted
    /// beside the result's folder, in the journal of those that publish it.
    pub fn results(
        &self,
        run: &str,
        attempt: u64,
        files: ResultFiles,
    ) -> Result<ResultStore, StorageError> {
        let transfers = TransferOptions {
            journal: Some(files.folder().with_file_name(JOURNAL)),
            ..self.transfers.clone()
        };
        Ok(ResultStore::shared(files, self.objects(run, attempt, transfers)?))
    }

    fn objects(
        &self,
        run: &str,
        attempt: u64,
        transfers: TransferOptions,
    ) -> Result<AttemptObjects, StorageError> {
        let place = self.root.child(run)?;
        Ok(AttemptObjects { place, attempt, transfers, outage: self.outage.clone() })
    }

    /// Removes all that the attempts at a run share.
    pub async fn remove(&self, run: &str) -> Result<(), StorageError> {
        remove_below(&self.root.child(run)?, self.transfers.patience).await.map(|_| ())
    }

    /// Removes the state of a run and leaves its finished result.
    pub async fn remove_all_but_result(&self, run: &str) -> Result<(), StorageError> {
        let place = self.root.child(run)?;
        for part in StatePart::ALL {
            remove_below(&place.child(part.file_name())?, self.transfers.patience).await?;
        }
        Ok(())
    }
}

/// The state of one attempt: each part in the folder, and the same bytes as the object
/// `PART/ATTEMPT`.
///
/// Where the storage is away, a part is saved in the folder alone and the log says so: a run of
/// hours does not end for an outage. The storage is left alone for a while then, except by the last
/// save before a pause.
#[derive(Debug, Clone)]
pub struct SharedStateStore {
    files: StateFiles,
    objects: AttemptObjects,
    runtime: Handle,
    /// Parts of which no earlier attempt's object is left.
    alone: BTreeSet<StatePart>,
    pause: PauseFlag,
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
        let began = self.objects.outage.now();
        self.files.save(point, write)?;
        let noted = self.files.note_attempt(part, self.objects.attempt);
        noted.map_err(|source| StateError::Unwritable { file: part.file_name().into(), source })?;
        if self.objects.outage.lasts() && !self.pause.is_paused() {
            return Ok(());
        }
        match self.runtime.block_on(self.share(part)) {
            Ok(()) => {
                self.alone.insert(part);
                self.objects.outage.is_over();
            }
            Err(error) => {
                let file = part.file_name();
                tracing::warn!(file, %error, "state is saved on this disk alone");
                self.objects.outage.was_found(began);
            }
        }
        Ok(())
    }
}

impl SharedStateStore {
    /// Brings a part of the newest attempt into the folder, unless what lies there is as new.
    async fn fetch(&self, part: StatePart) -> Result<(), StorageError> {
        let Some(newest) = self.objects.newest(part.file_name(), "").await? else { return Ok(()) };
        if self.files.attempt(part) >= newest {
            return Ok(());
        }
        let on_disk = |source| StorageError::of_disk(part.file_name(), source);
        fs::create_dir_all(self.files.folder()).map_err(on_disk)?;
        let unfinished = self.files.unfinished(part);
        let object = self.objects.object(part.file_name(), newest)?;
        download(&object, &unfinished, self.objects.transfers.patience, &|_| {}).await?;
        self.files.adopt(part, &unfinished, newest).map_err(on_disk)
    }

    /// Sends a part as it lies in the folder.
    async fn share(&self, part: StatePart) -> Result<(), StorageError> {
        let AttemptObjects { attempt, transfers, .. } = &self.objects;
        let file = LocalFile::open(self.files.path(part)).await?;
        let object = self.objects.object(part.file_name(), *attempt)?;
        send(&object, &file, transfers, &|_| {}).await?;
        if !self.alone.contains(&part) {
            self.objects.remove_earlier(part.file_name()).await?;
        }
        Ok(())
    }
}
