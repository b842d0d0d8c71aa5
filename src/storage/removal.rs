//! Removes what is no longer needed: a folder's objects, and files that a killed process left unfinished.

use std::{fs, io, path::Path, time::SystemTime};

use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{Patience, StorageError, StorageLocation, transfer_options::retrying, whole::if_there};

/// Removes every object below a place, and returns whether there was any. A local folder goes too,
/// with the files in it that were never finished.
pub async fn remove_below(
    folder: &StorageLocation,
    patience: Patience,
) -> Result<bool, StorageError> {
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
        let delete = || async move { folder.store.delete(path).await.map_err(of) };
        if_there(retrying(patience, delete).await)?;
    }
    Ok(found)
}

/// Removes files below a folder that were begun before a time and never finished; returns how many.
/// Only local folders have such files: each appears under a name of its own, such as
/// `delta.safetensors#1`, and is renamed once it is whole. A process that is killed leaves it behind,
/// where it is no object but takes as much space as one.
pub async fn remove_leftovers(folder: &StorageLocation, before: SystemTime) -> io::Result<usize> {
    let Ok(path) = folder.url.to_file_path() else { return Ok(0) };
    if folder.url.scheme() != "file" {
        return Ok(0);
    }
    let removed = tokio::task::spawn_blocking(move || remove_unfinished(&path, before)).await;
    removed.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn remove_unfinished(folder: &Path, before: SystemTime) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        // Of the entry itself: a link leads out of the folder.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += remove_unfinished(&entry.path(), before)?;
        } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
            // A file that a process works on now was written to since.
            if entry.metadata()?.modified()? < before {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// Whether a file is one that will be renamed, as the `object_store` crate names them.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(name, number)| {
        !name.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use object_store::PutPayload;

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

    #[tokio::test]
    async fn only_what_was_never_finished_goes() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_directory_path(folder.path()).unwrap();
        let place = Storages::new(StorageSettings::default()).open(url.as_str()).unwrap();
        let kept = ["a.json", "unet/b#c", "unet/#1", "d#1x", "unet#1/e"];
        let gone = ["a.json#1", "unet/b#c#23", "unet#1/e#4"];
        for name in kept.iter().chain(&gone) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        assert_eq!(remove_leftovers(&place, SystemTime::UNIX_EPOCH).await.unwrap(), 0);
        let written = fs::metadata(folder.path().join("a.json#1")).unwrap().modified().unwrap();
        let later = written + Duration::from_mins(1);
        assert_eq!(remove_leftovers(&place, later).await.unwrap(), gone.len());
        assert!(kept.iter().all(|name| folder.path().join(name).exists()));
        assert!(!gone.iter().any(|name| folder.path().join(name).exists()));
        let elsewhere = place.child("nothing/here").unwrap();
        assert_eq!(remove_leftovers(&elsewhere, later).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn they_are_named_as_the_store_names_them() {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_directory_path(folder.path()).unwrap();
        let place = Storages::new(StorageSettings::default()).open(url.as_str()).unwrap();
        let object = place.child("weights").unwrap();
        let mut upload = object.store.put_multipart(&object.path).await.unwrap();
        upload.put_part(PutPayload::from_static(b"half")).await.unwrap();
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1);
        assert!(is_unfinished(names[0].to_str().unwrap()), "{names:?}");
        drop(upload);
    }
}
