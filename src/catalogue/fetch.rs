//! Downloads a model's objects into the cache, a few at a time. An object gets its name once it is
//! whole, so an interrupted download is continued from the objects that it finished.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{FutureExt, StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    cache::{Cache, EntryKey, FILES, InUse, damage_of, write_atomically},
    model_failure::{on_disk, storage_failure},
};
use crate::{
    artifacts::digest::digest_reader,
    device::disk_failure,
    jobs::{Failure, FailureReason},
    outcome::FileDigest,
    storage::{Patience, StorageLocation, download},
};

/// Files of one model that are downloaded at a time.
const FILES_IN_FLIGHT: usize = 4;
/// The most tries of a download whose folder is emptied meanwhile.
const MOST_TRIES: u32 = 3;
/// The record of a download's whole files, below its folder.
const FETCHED: &str = "fetched.json";
/// The folder of a download's unfinished files, below its folder.
const INCOMING: &str = "incoming";

/// An object to fetch.
#[derive(Debug, Clone)]
pub(super) struct RequestedObject {
    /// Its place in the bucket.
    pub(super) place: StorageLocation,
    /// Its listing.
    pub(super) object: Object,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Object {
    /// Path with `/` relative to the model's folder.
    pub(super) name: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// Its tag and time, which change when the object does.
    pub(super) version: String,
}

/// A file that an earlier download completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fetched {
    object: Object,
    sha256: String,
}

/// A download of objects into the cache.
#[derive(Debug)]
pub(super) struct Fetch<'a> {
    /// The cache.
    pub(super) cache: &'a Arc<Cache>,
    /// Name in the catalogue, for messages.
    pub(super) model: &'a str,
    /// The cache's entry for the download.
    pub(super) partial: &'a EntryKey,
    /// All objects of the model.
    pub(super) wanted: &'a [RequestedObject],
}

/// A whole download that is not an entry yet.
#[derive(Debug)]
pub(super) struct FinishedDownload {
    /// Its files.
    pub(super) files: Vec<FileDigest>,
    /// Keeps the download until it is an entry.
    pub(super) _reserved: InUse,
}

impl Fetch<'_> {
    /// Downloads everything, and begins again where the cache was emptied meanwhile.
    pub(super) async fn run(&self) -> Result<FinishedDownload, Failure> {
        for _ in 1..MOST_TRIES {
            let brought = self.run_once().await;
            match brought {
                Ok(whole) if self.is_here(&whole.files).await? => return Ok(whole),
                Err(failure) if self.is_here(&[]).await? => return Err(failure),
                Ok(_) | Err(_) => {
                    let model = self.model;
                    tracing::warn!(model, "the cache was emptied while a model was fetched");
                }
            }
        }
        self.run_once().await
    }

    /// Whether the download's folder and these of its files exist.
    async fn is_here(&self, files: &[FileDigest]) -> Result<bool, Failure> {
        let (folder, files) = (self.folder(), files.to_vec());
        on_disk(move || {
            let is_there = |file: &FileDigest| damage_of(&folder, file, false).is_ok();
            Ok(folder.join(INCOMING).is_dir() && files.iter().all(is_there))
        })
        .await
    }

    async fn run_once(&self) -> Result<FinishedDownload, Failure> {
        let reserved = self.reserve().await?;
        let mut fetched = self.resume().await?;
        let missing: Vec<_> = self
            .wanted
            .iter()
            .filter(|wanted| !fetched.iter().any(|fetched| fetched.object == wanted.object))
            .collect();
        let bytes: u64 = missing.iter().map(|wanted| wanted.object.size).sum();
        let (model, files) = (self.model, missing.len());
        tracing::info!(model, files, bytes, resumed = fetched.len(), "a model is fetched");
        let downloads: Vec<_> =
            missing.into_iter().map(|wanted| self.bring(wanted).boxed()).collect();
        let mut downloads = stream::iter(downloads).buffer_unordered(FILES_IN_FLIGHT);
        while let Some(brought) = downloads.next().await {
            fetched.push(brought?);
            self.note(&fetched).await?;
        }
        let file = |fetched: Fetched| FileDigest {
            name: fetched.object.name,
            size: fetched.object.size,
            sha256: fetched.sha256,
        };
        Ok(FinishedDownload { files: fetched.into_iter().map(file).collect(), _reserved: reserved })
    }

    async fn reserve(&self) -> Result<InUse, Failure> {
        let (cache, partial) = (self.cache.clone(), self.partial.clone());
        let model = self.model.to_owned();
        let bytes = self.wanted.iter().map(|wanted| wanted.object.size).sum();
        on_disk(move || cache.reserve(&partial, bytes).map_err(|error| error.failure(&model))).await
    }

    /// Whole files of an earlier download that have not changed since.
    async fn resume(&self) -> Result<Vec<Fetched>, Failure> {
        let folder = self.folder();
        let wanted: Vec<_> = self.wanted.iter().map(|wanted| wanted.object.clone()).collect();
        on_disk(move || resume(&folder, &wanted).map_err(|error| disk_failure(FETCHED, &error)))
            .await
    }

    async fn note(&self, fetched: &[Fetched]) -> Result<(), Failure> {
        let (path, fetched) = (self.folder().join(FETCHED), fetched.to_vec());
        let write = move || write_atomically(&path, &serde_json::to_vec(&fetched)?);
        on_disk(move || write().map_err(|error| disk_failure(FETCHED, &error))).await
    }

    /// Downloads one file.
    async fn bring(&self, wanted: &RequestedObject) -> Result<Fetched, Failure> {
        // A download whose caller went away may still hold the file that it was writing.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let incoming = self.folder().join(INCOMING).join(number.to_string());
        let RequestedObject { place, object } = wanted;
        let brought = download(place, &incoming, Patience::default(), &|_| {})
            .await
            .map_err(|error| storage_failure(self.model, &error))?;
        let target = self.folder().join(FILES).join(&object.name);
        if brought.size != object.size {
            let what = format!(
                "{} had {} bytes when it was listed and {} when it was read; it was replaced meanwhile, ask again",
                place.url, object.size, brought.size
            );
            return Err(Failure::new(FailureReason::StorageCorrupted, what)
                .with("model", &self.model)
                .with("listedBytes", &object.size)
                .with("readBytes", &brought.size));
        }
        let name = object.name.clone();
        on_disk(move || accept(&incoming, &target).map_err(|error| disk_failure(&name, &error)))
            .await?;
        Ok(Fetched { object: object.clone(), sha256: brought.sha256 })
    }

    fn folder(&self) -> PathBuf {
        self.cache.folder_of(self.partial)
    }
}

fn accept(incoming: &Path, target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(incoming, target)
}

fn resume(folder: &Path, wanted: &[Object]) -> io::Result<Vec<Fetched>> {
    let incoming = folder.join(INCOMING);
    match fs::remove_dir_all(&incoming) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&incoming)?,
    }
    let noted = fs::read(folder.join(FETCHED)).unwrap_or_default();
    let noted: Vec<Fetched> = serde_json::from_slice(&noted).unwrap_or_default();
    let files = folder.join(FILES);
    let is_good = |fetched: &Fetched| {
        let digest = File::open(files.join(&fetched.object.name))
            .and_then(|mut file| digest_reader(&mut file));
        wanted.contains(&fetched.object) && digest.is_ok_and(|digest| digest == fetched.sha256)
    };
    let kept: Vec<_> = noted.into_iter().filter(is_good).collect();
    // Nothing that is no part of the model may stay beside what is.
    clear_all_but(&files, &kept)?;
    Ok(kept)
}

fn clear_all_but(files: &Path, kept: &[Fetched]) -> io::Result<()> {
    let mut folders = vec![files.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            // Of the entry itself: a link leads out of the cache, or round in it.
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if !kept.iter().any(|kept| files.join(&kept.object.name) == path) {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}
