//! An entry of the cache: its name, the marker that makes it whole, and the comparison with that.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    artifacts::{
        digest::{digest_bytes, digest_reader},
        model_digest::model_digest,
    },
    outcome::FileDigest,
};

/// Below an entry: the files themselves, so that none of them passes for a file of the cache's.
pub(in crate::catalogue) const FILES: &str = "files";
/// The one file of an entry of pictures.
pub(super) const PICTURES: &str = "pictures";

/// The marker of a whole entry.
const COMPLETE: &str = "complete.json";
/// The version of the marker's form.
const VERSION: u32 = 1;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::catalogue) enum EntryKind {
    /// A base model, by its digest.
    Model,
    /// Edited tensors, by their file's digest.
    Tensors,
    /// Pictures of a base model, by the digest of all that they depend on.
    Pictures,
    /// A download, by the digest of the name of what is downloaded.
    Partial,
}

impl EntryKind {
    pub(super) const ALL: [Self; 4] = [Self::Model, Self::Tensors, Self::Pictures, Self::Partial];

    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Tensors => "tensors",
            Self::Pictures => "pictures",
            Self::Partial => "partial",
        }
    }
}

/// Names an entry, and its folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::catalogue) struct EntryKey {
    kind: EntryKind,
    digest: String,
}

impl EntryKey {
    /// `None` where the digest is no SHA-256 in hexadecimal: it becomes the name of a folder.
    pub(in crate::catalogue) fn new(kind: EntryKind, digest: &str) -> Option<Self> {
        let is_digest = digest.len() == 64
            && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_digest.then(|| Self { kind, digest: digest.to_owned() })
    }

    /// The entry of a download from `source`.
    pub(in crate::catalogue) fn partial(source: &str) -> Self {
        Self { kind: EntryKind::Partial, digest: digest_bytes(source.as_bytes()) }
    }

    pub(super) fn kind(&self) -> EntryKind {
        self.kind
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Complete {
    version: u32,
    files: Vec<FileDigest>,
}

/// What a whole entry holds; `None` where it is not whole.
pub(super) fn read_complete(entry: &Path) -> Option<Vec<FileDigest>> {
    let bytes = fs::read(entry.join(COMPLETE)).ok()?;
    let complete: Complete = serde_json::from_slice(&bytes).ok()?;
    (complete.version == VERSION).then_some(complete.files)
}

/// Marks an entry as whole.
pub(super) fn write_complete(entry: &Path, files: &[FileDigest]) -> io::Result<()> {
    let complete = Complete { version: VERSION, files: files.to_vec() };
    write_atomically(&entry.join(COMPLETE), &serde_json::to_vec_pretty(&complete)?)
}

/// Takes the mark away.
pub(super) fn remove_complete(entry: &Path) -> io::Result<()> {
    match fs::remove_file(entry.join(COMPLETE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A small file that is there whole or not at all.
pub(in crate::catalogue) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Somebody who empties the cache by hand removes its folders too.
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// What is wrong with an entry: sizes alone, or every byte.
pub(super) fn find_damage(
    entry: &Path,
    key: &EntryKey,
    files: &[FileDigest],
    every_byte: bool,
) -> Option<String> {
    let names_itself = match key.kind() {
        EntryKind::Model => model_digest(files) == key.digest(),
        EntryKind::Tensors => matches!(files, [file] if file.sha256 == key.digest()),
        // Named by what they depend on, which stands before the pixels.
        EntryKind::Pictures => matches!(files, [file] if file.name == PICTURES),
        EntryKind::Partial => false,
    };
    if !names_itself {
        return Some("its list of files is not the one that it is named by".to_owned());
    }
    files.iter().find_map(|file| damage_of(entry, file, every_byte).err())
}

/// What is wrong with one of an entry's files: its size alone, or every byte.
pub(in crate::catalogue) fn damage_of(
    entry: &Path,
    expected: &FileDigest,
    every_byte: bool,
) -> Result<(), String> {
    let name = &expected.name;
    let unreadable = |error: io::Error| format!("{name} cannot be read: {error}");
    let mut file = File::open(entry.join(FILES).join(name)).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    if size != expected.size {
        return Err(format!("{name} has {size} bytes and not {}", expected.size));
    }
    if every_byte {
        let sha256 = digest_reader(&mut file).map_err(unreadable)?;
        if sha256 != expected.sha256 {
            return Err(format!("{name} has the digest {sha256} and not {}", expected.sha256));
        }
    }
    Ok(())
}
