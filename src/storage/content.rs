//! The size and digest that a file or object must have.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::StorageError;

/// What a file or object must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub size: u64,
    /// The digest in hexadecimal.
    pub sha256: String,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with the digest {}", self.size, self.sha256)
    }
}

impl Content {
    /// The content of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let mut counted = Counted::default();
        counted.add(bytes);
        counted.content()
    }
}

/// A file on this machine, and what it must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// The path of the file.
    pub path: PathBuf,
    /// What was written into it.
    pub content: Content,
}

impl LocalFile {
    /// A file, and what it holds now.
    pub async fn open(path: PathBuf) -> Result<Self, StorageError> {
        let content = content_of(&path).await?;
        Ok(Self { path, content })
    }

    /// Its name without its folder, for messages.
    pub(super) fn name(&self) -> String {
        name_of(&self.path)
    }

    /// The bytes from `offset` on.
    pub(super) async fn read(&self, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let (path, name) = (self.path.clone(), self.name());
        on_disk(name, move || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let length = usize::try_from(length).map_err(std::io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    /// Fails where the file holds something else by now.
    pub(super) async fn check(&self) -> Result<(), StorageError> {
        if content_of(&self.path).await? == self.content {
            return Ok(());
        }
        Err(StorageError::SourceChanged { name: self.name() })
    }
}

/// What a file holds now.
async fn content_of(path: &Path) -> Result<Content, StorageError> {
    let (name, path) = (name_of(path), path.to_owned());
    on_disk(name, move || {
        let mut file = File::open(path)?;
        let mut counted = Counted::default();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(counted.content()),
                count => counted.add(&buffer[..count]),
            }
        }
    })
    .await
}

/// A path's last part.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs blocking work on the disk on a thread that may block.
pub(super) async fn on_disk<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StorageError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|error| StorageError::of_disk(&name, error))
}

/// Counts and digests what is written through it.
#[derive(Debug, Default)]
pub(super) struct Counted {
    size: u64,
    hash: Sha256,
}

impl Counted {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn content(self) -> Content {
        Content { size: self.size, sha256: hex::encode(self.hash.finalize()) }
    }
}
