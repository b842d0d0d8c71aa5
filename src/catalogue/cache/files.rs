//! The cached files of a model. While the model is in use they are not evicted, and they are held
//! open, so that a training can still read them at its end if somebody empties the folder.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use super::{InUse, PinnedEntry};
use crate::{
    artifacts::ModelFolder,
    spec::{FileError, ModelFiles, ReadSeek},
};

/// Most files that a model holds open; one of more is read by its names alone, since a process may
/// hold about a thousand.
const MOST_OPEN: usize = 200;

/// A base model that lies whole in the cache.
#[derive(Debug)]
pub(in crate::catalogue) struct CachedModel {
    files: ModelFolder,
    open: BTreeMap<String, OpenFile>,
    _in_use: InUse,
}

impl CachedModel {
    /// Under its name in the catalogue: where it lies on this machine is nobody's business. Fails
    /// where a file has gone since it was compared.
    pub(in crate::catalogue) fn open(name: &str, entry: PinnedEntry) -> io::Result<Self> {
        let names: Vec<_> = entry.files.iter().map(|file| file.name.clone()).collect();
        let folder = entry.files_folder();
        let mut open = BTreeMap::new();
        if cfg!(unix) && names.len() <= MOST_OPEN {
            for name in &names {
                let file = File::open(folder.join(name))?;
                let length = file.metadata()?.len();
                open.insert(name.clone(), OpenFile { file: Arc::new(file), length, at: 0 });
            }
        }
        let files = ModelFolder::listed(name.to_owned(), folder, names);
        Ok(Self { files, open, _in_use: entry.in_use })
    }
}

impl ModelFiles for CachedModel {
    fn location(&self) -> &str {
        self.files.location()
    }

    fn names(&self) -> &[String] {
        self.files.names()
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        match self.open.get(name) {
            Some(file) => Ok((Box::new(file.clone()), file.length)),
            None => self.files.open(name),
        }
    }
}

/// A file that is open once for all its readers, each of which is where it is.
#[derive(Debug, Clone)]
struct OpenFile {
    file: Arc<File>,
    length: u64,
    at: u64,
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = read_at(&self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

/// No file is held open there.
#[cfg(not(unix))]
fn read_at(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Seek for OpenFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// The files of an erased model's base, which keep its edited tensors in the cache as well.
#[derive(Debug)]
pub(in crate::catalogue) struct EditedModel {
    pub(in crate::catalogue) base: Arc<dyn ModelFiles>,
    pub(in crate::catalogue) _edited: InUse,
}

impl ModelFiles for EditedModel {
    fn location(&self) -> &str {
        self.base.location()
    }

    fn names(&self) -> &[String] {
        self.base.names()
    }

    fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), FileError> {
        self.base.open(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn readers_of_one_file_do_not_disturb_each_other_and_outlive_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        let first = OpenFile { file, length: 10, at: 0 };
        let (mut first, mut second) = (first.clone(), first);
        std::fs::remove_file(&path).unwrap();
        let mut four = [0; 4];
        first.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"0123");
        assert_eq!(second.seek(SeekFrom::End(-3)).unwrap(), 7);
        let mut rest = String::new();
        second.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "789");
        first.seek(SeekFrom::Current(2)).unwrap();
        first.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"6789");
        assert_eq!(first.read(&mut four).unwrap(), 0);
        assert!(first.seek(SeekFrom::Current(-11)).is_err());
    }
}
