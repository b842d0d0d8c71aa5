//! Uploads in parts, which another process can resume.

use std::{
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{StreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};

use super::{
    LocalFile, StorageError, StorageErrorKind, StorageLocation, Storages, TransferOptions,
    journal::{Journal, Upload},
    transfer_options::retrying,
};

/// The most parts that every store accepts.
const MOST_PARTS: u64 = 10_000;

/// Bytes of a part: `wanted`, or more where the file would have too many parts.
pub(super) fn part_bytes(size: u64, wanted: u64) -> u64 {
    wanted.max(size.div_ceil(MOST_PARTS)).max(1)
}

/// An upload of one file.
pub(super) struct PartsUpload<'a> {
    pub(super) place: &'a StorageLocation,
    pub(super) store: &'a Arc<dyn MultipartStore>,
    pub(super) file: &'a LocalFile,
    pub(super) options: &'a TransferOptions,
    pub(super) progress: &'a (dyn Fn(u64) + Send + Sync),
}

impl PartsUpload<'_> {
    /// Begins the upload or resumes it, and completes it.
    pub(super) async fn run(&self) -> Result<(), StorageError> {
        let mut journal = Journal::load(self.options.journal.clone()).await;
        let (mut upload, is_resumed) = self.begin(&mut journal).await?;
        let mut done = self.send_missing(&mut upload, &mut journal).await;
        if done.is_ok() {
            done = self.complete(&upload).await;
        }
        match &done {
            Err(error) if error.kind() == StorageErrorKind::Unavailable => return done,
            // Azure drops parts after a week, and calls a list that names them wrong.
            Err(StorageError::Rejected { url, .. }) if is_resumed => {
                done = Err(StorageError::NotFound { url: url.clone() });
            }
            Err(_) => abort(self.store.as_ref(), self.place, &upload.id).await,
            Ok(()) => {}
        }
        journal.remove(&self.place.url);
        journal.save().await;
        done
    }

    /// The upload, and whether an earlier attempt began it.
    async fn begin(&self, journal: &mut Journal) -> Result<(Upload, bool), StorageError> {
        let content = &self.file.content;
        let part_bytes = part_bytes(content.size, self.options.part_bytes);
        if let Some(found) = journal.get(&self.place.url) {
            if found.is_of(content, part_bytes) {
                tracing::debug!(url = %self.place.url, "an upload goes on");
                return Ok((found.clone(), true));
            }
            let stale = found.id.clone();
            abort(self.store.as_ref(), self.place, &stale).await;
        }
        let id = retrying(self.options.patience, || async move {
            let created = self.store.create_multipart(&self.place.path).await;
            created.map_err(|error| StorageError::of_overwrite(&self.place.url, error))
        })
        .await?;
        let count = usize::try_from(content.size.div_ceil(part_bytes)).unwrap_or(usize::MAX);
        let upload = Upload {
            id,
            size: content.size,
            sha256: content.sha256.clone(),
            part_bytes,
            parts: vec![None; count],
        };
        journal.set(&self.place.url, upload.clone());
        journal.save().await;
        Ok((upload, false))
    }

    async fn send_missing(
        &self,
        upload: &mut Upload,
        journal: &mut Journal,
    ) -> Result<(), StorageError> {
        let (id, step) = (upload.id.clone(), upload.part_bytes);
        let length = |index: usize| step.min(upload.size - step * index as u64);
        let is_missing = |index: &usize| upload.parts[*index].is_none();
        let missing: Vec<(usize, u64)> = (0..upload.parts.len())
            .filter(is_missing)
            .map(|index| (index, length(index)))
            .collect();
        let mut stands = upload.size - missing.iter().map(|(_, length)| length).sum::<u64>();
        (self.progress)(stands);
        let is_over = AtomicBool::new(false);
        let (id, is_over) = (&id, &is_over);
        let mut sending = stream::iter(missing)
            .map(|(index, length)| async move {
                if is_over.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let part = self.send_part(id, index, step * index as u64, length).await?;
                Ok::<_, StorageError>(Some((index, length, part)))
            })
            .buffer_unordered(self.options.parts_in_flight.max(1));
        let mut done = Ok(());
        while let Some(sent) = sending.next().await {
            match sent {
                Ok(Some((index, length, part))) => {
                    upload.parts[index] = Some(part);
                    stands += length;
                    journal.set(&self.place.url, upload.clone());
                    journal.save().await;
                    (self.progress)(stands);
                }
                Ok(None) => {}
                // What is on its way may arrive all the same, and is not to be sent again.
                Err(error) if error.kind() == StorageErrorKind::Unavailable => {
                    is_over.store(true, Ordering::Relaxed);
                    done = Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        done
    }

    async fn send_part(
        &self,
        id: &String,
        index: usize,
        offset: u64,
        length: u64,
    ) -> Result<String, StorageError> {
        let bytes = self.file.read(offset, length).await?;
        let bytes = &bytes;
        retrying(self.options.patience, || async move {
            let (path, bytes) = (&self.place.path, bytes.clone().into());
            let put = self.store.put_part(path, id, index, bytes).await;
            put.map(|part| part.content_id)
                .map_err(|error| StorageError::of_overwrite(&self.place.url, error))
        })
        .await
    }

    async fn complete(&self, upload: &Upload) -> Result<(), StorageError> {
        retrying(self.options.patience, || async move {
            let parts = upload.parts.iter().flatten();
            let parts = parts.map(|id| PartId { content_id: id.clone() }).collect();
            let done = self.store.complete_multipart(&self.place.path, &upload.id, parts).await;
            done.map(|_| ()).map_err(|error| StorageError::of_overwrite(&self.place.url, error))
        })
        .await
    }
}

/// Discards the parts of an upload. Where that fails, they are left to the bucket's own rule for
/// incomplete uploads.
async fn abort(store: &dyn MultipartStore, place: &StorageLocation, id: &str) {
    if let Err(error) = store.abort_multipart(&place.path, &id.to_owned()).await {
        let error = StorageError::of(&place.url, error);
        if error.kind() != StorageErrorKind::NotFound {
            tracing::warn!(%error, "parts of an upload were not removed");
        }
    }
}

/// Discards every upload of a journal, and the journal, for work that will not be resumed.
pub async fn abandon(storages: &Storages, journal: &FilePath) {
    let found = Journal::load(Some(journal.to_owned())).await;
    let uploads = found.into_uploads();
    if uploads.is_empty() {
        return;
    }
    for (url, upload) in uploads {
        if let Ok(place) = storages.open(&url)
            && let Some(store) = &place.parts
        {
            abort(store.as_ref(), &place, &upload.id).await;
        }
    }
    let path = journal.to_owned();
    let _ = super::content::on_disk(String::new(), move || std::fs::remove_file(path)).await;
}
