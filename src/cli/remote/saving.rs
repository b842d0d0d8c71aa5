//! Saves a server's answers as files: whole or not at all, and over existing ones only where asked.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::RemoteError;

/// A folder for pictures.
#[derive(Debug)]
pub(super) struct PictureFolder {
    pub(super) path: PathBuf,
    /// Whether pictures that are there already may be replaced.
    pub(super) overwrite: bool,
}

impl PictureFolder {
    /// Creates the folder, and refuses pictures that exist already before any work is done.
    pub(super) fn prepare(&self, seeds: impl Iterator<Item = u64>) -> Result<(), RemoteError> {
        fs::create_dir_all(&self.path).map_err(|source| unwritable(&self.path, source))?;
        for (index, seed) in seeds.enumerate() {
            let path = self.picture(index as u32, seed);
            if !self.overwrite && fs::symlink_metadata(&path).is_ok() {
                return Err(RemoteError::Usage(format!(
                    "{} exists; name another --output or give --overwrite",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// The path of a picture.
    pub(super) fn picture(&self, index: u32, seed: u64) -> PathBuf {
        self.path.join(format!("{index:03}-seed-{seed}.png"))
    }

    fn preview(&self, index: u32, seed: u64) -> PathBuf {
        self.path.join(format!("{index:03}-seed-{seed}.preview.png"))
    }

    /// Saves a picture over its preview, and returns its path.
    pub(super) fn save(&self, index: u32, seed: u64, png: &[u8]) -> Result<PathBuf, RemoteError> {
        let path = self.picture(index, seed);
        save(&path, png, self.overwrite)?;
        // There is one only where previews were asked for.
        let _ = fs::remove_file(self.preview(index, seed));
        Ok(path)
    }

    /// Saves a preview over the one before.
    pub(super) fn save_preview(
        &self,
        index: u32,
        seed: u64,
        png: &[u8],
    ) -> Result<(), RemoteError> {
        save(&self.preview(index, seed), png, true)
    }
}

/// Writes a file whole or not at all.
pub(in crate::cli) fn save(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), RemoteError> {
    let failed = |source| unwritable(path, source);
    let unfinished = path.with_extension(format!("{}.partial", uuid::Uuid::new_v4()));
    let placed = fs::write(&unfinished, bytes).and_then(|()| {
        if overwrite { fs::rename(&unfinished, path) } else { place(&unfinished, path) }
    });
    if placed.is_err() {
        // What cannot be removed stays; the error says where.
        let _ = fs::remove_file(&unfinished);
    }
    placed.map_err(failed)
}

/// Renames the file, where the name is free.
fn place(unfinished: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(unfinished, path) {
        Ok(()) => fs::remove_file(unfinished),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Some file systems have no links.
        Err(_) if fs::symlink_metadata(path).is_err() => fs::rename(unfinished, path),
        Err(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

pub(super) fn unwritable(path: &Path, source: io::Error) -> RemoteError {
    RemoteError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_replaced_unasked() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = PictureFolder { path: place.path().join("a/b"), overwrite: false };
        folder.prepare([7, 8].into_iter()).unwrap();
        folder.save_preview(1, 8, b"small").unwrap();
        folder.save_preview(1, 8, b"smaller").unwrap();
        let path = folder.save(1, 8, b"one").unwrap();
        assert!(path.ends_with("001-seed-8.png"));
        assert!(matches!(folder.save(1, 8, b"two"), Err(RemoteError::Write { .. })));
        let error = folder.prepare([7, 8].into_iter()).unwrap_err();
        assert!(error.to_string().contains("--overwrite"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        folder.overwrite = true;
        folder.prepare([7, 8].into_iter()).unwrap();
        folder.save(1, 8, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 1);
    }
}
