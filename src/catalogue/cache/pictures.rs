//! Caches the base models' pictures that judgements compare with. They are cheap to draw again, so
//! they never evict a model.

use std::{fs, io::Write, path::Path};

use super::{Cache, CacheError, EntryKey, EntryKind, FILES, PinnedEntry, entry::PICTURES};
use crate::{artifacts::digest::digest_bytes, device::PictureCache, outcome::FileDigest};

impl PictureCache for Cache {
    fn read(&self, key: &str) -> Option<Vec<u8>> {
        let key = EntryKey::new(EntryKind::Pictures, key)?;
        let entry = match self.hold(&key) {
            Ok(entry) => entry?,
            Err(error) => {
                tracing::warn!(%error, "kept pictures cannot be read");
                return None;
            }
        };
        let bytes = whole(&entry);
        // Every time: they are few, and a byte that is wrong would be a wrong figure.
        if bytes.is_none() {
            tracing::warn!(digest = key.digest(), "kept pictures are damaged and are removed");
            if let Err(error) = self.remove(&key) {
                tracing::warn!(%error, "damaged pictures cannot be removed");
            }
        }
        bytes
    }

    fn keep(&self, key: &str, bytes: &[u8]) {
        let Some(key) = EntryKey::new(EntryKind::Pictures, key) else { return };
        match self.keep_pictures(&key, bytes) {
            Ok(true) => {}
            Ok(false) => {
                let bytes = bytes.len();
                tracing::debug!(bytes, "the cache has no room for pictures");
            }
            Err(error) => tracing::warn!(%error, "pictures are not kept"),
        }
    }
}

impl Cache {
    /// Says whether there was room.
    fn keep_pictures(&self, key: &EntryKey, bytes: &[u8]) -> Result<bool, CacheError> {
        let size = bytes.len() as u64;
        let partial = EntryKey::partial(&format!("pictures {}", key.digest()));
        let Some(_reserved) = self.reserve_beside_models(&partial, size)? else {
            return Ok(false);
        };
        write(&self.folder_of(&partial).join(FILES).join(PICTURES), bytes)?;
        let sha256 = digest_bytes(bytes);
        let file = FileDigest { name: PICTURES.to_owned(), size, sha256 };
        Cache::keep(self, &partial, key, vec![file])?;
        Ok(true)
    }
}

/// The bytes of an entry; `None` where they are not those that it was kept with.
fn whole(entry: &PinnedEntry) -> Option<Vec<u8>> {
    let [file] = &entry.files[..] else { return None };
    let bytes = fs::read(entry.files_folder().join(PICTURES)).ok()?;
    (digest_bytes(&bytes) == file.sha256).then_some(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
