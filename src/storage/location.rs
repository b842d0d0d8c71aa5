//! A prefix or an object in a store.

use std::{fmt, sync::Arc};

use object_store::{ObjectStore, multipart::MultipartStore, path::Path};
use url::Url;

use super::StorageError;

/// A prefix in a store, or one object.
#[derive(Clone)]
pub struct StorageLocation {
    /// The bucket, container or root folder.
    pub store: Arc<dyn ObjectStore>,
    /// The same store, where its uploads in parts outlive this process; those of a local folder do not.
    pub parts: Option<Arc<dyn MultipartStore>>,
    /// The prefix within it.
    pub path: Path,
    /// The same as a URL without a slash at its end.
    pub url: Url,
}

impl fmt::Debug for StorageLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StorageLocation").field(&self.url.as_str()).finish()
    }
}

impl StorageLocation {
    /// The object or prefix of a relative name with `/`, such as `files/unet/config.json`. Refuses a
    /// name that could lead out.
    pub fn child(&self, name: &str) -> Result<Self, StorageError> {
        let invalid = || StorageError::InvalidName { name: name.to_owned() };
        if !is_inside(name) {
            return Err(invalid());
        }
        let path = match self.path.as_ref() {
            "" => Path::parse(name),
            prefix => Path::parse(format!("{prefix}/{name}")),
        };
        let path = path.map_err(|_| invalid())?;
        let mut url = self.url.clone();
        url.path_segments_mut().map_err(|()| invalid())?.pop_if_empty().extend(name.split('/'));
        Ok(Self { store: self.store.clone(), parts: self.parts.clone(), path, url })
    }
}

/// The longest name of a file or folder on common file systems, in bytes.
const LONGEST_PART: usize = 255;
/// The longest path that Linux opens, in bytes.
const LONGEST_PATH: usize = 4_095;
/// The longest key of an object, in S3 as in the other clouds, in bytes.
const LONGEST_KEY: usize = 1_024;

impl StorageLocation {
    /// Refuses a prefix below which a relative name of so many bytes would be longer than the store
    /// accepts.
    pub fn check_lengths(&self, longest_name: usize) -> Result<(), StorageError> {
        let path = self.path.as_ref();
        let is_folder = self.url.scheme() == "file";
        let longest_part = path.split('/').map(str::len).max().unwrap_or_default();
        let whole = path.len() + 1 + longest_name;
        let (what, bytes, limit) = if is_folder && longest_part > LONGEST_PART {
            ("its longest part", longest_part, LONGEST_PART)
        } else if is_folder && whole > LONGEST_PATH {
            ("the longest path of a file below it", whole, LONGEST_PATH)
        } else if !is_folder && whole > LONGEST_KEY {
            ("the longest key of an object below it", whole, LONGEST_KEY)
        } else {
            return Ok(());
        };
        Err(StorageError::TooLong { what, bytes, limit })
    }
}

/// Whether a name stays below the folder that it is joined to, on every back end.
fn is_inside(name: &str) -> bool {
    let segment_is_plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && !segment.contains(|c: char| c.is_control() || c == '\\')
    };
    name.split('/').all(segment_is_plain)
}

#[cfg(test)]
mod tests {
    use crate::storage::{StorageSettings, Storages};

    #[test]
    fn a_child_is_where_its_url_says() {
        let storages = Storages::new(StorageSettings::default());
        for root in ["memory://places", "memory://places/a/b", "file:///a%20b/c", "file:///"] {
            let place = storages.open(root).unwrap();
            for name in ["x.json", "unet/a b.json", "50%41 #1?/ü&=.png", "~[x]*"] {
                let child = place.child(name).unwrap();
                let opened = storages.open(child.url.as_str()).unwrap();
                assert_eq!(opened.path, child.path, "{root} {name}");
                assert_eq!(opened.url, child.url);
                assert!(child.path.as_ref().ends_with(name));
            }
        }
    }

    #[test]
    fn what_is_longer_than_the_store_takes_is_refused_with_its_limit() {
        let storages = Storages::new(StorageSettings::default());
        let check = |url: String| storages.open(&url).unwrap().check_lengths(300);
        let said = |url: String| check(url).unwrap_err().to_string();
        check(format!("file:///out/{}", "a".repeat(255))).unwrap();
        let text = said(format!("file:///out/{}", "a".repeat(256)));
        assert!(text.contains("256 bytes") && text.contains("255"), "{text}");
        // As the disk counts, not as the URL is written: two bytes each.
        check(format!("file:///{}", "%C3%BC".repeat(127))).unwrap();
        said(format!("file:///{}", "%C3%BC".repeat(128)));
        let text = said(format!("file://{}", "/abcdefgh".repeat(450)));
        assert!(text.contains("4095"), "{text}");
        check(format!("memory://m/{}", "a".repeat(1_024 - 301))).unwrap();
        let text = said(format!("memory://m/{}", "a".repeat(1_024 - 300)));
        assert!(text.contains("1025 bytes") && text.contains("1024"), "{text}");
    }

    #[test]
    fn no_name_leaves_its_place() {
        let place = Storages::new(StorageSettings::default()).open("memory://places/a").unwrap();
        for name in ["", "/", "/etc", "a//b", "a/", "..", "a/../../b", "./a", "a\\..\\b", "a\nb"] {
            assert!(place.child(name).is_err(), "{name:?}");
        }
    }
}
