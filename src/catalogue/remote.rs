//! A base model in object storage.

use std::{fs, sync::Arc};

use futures::StreamExt;
use object_store::{ObjectMeta, ObjectStore};
use serde::{Deserialize, Serialize};

use super::{
    cache::{Cache, EntryKey, EntryKind, PinnedEntry, write_atomically},
    fetch::{Fetch, Object, RequestedObject},
    model_failure::{damaged, on_disk, storage_failure},
};
use crate::{
    artifacts::{
        diffusers::is_licence_or_card,
        model_digest::{is_model_file, model_digest},
    },
    device::disk_failure,
    jobs::{Failure, FailureReason},
    storage::{StorageError, StorageLocation, Storages},
};

/// The most files of a model; a prefix with more is something else, such as a whole bucket.
const MAX_FILES: usize = 10_000;
/// The most objects that are listed for them.
const MAX_OBJECTS: usize = 100_000;

/// A folder in a bucket.
#[derive(Debug)]
pub(super) struct RemoteFolder<'a> {
    /// Name in the catalogue, for messages.
    pub(super) model: &'a str,
    /// Its place in the bucket.
    pub(super) url: &'a str,
    /// The digest that it must have.
    pub(super) sha256: Option<&'a str>,
    /// The cache.
    pub(super) cache: &'a Arc<Cache>,
    /// Storage.
    pub(super) storages: &'a Storages,
}

/// A base model whose files are in the cache.
#[derive(Debug)]
pub(super) struct FetchedModel {
    /// The digest of all its files.
    pub(super) digest: String,
    /// Its files, in the cache.
    pub(super) entry: PinnedEntry,
}

/// What a URL held when it was last read, by which it is compared without being read again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceRecord {
    url: String,
    digest: String,
    objects: Vec<Object>,
}

impl RemoteFolder<'_> {
    /// The model from the cache, or from its bucket where the cache does not have it.
    ///
    /// The digest of a URL is found once in a process (`known` is the one found before): the bucket is
    /// listed and compared with what was fetched from it before. Where the operator names the digest, or
    /// where the bucket is away, the cache is enough.
    pub(super) async fn open(&self, known: Option<&str>) -> Result<FetchedModel, Failure> {
        let known = self.sha256.or(known);
        if let Some(digest) = known
            && let Some(entry) = self.reuse(digest).await?
        {
            return Ok(FetchedModel { digest: digest.to_owned(), entry });
        }
        let record = if known.is_none() { self.record().await? } else { None };
        let wanted = match self.list().await {
            Ok(wanted) => wanted,
            Err(failure) => return self.open_offline(record, failure).await,
        };
        let objects: Vec<_> = wanted.iter().map(|wanted| wanted.object.clone()).collect();
        if let Some(record) = record
            && record.objects == objects
            && let Some(entry) = self.reuse(&record.digest).await?
        {
            return Ok(FetchedModel { digest: record.digest, entry });
        }
        self.fetch(&wanted, objects).await
    }

    /// What was last fetched from the bucket, while that is away.
    async fn open_offline(
        &self,
        record: Option<SourceRecord>,
        failure: Failure,
    ) -> Result<FetchedModel, Failure> {
        if failure.reason == FailureReason::StorageUnavailable
            && let Some(record) = record
            && let Some(entry) = self.reuse(&record.digest).await?
        {
            tracing::warn!(model = self.model, "storage is away; the model's local copy is used");
            return Ok(FetchedModel { digest: record.digest, entry });
        }
        Err(failure)
    }

    async fn reuse(&self, digest: &str) -> Result<Option<PinnedEntry>, Failure> {
        let Some(key) = EntryKey::new(EntryKind::Model, digest) else { return Ok(None) };
        let (cache, model) = (self.cache.clone(), self.model.to_owned());
        on_disk(move || cache.hold(&key).map_err(|error| error.failure(&model))).await
    }

    async fn fetch(
        &self,
        wanted: &[RequestedObject],
        objects: Vec<Object>,
    ) -> Result<FetchedModel, Failure> {
        let partial = EntryKey::partial(self.url);
        let fetch = Fetch { cache: self.cache, model: self.model, partial: &partial, wanted };
        let whole = fetch.run().await?;
        let digest = model_digest(&whole.files);
        let (cache, model) = (self.cache.clone(), self.model.to_owned());
        if let Err(failure) = check_digest(self.model, self.sha256, &digest) {
            on_disk(move || cache.remove(&partial).map_err(|error| error.failure(&model))).await?;
            return Err(failure);
        }
        let Some(key) = EntryKey::new(EntryKind::Model, &digest) else {
            return Err(damaged(self.model, "its digest is no SHA-256"));
        };
        let record = SourceRecord { url: self.url.to_owned(), digest: digest.clone(), objects };
        let entry = on_disk(move || {
            let entry =
                cache.keep(&partial, &key, whole.files).map_err(|error| error.failure(&model))?;
            let write = || {
                let bytes = serde_json::to_vec(&record)?;
                write_atomically(&cache.source_file(&record.url), &bytes)
            };
            write().map_err(|error| disk_failure("what a bucket holds", &error))?;
            Ok(entry)
        })
        .await?;
        tracing::info!(model = self.model, digest, "a model is in the cache");
        Ok(FetchedModel { digest, entry })
    }

    async fn record(&self) -> Result<Option<SourceRecord>, Failure> {
        let path = self.cache.source_file(self.url);
        // What cannot be read is fetched again.
        let read = move || serde_json::from_slice(&fs::read(path).ok()?).ok();
        let record: Option<SourceRecord> = on_disk(move || Ok(read())).await?;
        Ok(record.filter(|record| record.url == self.url))
    }

    /// The files of the model, with its licence and card, in order of the names.
    async fn list(&self) -> Result<Vec<RequestedObject>, Failure> {
        let of = |error: StorageError| storage_failure(self.model, &error);
        let place = self.storages.open(self.url).map_err(of)?;
        let mut listing = place.store.list(Some(&place.path));
        let (mut wanted, mut seen) = (Vec::new(), 0);
        while let Some(listed) = listing.next().await {
            let listed = listed.map_err(|error| of(StorageError::of(&place.url, error)))?;
            seen += 1;
            wanted.extend(self.wanted(&place, &listed)?);
            if wanted.len() > MAX_FILES || seen > MAX_OBJECTS {
                return Err(self.no_model(&format!(
                    "it holds more than {MAX_FILES} files, or {MAX_OBJECTS} objects, which no model does"
                )));
            }
        }
        let is_config = |name: &str| name == "model_index.json" || name.ends_with("/config.json");
        if !wanted.iter().any(|wanted| is_config(&wanted.object.name)) {
            return Err(self.no_model("it holds neither model_index.json nor a config.json"));
        }
        wanted.sort_by(|one, other| one.object.name.cmp(&other.object.name));
        Ok(wanted)
    }

    fn wanted(
        &self,
        place: &StorageLocation,
        listed: &ObjectMeta,
    ) -> Result<Option<RequestedObject>, Failure> {
        let path = listed.location.as_ref();
        let name = match place.path.as_ref() {
            "" => Some(path),
            prefix => path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
        if !stays_inside(name) {
            let what = format!("the object {name:?} would be written outside of its folder");
            return Err(damaged(self.model, &what));
        }
        if !is_model_file(name) && !is_licence_or_card(name) {
            return Ok(None);
        }
        let place = place.child(name).map_err(|error| storage_failure(self.model, &error))?;
        let tag = listed.e_tag.as_deref().unwrap_or_default();
        let version = format!("{tag} {}", listed.last_modified);
        let object = Object { name: name.to_owned(), size: listed.size, version };
        Ok(Some(RequestedObject { place, object }))
    }

    fn no_model(&self, what: &str) -> Failure {
        let message = format!(
            "the model {} is configured at {}, where none is: {what}; give the folder of a diffusers pipeline, the one with model_index.json",
            self.model, self.url
        );
        Failure::new(FailureReason::ModelNotFound, message)
            .with("model", &self.model)
            .with("url", &self.url)
    }
}

/// Whether an object's name names a file below the folder that it is joined to.
pub(super) fn stays_inside(name: &str) -> bool {
    name.split('/').all(|part| {
        !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || c == '\\')
    })
}

/// Refuses a model whose digest is not the configured one.
pub(super) fn check_digest(
    model: &str,
    expected: Option<&str>,
    found: &str,
) -> Result<(), Failure> {
    match expected {
        Some(expected) if expected != found => {
            let message = format!(
                "the model {model} has the digest {found}, and {expected} is configured; bring the files that were meant, or configure the digest that is there"
            );
            Err(Failure::new(FailureReason::DamagedModel, message)
                .with("model", &model)
                .with("digest", &found)
                .with("configured", &expected))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_leaves_its_folder() {
        for name in ["unet/config.json", "a b.json", "a..b/c.json"] {
            assert!(stays_inside(name), "{name:?}");
        }
        for name in ["", "/a.json", "../a.json", "a/../b.json", "a//b.json", "a\\b.json", "./a"] {
            assert!(!stays_inside(name), "{name:?}");
        }
    }
}
