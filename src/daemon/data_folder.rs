//! The folder with the daemon's own state, locked against a second process. What the daemon creates
//! in it is private to its user; an existing folder keeps its mode.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::StartError;
use crate::jobs::{Identifiers, JobId, JobStore, SqliteStore, StoreError};

/// Locked while the folder is in use; the system frees it however the process ends.
const LOCK: &str = "lock";
/// The worker's name; kept, so that leases and traces name the same worker after a restart.
const IDENTITY: &str = "identity";

/// The database of jobs.
const DATABASE: &str = "jobs.sqlite";
/// The least free space that a database needs to be opened, in bytes.
const LEAST_ROOM: u64 = 1 << 20;

/// The data folder, locked until this is dropped.
#[derive(Debug)]
pub(super) struct DataFolder {
    path: PathBuf,
    identity: String,
    was_used: bool,
    _lock: File,
}

impl DataFolder {
    /// Creates the folder where it is missing, and locks it. Blocking.
    pub(super) fn take(path: &Path, identifiers: &Identifiers) -> Result<Self, StartError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StartError::DiskFull { path: path.to_owned(), reason: source.to_string() }
            }
            _ => StartError::DataFolder { path: path.to_owned(), source },
        };
        make_private(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let lock = private_file(&path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StartError::DataFolderTaken { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let known = identity(&path.join(IDENTITY));
        let was_used = known.is_some();
        let identity = known.unwrap_or_else(|| format!("keystep-{}", identifiers.job()));
        Ok(Self { path, identity, was_used, _lock: lock })
    }

    /// Refuses a store that was lost or replaced, for going on with it would remove what is left of
    /// its jobs: one that is new in a folder that had one, or knows none of the jobs whose work was
    /// saved here.
    pub(super) async fn check_store(&self, store: &SqliteStore) -> Result<(), StartError> {
        let lost = |jobs: &[JobId]| StartError::StoreLost {
            path: self.path.clone(),
            jobs: jobs.len(),
            example: jobs.first().map_or_else(|| "none".to_owned(), ToString::to_string),
        };
        let saved = saved_jobs(&self.path.join("jobs"));
        if store.is_new() && self.was_used {
            return Err(lost(&saved));
        }
        for id in &saved {
            // A job that cannot be read is not unknown.
            if !matches!(store.get(*id).await, Ok(None)) {
                return Ok(());
            }
        }
        if saved.is_empty() { Ok(()) } else { Err(lost(&saved)) }
    }

    /// Writes the identity down, once the store is open: from then on a store that is missing was
    /// lost. Blocking.
    pub(super) fn keep_identity(&self) -> Result<(), StartError> {
        let path = self.path.join(IDENTITY);
        let write = || {
            let mut file = private_file(&path)?;
            file.set_len(0)?;
            file.write_all(self.identity.as_bytes())?;
            file.sync_all()
        };
        if self.was_used {
            return Ok(());
        }
        write().map_err(|source| StartError::DataFolder { path: self.path.clone(), source })
    }

    /// The folder, without links in its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the daemon that works here, the same after restarts.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// A private folder below, created where it is missing. Blocking.
    pub(super) fn below(&self, name: &str) -> Result<PathBuf, StartError> {
        let path = self.path.join(name);
        make_private(&path)
            .map_err(|source| StartError::DataFolder { path: path.clone(), source })?;
        Ok(path)
    }

    /// The path of the database.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Makes the database private: SQLite creates its file with the process's mask, and gives the files
    /// beside it the same mode. Blocking.
    pub(super) fn narrow_database(&self) -> Result<(), StartError> {
        for suffix in ["", "-wal", "-shm"] {
            let path = self.path.join(format!("{DATABASE}{suffix}"));
            narrow(&path).map_err(|source| StartError::DataFolder { path, source })?;
        }
        Ok(())
    }

    /// The cause of an error of the database: SQLite does not always report a full disk as one.
    pub(super) fn store_error(&self, error: StoreError) -> StartError {
        store_error(&self.path, free_bytes(&self.path), error)
    }
}

fn saved_jobs(folder: &Path) -> Vec<JobId> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// `free` is what the folder's disk has left, in bytes.
fn store_error(path: &Path, free: Option<u64>, error: StoreError) -> StartError {
    match free {
        Some(free) if free < LEAST_ROOM => StartError::DiskFull {
            path: path.to_owned(),
            reason: format!("{free} bytes are free; {error}"),
        },
        _ => StartError::Store(error),
    }
}

fn identity(path: &Path) -> Option<String> {
    let known = fs::read_to_string(path).unwrap_or_default();
    let known = known.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_sound = !known.is_empty() && known.len() <= 64 && known.chars().all(is_plain);
    is_sound.then(|| known.to_owned())
}

#[cfg(unix)]
fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let mode = metadata.mode() & 0o7777;
            if mode & 0o077 != 0 {
                tracing::warn!(
                    path = %path.display(),
                    mode = %format_args!("{mode:o}"),
                    "others may look into this folder; `chmod 700` it, unless that is meant"
                );
            }
            Ok(())
        }
        _ => fs::DirBuilder::new().recursive(true).mode(0o700).create(path),
    }
}

#[cfg(not(unix))]
fn make_private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Removes a file's permissions for others, where the file exists.
#[cfg(unix)]
fn narrow(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    match fs::set_permissions(path, fs::Permissions::from_mode(0o600)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(not(unix))]
fn narrow(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Bytes that a user without privileges may still write; `None` where the system does not report it.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    // Some network disks have no size, and are not full for that.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_full() {
        let error = || StoreError::Backend("disk I/O error (4874)".to_owned());
        let path = Path::new("/srv/keystep");
        let full = store_error(path, Some(4096), error());
        assert!(matches!(full, StartError::DiskFull { .. }), "{full}");
        let text = full.to_string();
        assert!(
            text.contains("is full") && text.contains("4096") && text.contains("4874"),
            "{text}"
        );
        for free in [None, Some(1 << 30)] {
            assert!(matches!(store_error(path, free, error()), StartError::Store(_)));
        }
        assert!(free_bytes(&std::env::temp_dir()).is_some() || cfg!(not(unix)));
    }
}
