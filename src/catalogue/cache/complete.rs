//! The marker of a whole entry, and the comparison with it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::entry::{EntryKey, EntryKind, FILES, PICTURES};
use crate::{
    artifacts::{digest::digest_reader, model_digest::model_digest},
    outcome::FileDigest,
};

/// The marker.
const COMPLETE: &str = "complete.json";
/// Of the marker's form.
const VERSION: u32 = 1;

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
    // Whoever empties the cache by hand takes its folders too.
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
