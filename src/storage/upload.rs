//! Uploads a local file, reads it back and compares it.

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt};

use super::{
    Content, LocalFile, Patience, StorageError, StorageErrorKind, StorageLocation, TransferOptions,
    download::read_back,
    journal::Journal,
    parts::{PartsUpload, part_bytes},
    transfer_options::retrying,
    whole::{head, overwrite},
};

/// Uploads a file, unless its bytes are there already, and reads it back; where it differs it is sent
/// once more, and then refused as corrupted.
///
/// `progress` receives the number of the file's bytes that are stored. Dropping the future stops the
/// upload. Parts that were sent are kept, and the journal with them, where the store is away or the
/// future was dropped; every other failure discards them.
pub async fn deliver(
    place: &StorageLocation,
    file: &LocalFile,
    options: &TransferOptions,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), StorageError> {
    if holds(place, &file.content, options.patience).await? {
        forget(place, options).await;
        progress(file.content.size);
        return Ok(());
    }
    let mut sent_again = false;
    loop {
        send(place, file, options, progress).await?;
        match read_back(place, &file.content, options.patience).await {
            Err(error) if error.kind() == StorageErrorKind::Corrupted && !sent_again => {
                file.check().await?;
                tracing::warn!(%error, "an object was not as it was sent; it is sent again");
                sent_again = true;
            }
            done => return done,
        }
    }
}

/// Uploads bytes in memory, such as a short text, as [`deliver`] uploads a file.
pub async fn deliver_bytes(
    place: &StorageLocation,
    bytes: Bytes,
    patience: Patience,
) -> Result<(), StorageError> {
    let content = Content::of(&bytes);
    if holds(place, &content, patience).await? {
        return Ok(());
    }
    overwrite(place, bytes.clone(), patience).await?;
    match read_back(place, &content, patience).await {
        Err(error) if error.kind() == StorageErrorKind::Corrupted => {
            tracing::warn!(%error, "an object was not as it was sent; it is sent again");
            overwrite(place, bytes, patience).await?;
            read_back(place, &content, patience).await
        }
        done => done,
    }
}

/// Whether the object holds the content already.
async fn holds(
    place: &StorageLocation,
    content: &Content,
    patience: Patience,
) -> Result<bool, StorageError> {
    if head(place, patience).await?.is_none_or(|meta| meta.size != content.size) {
        return Ok(false);
    }
    match read_back(place, content, patience).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == StorageErrorKind::Corrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends a file in place of what is there, and does not read it back: for what is checked when it
/// is read. `progress`, and what becomes of parts that were sent, are as with [`deliver`].
pub async fn send(
    place: &StorageLocation,
    file: &LocalFile,
    options: &TransferOptions,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), StorageError> {
    if file.content.size <= options.part_bytes {
        let bytes = whole(file).await?;
        overwrite(place, bytes, options.patience).await?;
        progress(file.content.size);
        return Ok(());
    }
    let Some(store) = &place.parts else {
        return retrying(options.patience, || stream(place, file, options, progress)).await;
    };
    let upload = PartsUpload { place, store, file, options, progress };
    match upload.run().await {
        // The store forgot the upload, or it is complete and the answer was lost.
        Err(error) if error.kind() == StorageErrorKind::NotFound => {
            forget(place, options).await;
            if holds(place, &file.content, options.patience).await? {
                return Ok(());
            }
            upload.run().await
        }
        done => done,
    }
}

/// Reads a small file, and checks it.
async fn whole(file: &LocalFile) -> Result<Bytes, StorageError> {
    let bytes = file.read(0, file.content.size).await?;
    if Content::of(&bytes) != file.content {
        return Err(StorageError::SourceChanged { name: file.name() });
    }
    Ok(bytes)
}

/// Uploads to a store whose uploads in parts do not outlive this process.
async fn stream(
    place: &StorageLocation,
    file: &LocalFile,
    options: &TransferOptions,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), StorageError> {
    let of = |error| StorageError::of_overwrite(&place.url, error);
    let mut upload = place.store.put_multipart(&place.path).await.map_err(of)?;
    let sent = fill(upload.as_mut(), place, file, options, progress).await;
    let done = match sent {
        Ok(()) => upload.complete().await.map(|_| ()).map_err(of),
        failed => failed,
    };
    if done.is_err() {
        // Why the upload failed says more than why its rest could not be removed.
        let _ = upload.abort().await;
    }
    done
}

async fn fill(
    upload: &mut dyn MultipartUpload,
    place: &StorageLocation,
    file: &LocalFile,
    options: &TransferOptions,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), StorageError> {
    let size = file.content.size;
    let step = part_bytes(size, options.part_bytes);
    let mut offset = 0;
    while offset < size {
        let length = step.min(size - offset);
        let bytes = file.read(offset, length).await?;
        let put = upload.put_part(bytes.into()).await;
        put.map_err(|error| StorageError::of_overwrite(&place.url, error))?;
        offset += length;
        progress(offset);
    }
    Ok(())
}

async fn forget(place: &StorageLocation, options: &TransferOptions) {
    if let Some(path) = &options.journal {
        let mut journal = Journal::load(Some(path.clone())).await;
        if journal.remove(&place.url).is_some() {
            journal.save().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use object_store::local::LocalFileSystem;
    use url::Url;

    use super::*;
    use crate::storage::{
        StorageSettings, Storages, abandon,
        testing::{Fault, Flaky},
    };

    const PART: u64 = 1_000;

    /// A file of two whole parts and a bit, and a place for it.
    struct Bench {
        folder: tempfile::TempDir,
        store: Arc<Flaky>,
        place: StorageLocation,
        file: LocalFile,
        options: TransferOptions,
    }

    impl Bench {
        fn new() -> Self {
            let store = Flaky::in_memory();
            Self::over(store.clone(), true)
        }

        fn over(store: Arc<Flaky>, in_parts: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let storages = Storages::new(StorageSettings::default());
            let parts = in_parts.then(|| store.clone() as _);
            storages.mount("memory://flaky", store.clone(), parts).unwrap();
            let place = storages.open("memory://flaky/results/weights").unwrap();
            let file = write(&folder, "weights", &[7; 2_500]);
            let options = TransferOptions {
                part_bytes: PART,
                parts_in_flight: 2,
                journal: Some(folder.path().join("uploads.json")),
                patience: Patience { attempts: 1, first_wait: Duration::ZERO },
            };
            Self { folder, store, place, file, options }
        }

        async fn deliver(&self) -> Result<(), StorageError> {
            deliver(&self.place, &self.file, &self.options, &|_| {}).await
        }

        async fn stands(&self) -> bool {
            self.store.heal();
            holds(&self.place, &self.file.content, self.options.patience).await.unwrap()
        }

        fn has_journal(&self) -> bool {
            self.options.journal.as_ref().unwrap().exists()
        }
    }

    fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> LocalFile {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        LocalFile { path, content: Content::of(bytes) }
    }

    #[tokio::test]
    async fn bytes_arrive_whole_and_are_not_sent_twice() {
        let mut bench = Bench::new();
        for length in [0, 1, 1_000, 1_001, 2_000, 2_500] {
            bench.file = write(&bench.folder, "weights", &vec![3; length]);
            bench.deliver().await.unwrap();
            assert!(bench.stands().await, "{length}");
            assert!(!bench.has_journal());
            bench.deliver().await.unwrap();
            let calls: Vec<_> = bench.store.calls().iter().map(|call| call.operation).collect();
            assert_eq!(calls, ["head", "get", "head", "get"], "{length}");
        }
    }

    #[tokio::test]
    async fn a_resumed_upload_sends_what_is_missing() {
        let bench = Bench::new();
        // Head, creation, and two parts in flight; the third part finds the store away.
        bench.store.fail_from(4, Fault::Away);
        let error = bench.deliver().await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{error}");
        assert!(bench.has_journal());
        bench.store.heal();
        bench.deliver().await.unwrap();
        assert_eq!(bench.store.count("put_part"), 1);
        assert_eq!(bench.store.count("create_multipart"), 0);
        assert!(bench.stands().await && !bench.has_journal());
    }

    #[tokio::test]
    async fn a_dropped_upload_is_resumed_or_abandoned() {
        let bench = Bench::new();
        bench.store.fail_from(4, Fault::Hang);
        for _ in 0..2 {
            let stopped = tokio::time::timeout(Duration::from_millis(200), bench.deliver()).await;
            assert!(stopped.is_err(), "it hangs");
            assert!(bench.has_journal());
            bench.store.heal();
            bench.store.fail_from(1, Fault::Hang);
        }
        let storages = Storages::new(StorageSettings::default());
        bench.store.heal();
        let parts = Some(bench.store.clone() as _);
        storages.mount("memory://flaky", bench.store.clone(), parts).unwrap();
        abandon(&storages, bench.options.journal.as_ref().unwrap()).await;
        assert_eq!(bench.store.count("abort_multipart"), 1);
        assert!(!bench.has_journal());
        bench.deliver().await.unwrap();
        assert_eq!(bench.store.count("put_part"), 3);
    }

    #[tokio::test]
    async fn an_upload_that_the_store_forgot_begins_anew() {
        let bench = Bench::new();
        bench.store.fail_from(4, Fault::Away);
        bench.deliver().await.unwrap_err();
        bench.store.heal();
        bench.store.fail_after(1, Fault::Forgotten);
        bench.deliver().await.unwrap();
        assert!(bench.stands().await && !bench.has_journal());
    }

    #[tokio::test]
    async fn a_refused_upload_is_discarded() {
        let bench = Bench::new();
        bench.store.fail_after(3, Fault::Denied);
        let error = bench.deliver().await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Denied, "{error}");
        assert_eq!(bench.store.count("abort_multipart"), 1);
        assert!(!bench.has_journal());
    }

    #[tokio::test]
    async fn every_single_fault_is_healed_by_patience() {
        for fault in [Fault::Away, Fault::AnswerLost] {
            let mut calls = 1;
            for at in 0.. {
                if at >= calls {
                    break;
                }
                let mut bench = Bench::new();
                bench.options.patience.attempts = 2;
                bench.store.fail_after(at, fault);
                bench.deliver().await.unwrap_or_else(|error| panic!("{fault:?} {at}: {error}"));
                calls = bench.store.calls().len();
                assert!(bench.stands().await && !bench.has_journal(), "{fault:?} {at}");
            }
            assert!(calls > 6, "the loop saw every call");
        }
    }

    #[tokio::test]
    async fn what_is_read_back_wrong_is_sent_once_more() {
        for in_parts in [false, true] {
            let mut bench = Bench::new();
            if !in_parts {
                bench.options.part_bytes = 1 << 20;
            }
            let before_reading = if in_parts { 6 } else { 2 };
            bench.store.fail_after(before_reading, Fault::Corrupted);
            bench.deliver().await.unwrap();
            assert_eq!(bench.store.count("get"), 2);
            assert!(bench.stands().await);

            let bench = Bench::new();
            bench.store.fail_from(6, Fault::Corrupted);
            let error = bench.deliver().await.unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Corrupted, "{error}");
            assert_eq!(bench.store.count("complete_multipart"), 2);
        }
    }

    #[tokio::test]
    async fn wrong_bytes_that_stand_there_are_replaced() {
        let bench = Bench::new();
        for there in [vec![0; 2_500], vec![0; 10]] {
            bench.place.store.put(&bench.place.path, there.into()).await.unwrap();
            bench.deliver().await.unwrap();
            assert!(bench.stands().await);
        }
    }

    #[tokio::test]
    async fn a_source_that_changed_is_not_published() {
        let bench = Bench::new();
        for bytes in [vec![8; 2_500], vec![7; 2_400]] {
            std::fs::write(&bench.file.path, bytes).unwrap();
            let error = bench.deliver().await.unwrap_err();
            assert!(matches!(error, StorageError::SourceChanged { .. }), "{error}");
        }
        std::fs::remove_file(&bench.file.path).unwrap();
        let error = bench.deliver().await.unwrap_err();
        assert!(matches!(error, StorageError::SourceChanged { .. }), "{error}");
        assert!(!bench.has_journal());
    }

    #[tokio::test]
    async fn a_folder_takes_files_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(root.path()).unwrap();
        let folder = LocalFileSystem::new_with_prefix(root.path()).unwrap();
        let bench = Bench::over(Flaky::over(Arc::new(folder)), false);
        std::fs::write(&bench.file.path, vec![7; 2_400]).unwrap();
        bench.deliver().await.unwrap_err();
        assert_eq!(std::fs::read_dir(root.path().join("results")).unwrap().count(), 0);

        let bench = Bench { file: write(&bench.folder, "weights", &[7; 2_500]), ..bench };
        bench.deliver().await.unwrap();
        let place = Storages::new(StorageSettings::default()).open(url.as_str()).unwrap();
        let object = place.child("results/weights").unwrap();
        let to = bench.folder.path().join("downloaded");
        let content =
            crate::storage::download(&object, &to, bench.options.patience, &|_| {}).await.unwrap();
        assert_eq!(content, bench.file.content);
        assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&bench.file.path).unwrap());
        let missing = place.child("results/nothing").unwrap();
        let error = crate::storage::download(&missing, &to, bench.options.patience, &|_| {}).await;
        assert_eq!(error.unwrap_err().kind(), StorageErrorKind::NotFound);
        assert!(!to.exists() || std::fs::read(&to).unwrap().len() == 2_500);
    }
}
