//! Lists the objects below a prefix.

use futures::TryStreamExt;
use object_store::ObjectStore;

use super::{Patience, StorageError, StorageLocation, transfer_options::retrying};

/// Names of all objects below a place, relative to it, with `/`; in no order.
pub async fn list_below(
    folder: &StorageLocation,
    patience: Patience,
) -> Result<Vec<String>, StorageError> {
    let listed = list_sizes_below(folder, patience).await?;
    Ok(listed.into_iter().map(|(name, _)| name).collect())
}

/// The same, each with the bytes that it has.
pub async fn list_sizes_below(
    folder: &StorageLocation,
    patience: Patience,
) -> Result<Vec<(String, u64)>, StorageError> {
    let of = |error| StorageError::of(&folder.url, error);
    let listed: Vec<_> = retrying(patience, || async move {
        folder.store.list(Some(&folder.path)).try_collect().await.map_err(of)
    })
    .await?;
    let names = listed.iter().filter_map(|object| {
        let parts = object.location.prefix_match(&folder.path)?;
        let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        Some((name, object.size))
    });
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;
    use crate::storage::{StorageSettings, Storages};

    #[tokio::test]
    async fn names_are_relative_to_the_place() {
        let local = tempfile::tempdir().unwrap();
        let local = url::Url::from_directory_path(local.path()).unwrap();
        let storages = Storages::new(StorageSettings::default());
        for root in ["memory://listing/a", local.as_str()] {
            let root = storages.open(root).unwrap();
            for name in ["job/x/y", "job/z", "job2/x"] {
                let object = root.child(name).unwrap();
                object.store.put(&object.path, "x".into()).await.unwrap();
            }
            let names = async |name| {
                let folder = root.child(name).unwrap();
                let mut names = list_below(&folder, Patience::default()).await.unwrap();
                names.sort();
                names
            };
            assert_eq!(names("job").await, ["x/y", "z"]);
            assert!(names("nothing").await.is_empty());
        }
    }
}
