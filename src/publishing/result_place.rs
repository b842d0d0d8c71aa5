//! Where a result lies that somebody wants to check: a local folder, or object storage.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::PathBuf,
};

use super::VerifyError;
use crate::{
    artifacts::digest::digest_reader,
    provenance::is_plain_name,
    storage::{self, Content, Patience, StorageErrorKind, StorageLocation},
};

/// Most files, folders and links of a local result that are looked at.
const MOST_ENTRIES: usize = 100_000;

/// A folder with a result in it.
#[derive(Debug, Clone)]
pub enum ResultPlace {
    /// On this machine.
    Folder(PathBuf),
    /// In object storage.
    Objects(StorageLocation),
}

impl std::fmt::Display for ResultPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Objects(location) => location.url.fmt(f),
        }
    }
}

impl ResultPlace {
    /// A folder within, by a plain name.
    pub(super) fn within(&self, name: &str) -> Result<Self, VerifyError> {
        if !is_plain_name(name) {
            return Err(VerifyError::BadName { name: name.to_owned() });
        }
        Ok(match self {
            Self::Folder(path) => Self::Folder(path.join(name)),
            Self::Objects(location) => Self::Objects(location.child(name)?),
        })
    }

    /// Every file in it and its bytes. A local link is refused: nobody signed what it leads to.
    pub(super) async fn list(&self) -> Result<Vec<(String, u64)>, VerifyError> {
        let mut files = match self {
            Self::Folder(path) => {
                let mut walk = Walk::default();
                walk.list(path, "")?;
                walk.files
            }
            Self::Objects(location) => {
                storage::list_sizes_below(location, Patience::default()).await?
            }
        };
        if let Some((name, _)) = files.iter().find(|(name, _)| !is_plain_name(name)) {
            return Err(VerifyError::BadName { name: name.clone() });
        }
        files.sort();
        Ok(files)
    }

    /// A small file's bytes, none where there is none.
    pub(super) async fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, VerifyError> {
        match self {
            Self::Objects(location) => {
                let place = location.child(name)?;
                let read = storage::read(&place, most, Patience::default()).await?;
                Ok(read.map(|bytes| bytes.to_vec()))
            }
            Self::Folder(path) => {
                let path = path.join(name);
                match fs::symlink_metadata(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Ok(metadata) if metadata.is_symlink() => {
                        return Err(VerifyError::Link { name: name.to_owned() });
                    }
                    _ => {}
                }
                let mut bytes = Vec::new();
                let read =
                    File::open(&path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
                read.map_err(|source| VerifyError::Unreadable { path, source })?;
                if bytes.len() as u64 > most {
                    return Err(VerifyError::TooLong { name: name.to_owned(), most });
                }
                Ok(Some(bytes))
            }
        }
    }

    /// The SHA-256 of a file, which is read to its end. `progress` receives the number of bytes so far.
    pub(super) async fn digest(
        &self,
        name: &str,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<String, VerifyError> {
        match self {
            Self::Objects(location) => {
                let place = location.child(name)?;
                let digested = storage::digest(&place, Patience::default(), progress).await;
                let Content { sha256, .. } = digested.map_err(|error| match error.kind() {
                    // It was listed a moment ago.
                    StorageErrorKind::NotFound => VerifyError::Vanished { name: name.to_owned() },
                    _ => error.into(),
                })?;
                Ok(sha256)
            }
            Self::Folder(path) => {
                let path = path.join(name);
                let digest = File::open(&path)
                    .and_then(|file| digest_reader(&mut Watched { file, done: 0, progress }));
                digest.map_err(|source| VerifyError::Unreadable { path, source })
            }
        }
    }
}

/// A file whose reading is told.
struct Watched<'a> {
    file: File,
    done: u64,
    progress: &'a (dyn Fn(u64) + Send + Sync),
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        (self.progress)(self.done);
        Ok(count)
    }
}

/// A walk through a local folder that follows no link.
#[derive(Debug, Default)]
struct Walk {
    files: Vec<(String, u64)>,
    seen: usize,
}

impl Walk {
    fn list(&mut self, folder: &std::path::Path, prefix: &str) -> Result<(), VerifyError> {
        let unreadable = |path: &std::path::Path, source| VerifyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
            let entry = entry.map_err(|error| unreadable(folder, error))?;
            let path = entry.path();
            self.seen += 1;
            if self.seen > MOST_ENTRIES {
                return Err(VerifyError::TooMany { most: MOST_ENTRIES });
            }
            let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}"))
            else {
                return Err(VerifyError::BadName { name: path.to_string_lossy().into_owned() });
            };
            // Of the entry itself, whatever it leads to.
            let metadata = entry.metadata().map_err(|error| unreadable(&path, error))?;
            if metadata.is_dir() {
                self.list(&path, &format!("{name}/"))?;
            } else if metadata.is_file() {
                self.files.push((name, metadata.len()));
            } else {
                return Err(VerifyError::Link { name });
            }
        }
        Ok(())
    }
}
