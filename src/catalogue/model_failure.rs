//! Why a model cannot be found or read, as failures by meaning for the client.

use crate::{
    jobs::{Failure, FailureReason as Reason, StoreError},
    storage::{StorageError, StorageErrorKind},
};

/// There is no such model, or none that the caller may see.
pub(super) fn no_such_model(name: &str) -> Failure {
    let message = format!("there is no model {name:?}; ListModels names those that there are");
    Failure::new(Reason::ModelNotFound, message).with("model", &name)
}

/// A model that is there and not as it should be.
pub(super) fn damaged(model: &str, what: &str) -> Failure {
    Failure::new(Reason::DamagedModel, format!("the model {model} is damaged: {what}"))
        .with("model", &model)
        .with("damage", &what)
}

/// The failure of a request for a model by an error of object storage.
pub(super) fn storage_failure(model: &str, error: &StorageError) -> Failure {
    let reason = match error.kind() {
        StorageErrorKind::InvalidPlace | StorageErrorKind::NotFound => Reason::ModelNotFound,
        StorageErrorKind::Denied => Reason::StorageDenied,
        // Nothing is written there; a store that says so anyway is at odds with itself.
        StorageErrorKind::Unavailable | StorageErrorKind::AlreadyExists => {
            Reason::StorageUnavailable
        }
        StorageErrorKind::Corrupted => Reason::StorageCorrupted,
        StorageErrorKind::DiskFull | StorageErrorKind::LocalDisk => Reason::DiskFull,
    };
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(model, %error, source, "a model cannot be fetched");
    let message = format!("the model {model} cannot be fetched: {error}");
    let failure = Failure::new(reason, message).with("model", &model);
    error.variables().iter().fold(failure, |failure, (name, value)| failure.with(name, value))
}

/// The failure of a request for a checkpoint by an error of the job store.
pub(super) fn store_failure(error: &StoreError) -> Failure {
    tracing::warn!(%error, "published models cannot be looked up");
    Failure::new(Reason::StorageUnavailable, "the job store cannot be read; try again later")
}

/// Runs blocking work on the disk on a thread that may block. Work that has begun is finished, even
/// where its caller no longer waits.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "work on the disk ended early");
        let message = "work on the disk ended early; this is a fault of Keystep, see its log";
        Err(Failure::new(Reason::EngineFault, message))
    })
}
