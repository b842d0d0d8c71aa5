//! The folder of the daemon's own state: made private, and held by one process at a time.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::StartError;
use crate::jobs::Identifiers;

/// Held while the folder is in use; freed by the system however the process ends.
const LOCK: &str = "lock";
/// Who works here; kept, so that leases and traces name the same worker after a restart.
const IDENTITY: &str = "identity";

/// The folder, ours until this is dropped.
#[derive(Debug)]
pub(super) struct DataFolder {
    path: PathBuf,
    identity: String,
    /// Locked; the lock goes with it.
    _lock: File,
}

impl DataFolder {
    /// Makes the folder where it is missing, and takes it. Blocking.
    pub(super) fn take(path: &Path, identifiers: &Identifiers) -> Result<Self, StartError> {
        let failed = |source| StartError::DataFolder { path: path.to_owned(), source };
        make_private(path).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let lock = private_file(&path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StartError::DataFolderTaken { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let identity = identity(&path.join(IDENTITY), identifiers).map_err(failed)?;
        Ok(Self { path, identity, _lock: lock })
    }

    /// The folder, without links in its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names the daemon that works here, over restarts.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// A folder of its own below, made where it is missing. Blocking.
    pub(super) fn below(&self, name: &str) -> Result<PathBuf, StartError> {
        let path = self.path.join(name);
        make_private(&path)
            .map_err(|source| StartError::DataFolder { path: path.clone(), source })?;
        Ok(path)
    }
}

fn identity(path: &Path, identifiers: &Identifiers) -> io::Result<String> {
    let known = fs::read_to_string(path).unwrap_or_default();
    let known = known.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !known.is_empty() && known.len() <= 64 && known.chars().all(is_plain) {
        return Ok(known.to_owned());
    }
    let identity = format!("keystep-{}", identifiers.job());
    let mut file = private_file(path)?;
    file.set_len(0)?;
    file.write_all(identity.as_bytes())?;
    file.sync_all()?;
    Ok(identity)
}

#[cfg(unix)]
fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    if path.is_dir() {
        // Made by somebody else, as a mounted volume is: narrowed where that is ours to do.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
