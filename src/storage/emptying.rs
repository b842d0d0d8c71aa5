//! A folder that nobody needs any more.

use std::{fs, io};

use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{Patience, Place, StorageError, StorageErrorKind, retry::retrying};

/// Removes every object below a place, in a local folder the folder too, with what was never
/// finished in it; says whether there was anything.
pub async fn remove_below(folder: &Place, patience: Patience) -> Result<bool, StorageError> {
    let of = |error| StorageError::of(&folder.url, error);
    if folder.url.scheme() == "file"
        && let Ok(path) = folder.url.to_file_path()
    {
        let removed = tokio::task::spawn_blocking(move || match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        });
        let removed = removed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        return removed.map_err(|error| {
            of(object_store::Error::Generic { store: "LocalFileSystem", source: error.into() })
        });
    }
    let mut found = false;
    let mut listing = folder.store.list(Some(&folder.path));
    while let Some(listed) = listing.next().await {
        let path = &listed.map_err(of)?.location;
        found = true;
        let removed =
            retrying(patience, || async move { folder.store.delete(path).await.map_err(of) }).await;
        match removed {
            Err(error) if error.kind() != StorageErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{StorageSettings, Storages, read};

    #[tokio::test]
    async fn a_folder_goes_and_its_neighbours_stay() {
        let place = tempfile::tempdir().unwrap();
        let local = url::Url::from_directory_path(place.path()).unwrap();
        let storages = Storages::new(StorageSettings::default());
        for root in ["memory://emptying/a", local.as_str()] {
            let root = storages.open(root).unwrap();
            let names = ["job/x/y", "job/manifest.json", "job2/x", "jo"];
            for name in names {
                let object = root.child(name).unwrap();
                object.store.put(&object.path, "x".into()).await.unwrap();
            }
            for is_there in [true, false] {
                let folder = root.child("job").unwrap();
                let found = remove_below(&folder, Patience::default()).await.unwrap();
                assert_eq!(found, is_there);
            }
            for name in names {
                let object = root.child(name).unwrap();
                let found = read(&object, 10, Patience::default()).await.unwrap();
                assert_eq!(found.is_some(), !name.starts_with("job/"), "{name}");
            }
        }
        assert!(place.path().join("job2").exists() && !place.path().join("job").exists());
    }
}
