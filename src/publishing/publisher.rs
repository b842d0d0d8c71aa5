//! Publishes files, then the manifest: the attempt that creates the manifest has published the result.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};

use super::{
    MANIFEST, Manifest, ManifestError,
    layout::{LONGEST_NAME, Layout, content_folder},
    leavings,
    manifest::Findings,
    model_card::{MODEL_CARD, ModelCard},
    storage_failure::storage_failure,
};
use crate::{
    device::disk_failure,
    jobs::{Failure, FailureReason, Job, Timestamp, Work},
    outcome::{FileDigest, Published, PublishedFile},
    storage::{
        self, Content, JOURNAL, LocalFile, StorageError, StorageErrorKind, StorageLocation,
        StorageSettings, Storages, TransferOptions,
    },
    worker::{Leavings, PublishRequest, Publisher, is_allowed},
};

/// Looks at a folder that is cleared, until one finds nothing.
const MOST_LOOKS: usize = 5;
/// The time between two of them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// A manifest is small: what is larger is something else.
const MOST_MANIFEST_BYTES: u64 = 16 << 20;

/// How results are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherSettings {
    /// How files are sent; the journal is chosen for each result.
    pub transfer: TransferOptions,
    /// Licences of base models, as Hugging Face names them, for the model card.
    pub licenses: BTreeMap<String, String>,
    /// URL prefixes that results may be published below; none of them allows every place.
    pub outputs: Vec<String>,
}

impl From<&StorageSettings> for PublisherSettings {
    fn from(settings: &StorageSettings) -> Self {
        Self { transfer: settings.into(), licenses: BTreeMap::new(), outputs: Vec::new() }
    }
}

/// Publishes into object storage.
#[derive(Debug)]
pub struct ObjectPublisher {
    storages: Arc<Storages>,
    settings: PublisherSettings,
}

impl ObjectPublisher {
    /// Through these storages.
    pub fn new(storages: Arc<Storages>, settings: PublisherSettings) -> Self {
        Self { storages, settings }
    }

    async fn publish_result(&self, request: PublishRequest) -> Result<Published, Failure> {
        let stored = |error| storage_failure(&error);
        self.check(request.job.work.destination())?;
        let layout = Layout::of(&self.storages, &request.job).map_err(stored)?;
        clear_leftovers(&layout, &request).await;
        leavings::note(&request.folder, layout.folder.url.as_str())
            .map_err(|error| disk_failure("where the result goes", &error))?;
        if let Some(manifest) = self.read_manifest(&layout).await.map_err(stored)? {
            tracing::info!("an earlier attempt has published the result: it stands");
            return of_manifest(&layout, &request.job, &manifest);
        }
        let files = self.publish_files(&request, &layout).await.map_err(stored)?;
        let manifest = Manifest::new(Findings {
            job: &request.job,
            result: &request.result,
            times: request.times,
            files,
        });
        let manifest = manifest.and_then(|manifest| manifest.to_json());
        let manifest = manifest.map_err(|error| unwritten(&error))?;
        if !request.commit.enter() {
            let message = "the job was asked to stop before its manifest was written";
            return Err(Failure::new(FailureReason::Cancelled, message));
        }
        self.commit(&layout, &request.job, manifest.into()).await
    }

    /// Removes a job's folder in the output, unless its manifest stands and may.
    async fn clear_output(&self, folder: &str, is_cancelled: bool) -> Result<(), StorageError> {
        let patience = self.settings.transfer.patience;
        let folder = self.storages.open(folder)?;
        let manifest = folder.child(MANIFEST)?;
        if is_cancelled {
            // First: what is half removed shall not pass for a result.
            storage::remove(&manifest, patience).await?;
        } else if storage::exists(&manifest, patience).await? {
            return Ok(());
        }
        // What was on its way when the publication was dropped may arrive after the first look.
        for _ in 0..MOST_LOOKS {
            if !storage::remove_below(&folder, patience).await? {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        tracing::info!(folder = %folder.url, "the files of an unpublished result are removed");
        Ok(())
    }

    /// Creates the manifest, or takes the one of the attempt that was faster.
    async fn commit(
        &self,
        layout: &Layout,
        job: &Job,
        manifest: Bytes,
    ) -> Result<Published, Failure> {
        let stored = |error| storage_failure(&error);
        let patience = self.settings.transfer.patience;
        let created = storage::create(&layout.manifest, manifest.clone(), patience).await;
        match created {
            Ok(()) => {
                let content = Content::of(&manifest);
                storage::read_back(&layout.manifest, &content, patience).await.map_err(stored)?;
                of_manifest(layout, job, &manifest)
            }
            // Another attempt's, or our own whose answer was lost.
            Err(error) if error.kind() == StorageErrorKind::AlreadyExists => {
                let found = self.read_manifest(layout).await.map_err(stored)?;
                of_manifest(layout, job, &found.ok_or_else(|| stored(error))?)
            }
            Err(error) => Err(stored(error)),
        }
    }

    async fn read_manifest(&self, layout: &Layout) -> Result<Option<Bytes>, StorageError> {
        let patience = self.settings.transfer.patience;
        storage::read(&layout.manifest, MOST_MANIFEST_BYTES, patience).await
    }

    /// Brings every file and the model card to the result's folder, and reads them back.
    async fn publish_files(
        &self,
        request: &PublishRequest,
        layout: &Layout,
    ) -> Result<Vec<PublishedFile>, StorageError> {
        let mut files = request.result.files.clone();
        let card = self.model_card(request);
        if let Some(card) = &card {
            let Content { size, sha256 } = Content::of(card);
            files.push(FileDigest { name: MODEL_CARD.to_owned(), size, sha256 });
        }
        files.sort_by(|left, right| left.name.cmp(&right.name));
        let content_folder = content_folder(&files);
        let folder = layout.folder.child(&content_folder)?;

        let mut pieces = Vec::new();
        let mut published = Vec::new();
        for file in files {
            // Refuses a name that leaves the folder, here and there: the local one is the same.
            let place = folder.child(&file.name)?;
            published.push(PublishedFile {
                name: format!("{content_folder}/{}", file.name),
                uri: place.url.to_string(),
                size: file.size,
                sha256: file.sha256.clone(),
            });
            let bytes = card.as_ref().filter(|_| file.name == MODEL_CARD).cloned();
            pieces.push(Piece { place, file, bytes, done: AtomicU64::new(0) });
        }
        self.send(request, &pieces).await?;
        Ok(published)
    }

    /// Small files side by side, since each costs little but three answers' time; large ones one
    /// after another, each with its parts side by side.
    async fn send(&self, request: &PublishRequest, pieces: &[Piece]) -> Result<(), StorageError> {
        let total = pieces.iter().map(|piece| piece.file.size).sum();
        let report = || {
            let done = pieces.iter().map(|piece| piece.done.load(Ordering::Relaxed)).sum();
            (request.progress)(done, total);
        };
        let report = &report;
        let (small, large): (Vec<&Piece>, Vec<&Piece>) =
            pieces.iter().partition(|piece| piece.file.size <= self.settings.transfer.part_bytes);
        let sending: Vec<_> =
            small.into_iter().map(|piece| self.send_one(request, piece, None, report)).collect();
        stream::iter(sending)
            .buffer_unordered(self.settings.transfer.parts_in_flight.max(1))
            .try_collect::<()>()
            .await?;
        let journal = request.folder.with_file_name(JOURNAL);
        for piece in large {
            self.send_one(request, piece, Some(&journal), report).await?;
        }
        Ok(())
    }

    async fn send_one(
        &self,
        request: &PublishRequest,
        piece: &Piece,
        journal: Option<&Path>,
        report: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StorageError> {
        let sent = |done: u64| {
            piece.done.store(done, Ordering::Relaxed);
            report();
        };
        if let Some(bytes) = &piece.bytes {
            let patience = self.settings.transfer.patience;
            storage::deliver_bytes(&piece.place, bytes.clone(), patience).await?;
        } else {
            let FileDigest { name, size, sha256 } = &piece.file;
            let content = Content { size: *size, sha256: sha256.clone() };
            let file = LocalFile { path: request.folder.join(name), content };
            let journal = journal.map(Path::to_owned);
            let options = TransferOptions { journal, ..self.settings.transfer.clone() };
            storage::deliver(&piece.place, &file, &options, &sent).await?;
        }
        sent(piece.file.size);
        Ok(())
    }

    /// None where the result has a README of its own.
    fn model_card(&self, request: &PublishRequest) -> Option<Bytes> {
        let (work, result) = (&request.job.work, &request.result);
        if result.files.iter().any(|file| file.name == MODEL_CARD) {
            return None;
        }
        let license = match work {
            Work::Unlearn(work) => self.settings.licenses.get(&work.base_model),
            Work::Evaluate(_) => None,
        };
        let card = ModelCard { work, result, license: license.map(String::as_str) };
        Some(card.render().into())
    }
}

impl Publisher for ObjectPublisher {
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, Failure>> {
        Box::pin(async move {
            let folder = request.folder.clone();
            let published = self.publish_result(request).await?;
            leavings::forget(&folder);
            Ok(published)
        })
    }

    fn check(&self, destination: &str) -> Result<(), Failure> {
        let outputs = &self.settings.outputs;
        if !(outputs.is_empty() || is_allowed(destination, outputs)) {
            let outputs = outputs.join(", ");
            let message = format!(
                "{destination} lies outside of what this server allows now, {outputs}; add it to \
                 storage.outputs, or submit again with another destination"
            );
            return Err(Failure::new(FailureReason::DestinationNotAllowed, message)
                .with("destination", &destination)
                .with("outputs", &outputs));
        }
        let place = self.storages.open(destination).map_err(|error| storage_failure(&error))?;
        place.check_lengths(LONGEST_NAME).map_err(|error| storage_failure(&error))
    }

    fn retract<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let stored = |error| storage_failure(&error);
            let layout = Layout::of(&self.storages, job).map_err(stored)?;
            storage::remove(&layout.manifest, self.settings.transfer.patience).await.map_err(stored)
        })
    }

    fn abandon<'a>(&'a self, leavings: Leavings<'a>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let Leavings { folder, is_cancelled } = leavings;
            storage::abandon(&self.storages, &folder.with_file_name(JOURNAL)).await;
            let Some(output) = leavings::noted(folder) else { return Ok(()) };
            match self.clear_output(&output, is_cancelled).await {
                // Some buckets allow no deletes, and never will.
                Err(error) if error.kind() == StorageErrorKind::Denied => {
                    tracing::warn!(%error, "unpublished files stay in the output");
                }
                done => done.map_err(|error| storage_failure(&error))?,
            }
            leavings::forget(folder);
            Ok(())
        })
    }
}

/// Removes what a killed attempt left half written. Where that fails, it stays and does no harm.
async fn clear_leftovers(layout: &Layout, request: &PublishRequest) {
    let before = UNIX_EPOCH + request.times.claimed_at.since(Timestamp(0));
    match storage::remove_leftovers(&layout.folder, before).await {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "an earlier attempt's unfinished files are removed"),
        Err(error) => tracing::warn!(%error, "unfinished files of an earlier attempt stay"),
    }
}

/// A file on its way.
#[derive(Debug)]
struct Piece {
    place: StorageLocation,
    file: FileDigest,
    /// Where it lies in memory and in no folder.
    bytes: Option<Bytes>,
    /// Bytes that stand.
    done: AtomicU64,
}

/// The answer that a manifest gives, which must be the job's.
fn of_manifest(layout: &Layout, job: &Job, bytes: &[u8]) -> Result<Published, Failure> {
    let manifest = Manifest::from_json(bytes).and_then(|manifest| {
        manifest.check(job, &layout.folder)?;
        Ok(manifest)
    });
    let manifest = manifest.map_err(|error| {
        let url = &layout.manifest.url;
        let message = format!("{url} cannot be relied on: {error}; remove it, or ask again");
        Failure::new(FailureReason::StorageCorrupted, message)
            .with("url", url)
            .with("reason", &error)
    })?;
    Ok(Published {
        manifest_uri: layout.manifest.url.to_string(),
        manifest_sha256: Content::of(bytes).sha256,
        files: manifest.files,
    })
}

fn unwritten(error: &ManifestError) -> Failure {
    Failure::new(FailureReason::EngineFault, format!("the manifest cannot be written: {error}"))
}
