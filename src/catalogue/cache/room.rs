//! The cache's entries, how much they take, and the eviction of the least recently used.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::entry::{
    EntryKey, EntryKind, FILES, find_damage, read_complete, remove_complete, write_complete,
};
use crate::{
    artifacts::digest::digest_bytes,
    catalogue::CacheSettings,
    jobs::{Failure, FailureReason},
    outcome::FileDigest,
};

/// Written on every use, so that the order of uses outlives the process.
const USED: &str = "used";
/// Pictures take this part of the cache at most.
const SHARE_OF_PICTURES: u64 = 8;

/// Keeps its entry from being evicted while this lives.
#[derive(Debug, Clone)]
pub(in crate::catalogue) struct InUse {
    _users: Arc<()>,
}

/// A whole entry that is not evicted while this lives.
#[derive(Debug)]
pub(in crate::catalogue) struct PinnedEntry {
    pub(in crate::catalogue) files: Vec<FileDigest>,
    pub(in crate::catalogue) in_use: InUse,
    folder: PathBuf,
}

impl PinnedEntry {
    /// Where its files lie.
    pub(in crate::catalogue) fn files_folder(&self) -> PathBuf {
        self.folder.join(FILES)
    }
}

/// Why something cannot be cached.
#[derive(Debug, thiserror::Error)]
pub(in crate::catalogue) enum CacheError {
    /// However empty the cache is.
    #[error(
        "it takes {needed} bytes and the cache may hold {limit}; raise the cache's max_bytes to that, or name a smaller model"
    )]
    TooLarge {
        /// Bytes of the model.
        needed: u64,
        /// Most bytes of the cache.
        limit: u64,
    },
    /// As long as others are worked with.
    #[error(
        "it takes {needed} bytes, and {in_use} of the {limit} that the cache may hold are in use; try again later, or raise the cache's max_bytes"
    )]
    Crowded {
        /// Bytes of the model.
        needed: u64,
        /// Bytes of what is in use.
        in_use: u64,
        /// Most bytes of the cache.
        limit: u64,
    },
    /// The disk under it.
    #[error("the cache's disk fails ({0}); make room, and check the permissions")]
    Disk(#[from] io::Error),
}

impl CacheError {
    /// The failure of a request for the model.
    pub(in crate::catalogue) fn failure(&self, model: &str) -> Failure {
        let message = format!("the model {model} cannot be kept on this machine: {self}");
        let failure = Failure::new(FailureReason::DiskFull, message).with("model", &model);
        match self {
            Self::TooLarge { needed, limit } => {
                failure.with("neededBytes", needed).with("limitBytes", limit)
            }
            Self::Crowded { needed, in_use, limit } => failure
                .with("neededBytes", needed)
                .with("inUseBytes", in_use)
                .with("limitBytes", limit),
            Self::Disk(error) => failure.with("cause", error),
        }
    }
}

/// The cache. Its methods wait for the disk.
#[derive(Debug)]
pub(in crate::catalogue) struct Cache {
    settings: CacheSettings,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    is_scanned: bool,
    by_key: HashMap<EntryKey, Entry>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    last_use: u64,
    /// Whether every byte was compared in this process.
    is_verified: bool,
    users: Arc<()>,
}

impl Entry {
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.users) > 1
    }
}

impl Entries {
    fn pictures(&self) -> impl Iterator<Item = (&EntryKey, &Entry)> {
        self.by_key.iter().filter(|(key, _)| key.kind() == EntryKind::Pictures)
    }

    fn put(&mut self, key: EntryKey, bytes: u64, is_verified: bool) -> InUse {
        self.uses += 1;
        let users = match self.by_key.get(&key) {
            Some(entry) => entry.users.clone(),
            None => Arc::default(),
        };
        let in_use = InUse { _users: users.clone() };
        self.by_key.insert(key, Entry { bytes, last_use: self.uses, is_verified, users });
        in_use
    }
}

impl Cache {
    /// Nothing is read or made before the first use.
    pub(in crate::catalogue) fn new(settings: CacheSettings) -> Self {
        Self { settings, entries: Mutex::default() }
    }

    /// Where an entry lies.
    pub(in crate::catalogue) fn folder_of(&self, key: &EntryKey) -> PathBuf {
        self.settings.folder.join(key.kind().folder()).join(key.digest())
    }

    /// The file with a URL's last listing.
    pub(in crate::catalogue) fn source_file(&self, url: &str) -> PathBuf {
        let name = format!("{}.json", digest_bytes(url.as_bytes()));
        self.settings.folder.join("sources").join(name)
    }

    /// An entry that is whole; `None` where there is none. What is damaged is removed.
    pub(in crate::catalogue) fn hold(
        &self,
        key: &EntryKey,
    ) -> Result<Option<PinnedEntry>, CacheError> {
        let folder = self.folder_of(key);
        let (in_use, is_verified) = {
            let mut entries = self.entries()?;
            entries.uses += 1;
            let uses = entries.uses;
            let Some(entry) = entries.by_key.get_mut(key) else { return Ok(None) };
            entry.last_use = uses;
            (InUse { _users: entry.users.clone() }, entry.is_verified)
        };
        let Some(files) = read_complete(&folder) else {
            tracing::warn!(digest = key.digest(), "what is cached lost its mark and is removed");
            self.remove(key)?;
            return Ok(None);
        };
        // Not under the lock: many bytes are read.
        if let Some(damage) = find_damage(&folder, key, &files, !is_verified) {
            tracing::warn!(
                digest = key.digest(),
                damage,
                "what is cached is damaged and is removed"
            );
            self.remove(key)?;
            return Ok(None);
        }
        if let Some(entry) = self.entries()?.by_key.get_mut(key) {
            entry.is_verified = true;
        }
        note_use(&folder);
        Ok(Some(PinnedEntry { files, in_use, folder }))
    }

    /// Makes room for a download, and for what is left of an earlier attempt.
    pub(in crate::catalogue) fn reserve(
        &self,
        key: &EntryKey,
        bytes: u64,
    ) -> Result<InUse, CacheError> {
        let limit = self.settings.max_bytes;
        if bytes > limit {
            return Err(CacheError::TooLarge { needed: bytes, limit });
        }
        let mut entries = self.entries()?;
        let others_in_use =
            entries.by_key.iter().filter(|(k, entry)| *k != key && entry.is_in_use());
        let in_use: u64 = others_in_use.map(|(_, entry)| entry.bytes).sum();
        if in_use.saturating_add(bytes) > limit {
            return Err(CacheError::Crowded { needed: bytes, in_use, limit });
        }
        // Made before the others go, so that it cannot be among them.
        let reserved = entries.put(key.clone(), bytes, false);
        self.evict(&mut entries)?;
        let folder = self.folder_of(key);
        remove_complete(&folder)?;
        fs::create_dir_all(folder.join(FILES))?;
        Ok(reserved)
    }

    /// Makes room for pictures by letting go of others alone; `None` where that does not do.
    pub(super) fn reserve_beside_models(
        &self,
        partial: &EntryKey,
        bytes: u64,
    ) -> Result<Option<InUse>, CacheError> {
        let limit = self.settings.max_bytes;
        let mut entries = self.entries()?;
        loop {
            let pictures: u64 = entries.pictures().map(|(_, entry)| entry.bytes).sum();
            let all: u64 = entries.by_key.values().map(|entry| entry.bytes).sum();
            let fits = pictures.saturating_add(bytes) <= limit / SHARE_OF_PICTURES;
            if fits && all.saturating_add(bytes) <= limit {
                break;
            }
            let oldest = entries.pictures().min_by_key(|(_, entry)| entry.last_use);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return Ok(None) };
            self.drop_entry(&mut entries, &key)?;
        }
        let reserved = entries.put(partial.clone(), bytes, false);
        let folder = self.folder_of(partial);
        remove_folder(&folder)?;
        fs::create_dir_all(folder.join(FILES))?;
        Ok(Some(reserved))
    }

    /// Makes a finished download an entry.
    pub(in crate::catalogue) fn keep(
        &self,
        partial: &EntryKey,
        key: &EntryKey,
        files: Vec<FileDigest>,
    ) -> Result<PinnedEntry, CacheError> {
        let (from, folder) = (self.folder_of(partial), self.folder_of(key));
        let mut entries = self.entries()?;
        let is_used = entries.by_key.get(key).is_some_and(Entry::is_in_use);
        if is_used {
            // The same bytes from elsewhere: those who use them have compared them.
            remove_folder(&from)?;
        } else {
            remove_folder(&folder)?;
            write_complete(&from, &files)?;
            if let Some(parent) = folder.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::rename(&from, &folder)?;
            sync_folder(&folder)?;
        }
        entries.by_key.remove(partial);
        let bytes = files.iter().map(|file| file.size).sum();
        let in_use = entries.put(key.clone(), bytes, true);
        note_use(&folder);
        Ok(PinnedEntry { files, in_use, folder })
    }

    /// Removes an entry, even one in use.
    pub(in crate::catalogue) fn remove(&self, key: &EntryKey) -> Result<(), CacheError> {
        let mut entries = self.entries()?;
        self.drop_entry(&mut entries, key)
    }

    fn drop_entry(&self, entries: &mut Entries, key: &EntryKey) -> Result<(), CacheError> {
        let folder = self.folder_of(key);
        // The mark first: what is half removed is not whole.
        remove_complete(&folder)?;
        remove_folder(&folder)?;
        entries.by_key.remove(key);
        Ok(())
    }

    /// Lets go of what was used longest ago until the rest fits.
    fn evict(&self, entries: &mut Entries) -> Result<(), CacheError> {
        loop {
            let bytes: u64 = entries.by_key.values().map(|entry| entry.bytes).sum();
            if bytes <= self.settings.max_bytes {
                return Ok(());
            }
            let idle = entries.by_key.iter().filter(|(_, entry)| !entry.is_in_use());
            let Some((key, _)) = idle.min_by_key(|(_, entry)| entry.last_use) else {
                return Ok(());
            };
            let key = key.clone();
            tracing::info!(digest = key.digest(), "what is cached makes room for something else");
            self.drop_entry(entries, &key)?;
        }
    }

    /// The entries, read from the disk the first time. A poisoned lock guards a map that is still
    /// whole: what it lacks is fetched again.
    fn entries(&self) -> Result<MutexGuard<'_, Entries>, CacheError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.is_scanned {
            self.scan(&mut entries)?;
            entries.is_scanned = true;
        }
        Ok(entries)
    }

    fn scan(&self, entries: &mut Entries) -> Result<(), CacheError> {
        fs::create_dir_all(self.settings.folder.join("sources"))?;
        let mut found = Vec::new();
        for kind in EntryKind::ALL {
            let folder = self.settings.folder.join(kind.folder());
            fs::create_dir_all(&folder)?;
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                // What has another name is not the cache's, and stays.
                let Some(key) = name.to_str().and_then(|name| EntryKey::new(kind, name)) else {
                    continue;
                };
                let path = entry.path();
                let bytes = match kind {
                    EntryKind::Partial => Some(bytes_below(&path)?),
                    EntryKind::Model | EntryKind::Tensors | EntryKind::Pictures => {
                        read_complete(&path).map(|files| files.iter().map(|file| file.size).sum())
                    }
                };
                match bytes {
                    Some(bytes) => found.push((last_use(&path), key, bytes)),
                    None => remove_folder(&path)?,
                }
            }
        }
        found.sort_by_key(|(used, _, _)| *used);
        for (_, key, bytes) in found {
            entries.put(key, bytes, false);
        }
        self.evict(entries)
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Brings a new name to the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match folder.parent() {
        Some(parent) if cfg!(unix) => fs::File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// A use that is not noted only makes the entry go earlier.
fn note_use(folder: &Path) {
    if let Err(error) = fs::write(folder.join(USED), "1") {
        tracing::debug!(%error, "the use of what is cached is not noted");
    }
}

/// When an entry was last used, as far as is known.
fn last_use(folder: &Path) -> SystemTime {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    modified(&folder.join(USED)).or_else(|_| modified(folder)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn bytes_below(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
