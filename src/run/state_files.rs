//! A run's state in a folder: whole files with their digests, or none.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::attempt_note::{note_attempt, noted_attempt};
use crate::{
    artifacts::sync_folder,
    engine::{PartReader, SavePoint, StateError, StatePart, StateStore},
};

/// Bytes of the digest that follows a part's own bytes in its file.
const DIGEST_BYTES: u64 = 32;

/// Keeps each part as one file: its bytes, then their SHA-256. The digest lies in the same file, so
/// that one rename puts both in place.
#[derive(Debug, Clone)]
pub struct StateFiles {
    folder: PathBuf,
}

impl StateFiles {
    /// In a folder, which is made by the first save.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where they lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether any part was saved.
    pub fn is_empty(&self) -> bool {
        !StatePart::ALL.into_iter().any(|part| self.path(part).exists())
    }

    /// Removes every part, and the folder where nothing else lies in it.
    pub fn clear(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(is_of_state) {
                fs::remove_file(entry.path())?;
            }
        }
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn path(&self, part: StatePart) -> PathBuf {
        self.folder.join(part.file_name())
    }

    /// A name for a part that is fetched, until it is whole.
    pub(super) fn unfinished(&self, part: StatePart) -> PathBuf {
        self.folder.join(format!(".{}.fetched.partial", part.file_name()))
    }

    /// The attempt that saved a part, 0 where none was noted.
    pub(super) fn attempt(&self, part: StatePart) -> u64 {
        if !self.path(part).exists() {
            return 0;
        }
        noted_attempt(&self.path(part))
    }

    /// Notes the attempt that saved a part.
    pub(super) fn note_attempt(&self, part: StatePart, attempt: u64) -> io::Result<()> {
        note_attempt(&self.path(part), attempt)
    }

    /// Puts a part that was fetched whole in place of the one here.
    pub(super) fn adopt(&self, part: StatePart, fetched: &Path, attempt: u64) -> io::Result<()> {
        fs::rename(fetched, self.path(part))?;
        self.note_attempt(part, attempt)
    }

    fn write(
        &self,
        part: StatePart,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        // Beside its target, so that the rename stays on one disk; removed when it is dropped.
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{}.", part.file_name()))
            .suffix(".partial")
            .tempfile_in(&self.folder)?;
        fill(temporary.as_file(), write)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.path(part)).map_err(|error| error.error)?;
        sync_folder(&self.folder)
    }
}

impl StateStore for StateFiles {
    fn load(&mut self, part: StatePart) -> Result<Option<PartReader>, StateError> {
        let file = || part.file_name().to_owned();
        let unreadable = |source| StateError::Unreadable { file: file(), source };
        let damaged = |message: &str| StateError::Damaged { file: file(), message: message.into() };
        let mut opened = match File::open(self.path(part)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(unreadable)?,
        };
        let metadata = opened.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(damaged("it is a folder and no file"));
        }
        let Some(length) = metadata.len().checked_sub(DIGEST_BYTES) else {
            return Err(damaged("it is shorter than its digest"));
        };
        let mut hash = Hashing { out: io::sink(), hash: Sha256::new() };
        io::copy(&mut (&opened).take(length), &mut hash).map_err(unreadable)?;
        let mut expected = [0; DIGEST_BYTES as usize];
        opened.read_exact(&mut expected).map_err(unreadable)?;
        if hash.hash.finalize()[..] != expected {
            return Err(damaged("its bytes do not have the digest that was saved with them"));
        }
        opened.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        Ok(Some((Box::new(opened), length)))
    }

    fn save(
        &mut self,
        SavePoint { part, .. }: SavePoint,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let unwritable = |source| StateError::Unwritable { file: part.file_name().into(), source };
        self.write(part, write).map_err(unwritable)
    }
}

/// Whether a file is a part, or a part that was not saved to its end.
fn is_of_state(name: &str) -> bool {
    StatePart::ALL.iter().map(|part| part.file_name()).any(|file| {
        let unfinished = name.strip_prefix('.').and_then(|name| name.strip_prefix(file));
        name == file || unfinished.is_some_and(|rest| rest.ends_with(".partial"))
    })
}

/// Writes a part's bytes and their digest.
fn fill(file: &File, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut hashing = Hashing { out: BufWriter::new(file), hash: Sha256::new() };
    write(&mut hashing)?;
    let digest = hashing.hash.finalize();
    hashing.out.write_all(&digest)?;
    hashing.out.flush()
}

/// Digests what passes through.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(part: StatePart) -> SavePoint {
        SavePoint { part, done: 1 }
    }

    fn text(store: &mut StateFiles, part: StatePart) -> Option<String> {
        let (mut reader, length) = store.load(part).unwrap()?;
        let mut text = vec![0; length as usize];
        reader.read_exact(&mut text).unwrap();
        Some(String::from_utf8(text).unwrap())
    }

    #[test]
    fn what_was_saved_comes_back_and_a_cut_save_leaves_the_one_before() {
        let place = tempfile::tempdir().unwrap();
        let mut store = StateFiles::new(place.path().join("state"));
        assert_eq!(text(&mut store, StatePart::Bank), None);
        store.save(at(StatePart::Bank), &mut |out| out.write_all(b"one")).unwrap();
        let cut = store.save(at(StatePart::Bank), &mut |out| {
            out.write_all(b"tw")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(cut, Err(StateError::Unwritable { .. })));
        assert_eq!(text(&mut store, StatePart::Bank).as_deref(), Some("one"));
        store.save(at(StatePart::Bank), &mut |out| out.write_all(b"three")).unwrap();
        assert_eq!(text(&mut store, StatePart::Bank).as_deref(), Some("three"));
        assert_eq!(fs::read_dir(place.path().join("state")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_cleared_is_the_state_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("state");
        let mut store = StateFiles::new(&folder);
        store.clear().unwrap();
        assert!(store.is_empty());
        store.save(at(StatePart::Walk), &mut |out| out.write_all(b"one")).unwrap();
        assert!(!store.is_empty());
        fs::write(folder.join(".walk.safetensors.x1.partial"), "cut").unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        store.clear().unwrap();
        assert!(store.is_empty());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_file(folder.join("notes.txt")).unwrap();
        store.clear().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_named() {
        let place = tempfile::tempdir().unwrap();
        let mut store = StateFiles::new(place.path());
        fs::create_dir(place.path().join(StatePart::Training.file_name())).unwrap();
        let error = store.load(StatePart::Training).err().unwrap().to_string();
        assert!(error.contains("it is a folder"), "{error}");
        let saved = store.save(SavePoint { part: StatePart::Training, done: 1 }, &mut |out| {
            out.write_all(b"weights")
        });
        let error = saved.unwrap_err().to_string();
        assert!(error.contains("remove that folder") && !error.contains("room"), "{error}");
    }

    #[test]
    fn a_flipped_bit_is_damage() {
        let place = tempfile::tempdir().unwrap();
        let mut store = StateFiles::new(place.path());
        store.save(at(StatePart::Training), &mut |out| out.write_all(b"weights")).unwrap();
        let path = place.path().join(StatePart::Training.file_name());
        let mut bytes = fs::read(&path).unwrap();
        bytes[2] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(store.load(StatePart::Training), Err(StateError::Damaged { .. })));
        fs::write(&path, b"short").unwrap();
        assert!(matches!(store.load(StatePart::Training), Err(StateError::Damaged { .. })));
    }
}
