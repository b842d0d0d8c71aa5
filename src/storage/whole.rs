//! Reads, writes and removes objects that fit into memory.

use bytes::Bytes;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::{
    Patience, StorageError, StorageErrorKind, StorageLocation, transfer_options::retrying,
};

/// Creates an object, unless there is one: exactly one of several callers succeeds, the others get
/// [`StorageError::AlreadyExists`]. After a lost answer the object may be our own: read it.
pub async fn create(
    place: &StorageLocation,
    bytes: Bytes,
    patience: Patience,
) -> Result<(), StorageError> {
    let bytes = &bytes;
    retrying(patience, || async move {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = place.store.put_opts(&place.path, bytes.clone().into(), options).await;
        put.map(|_| ()).map_err(|error| StorageError::of_creation(&place.url, error))
    })
    .await
}

/// Writes an object, and replaces one that is there.
pub(super) async fn overwrite(
    place: &StorageLocation,
    bytes: Bytes,
    patience: Patience,
) -> Result<(), StorageError> {
    let bytes = &bytes;
    retrying(patience, || async move {
        let put = place.store.put(&place.path, bytes.clone().into()).await;
        put.map(|_| ()).map_err(|error| StorageError::of_overwrite(&place.url, error))
    })
    .await
}

/// Removes an object, if it is there.
pub async fn remove(place: &StorageLocation, patience: Patience) -> Result<(), StorageError> {
    let removed = retrying(patience, || async move {
        place.store.delete(&place.path).await.map_err(|error| StorageError::of(&place.url, error))
    });
    if_there(removed.await).map(drop)
}

/// Whether an object is there.
pub async fn exists(place: &StorageLocation, patience: Patience) -> Result<bool, StorageError> {
    Ok(head(place, patience).await?.is_some())
}

/// What the store says of an object, `None` where there is none.
pub(super) async fn head(
    place: &StorageLocation,
    patience: Patience,
) -> Result<Option<ObjectMeta>, StorageError> {
    let found = retrying(patience, || async move {
        place.store.head(&place.path).await.map_err(|error| StorageError::of(&place.url, error))
    });
    if_there(found.await)
}

/// An object's bytes, `None` where there is none; one of more than `most` bytes is refused as
/// corrupted, before it is read.
pub async fn read(
    place: &StorageLocation,
    most: u64,
    patience: Patience,
) -> Result<Option<Bytes>, StorageError> {
    let read = retrying(patience, || async move {
        let of = |error| StorageError::of(&place.url, error);
        let got = place.store.get_opts(&place.path, GetOptions::default()).await.map_err(of)?;
        if got.meta.size > most {
            return Err(StorageError::Corrupted {
                url: place.url.to_string(),
                expected: format!("at most {most} bytes"),
                found: format!("{} bytes", got.meta.size),
            });
        }
        got.bytes().await.map_err(of)
    });
    if_there(read.await)
}

/// `None` where the answer is that there is no such object.
pub(super) fn if_there<T>(answer: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match answer {
        Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}
