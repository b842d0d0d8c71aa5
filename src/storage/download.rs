//! Downloads objects of any size, streamed.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use bytes::Bytes;
use futures::StreamExt;
use object_store::{GetOptions, GetResult, ObjectStore};

use super::{
    Content, Patience, StorageError, StorageErrorKind, StorageLocation,
    content::{Counted, name_of, on_disk},
    transfer_options::retrying,
};

/// Bytes that are buffered before they are written to the disk.
const GATHERED: usize = 1 << 20;

/// Downloads an object into a file, which is replaced, and returns what the file holds. The file is
/// incomplete until this returns: download under another name, compare, and rename.
/// `progress` receives the number of bytes so far.
pub async fn download(
    place: &StorageLocation,
    to: &Path,
    patience: Patience,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Content, StorageError> {
    let done = retrying(patience, || download_once(place, to, progress)).await;
    if done.is_err() {
        let path = to.to_owned();
        // The file may never have been created.
        let _ = on_disk(name_of(to), move || fs::remove_file(path)).await;
    }
    done
}

async fn download_once(
    place: &StorageLocation,
    to: &Path,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Content, StorageError> {
    let of = |error| StorageError::of(&place.url, error);
    let got = place.store.get_opts(&place.path, GetOptions::default()).await.map_err(of)?;
    let (name, path) = (name_of(to), to.to_owned());
    let disk = |error| local(&name, error);
    let file = on_disk(name.clone(), move || File::create(path)).await.map_err(disk)?;
    let mut writing = Writing { file, counted: Counted::default() };
    let mut stream = got.into_stream();
    let (mut gathered, mut length, mut total) = (Vec::new(), 0, 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(of)?;
        length += chunk.len();
        total += chunk.len() as u64;
        gathered.push(chunk);
        if length >= GATHERED {
            let chunks = std::mem::take(&mut gathered);
            writing = on_disk(name.clone(), move || writing.write(&chunks)).await.map_err(disk)?;
            length = 0;
            progress(total);
        }
    }
    let written = on_disk(name.clone(), move || writing.write(&gathered)?.finish()).await;
    progress(total);
    written.map_err(disk)
}

/// A file that vanishes while it is written is an error of the disk, not a changed source.
fn local(name: &str, error: StorageError) -> StorageError {
    match error {
        StorageError::SourceChanged { .. } => StorageError::LocalDisk {
            name: name.to_owned(),
            full: false,
            source: std::io::ErrorKind::NotFound.into(),
        },
        other => other,
    }
}

struct Writing {
    file: File,
    counted: Counted,
}

impl Writing {
    fn write(mut self, chunks: &[Bytes]) -> std::io::Result<Self> {
        for chunk in chunks {
            self.file.write_all(chunk)?;
            self.counted.add(chunk);
        }
        Ok(self)
    }

    fn finish(self) -> std::io::Result<Content> {
        self.file.sync_all()?;
        Ok(self.counted.content())
    }
}

/// What an object holds: reads it to its end and keeps nothing. `progress` receives the number of bytes
/// so far.
pub async fn digest(
    place: &StorageLocation,
    patience: Patience,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Content, StorageError> {
    retrying(patience, || async move {
        let of = |error| StorageError::of(&place.url, error);
        let got = place.store.get_opts(&place.path, GetOptions::default()).await.map_err(of)?;
        counted(place, got, progress).await
    })
    .await
}

async fn counted(
    place: &StorageLocation,
    got: GetResult,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Content, StorageError> {
    let (mut counted, mut total) = (Counted::default(), 0);
    let mut stream = got.into_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| StorageError::of(&place.url, error))?;
        counted.add(&chunk);
        total += chunk.len() as u64;
        progress(total);
    }
    Ok(counted.content())
}

/// Reads an object and compares it with what it should hold.
pub async fn read_back(
    place: &StorageLocation,
    expected: &Content,
    patience: Patience,
) -> Result<(), StorageError> {
    let corrupted = &|found: String| StorageError::Corrupted {
        url: place.url.to_string(),
        expected: expected.to_string(),
        found,
    };
    let read = retrying(patience, || async move {
        let of = |error| StorageError::of(&place.url, error);
        let got = place.store.get_opts(&place.path, GetOptions::default()).await.map_err(of)?;
        if got.meta.size != expected.size {
            return Err(corrupted(format!("{} bytes", got.meta.size)));
        }
        counted(place, got, &|_| {}).await
    })
    .await;
    match read {
        Ok(found) if found == *expected => Ok(()),
        Ok(found) => Err(corrupted(found.to_string())),
        // Something was to be there.
        Err(error) if error.kind() == StorageErrorKind::NotFound => {
            Err(corrupted("nothing".to_owned()))
        }
        Err(error) => Err(error),
    }
}
