//! What a process that was killed left beside its files, where the place is a local folder.
//!
//! A file appears there under a name of its own, such as `delta.safetensors#1`, and is renamed once
//! it is whole. Such a file is no object, but it takes as much space as one.

use std::{fs, io, path::Path, time::SystemTime};

use super::Place;

/// Removes files that were begun below a folder before a time and never finished; the number of
/// those removed. Elsewhere than in a local folder there are none.
pub async fn remove_leftovers(folder: &Place, before: SystemTime) -> io::Result<usize> {
    let Ok(path) = folder.url.to_file_path() else { return Ok(0) };
    if folder.url.scheme() != "file" {
        return Ok(0);
    }
    let removed = tokio::task::spawn_blocking(move || remove_below(&path, before)).await;
    removed.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn remove_below(folder: &Path, before: SystemTime) -> io::Result<usize> {
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
            removed += remove_below(&entry.path(), before)?;
        } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
            // Whoever works on one now has written to it since.
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

    use object_store::{ObjectStoreExt, PutPayload};

    use super::*;
    use crate::storage::{StorageSettings, Storages};

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
