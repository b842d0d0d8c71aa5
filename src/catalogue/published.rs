//! Checkpoints that jobs published: a base model and its edited tensors.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use object_store::ObjectStoreExt;

use super::{
    ErasedOrigin, ModelEntry, ModelOrigin,
    base::{Base, Means},
    cache::{EntryKey, EntryKind, PinnedEntry},
    fetch::{Fetch, Object, RequestedObject},
    model_failure::{damaged, no_such_model, on_disk, storage_failure},
};
use crate::{
    artifacts::{diffusers::UNET_WEIGHTS, digest::digest_bytes},
    jobs::{
        Failure, FailureReason, JobId, JobState, JobSummary, Outcome, UnlearnSummary, Unlearned,
        WorkSummary,
    },
    outcome::{
        Ancestor, PublishedFile,
        result_layout::{CHECKPOINTS, DELTA},
    },
    storage::{StorageError, StorageErrorKind, StorageLocation},
};

/// The name of edited tensors in the cache.
const EDITED: &str = "edited.safetensors";

/// The job of a checkpoint's name, in the one spelling of its UUID that names use.
pub(super) fn job_of(name: &str) -> Option<JobId> {
    let id: JobId = name.strip_prefix(CHECKPOINTS)?.strip_prefix('/')?.parse().ok()?;
    (checkpoint_name(id) == name).then_some(id)
}

pub(super) fn checkpoint_name(id: JobId) -> String {
    format!("{CHECKPOINTS}/{id}")
}

/// A published erasure.
#[derive(Debug)]
pub(super) struct Checkpoint<'a> {
    job: &'a JobSummary,
    work: &'a UnlearnSummary,
    unlearned: &'a Unlearned,
}

impl<'a> Checkpoint<'a> {
    /// The checkpoint of a job; `None` for a job that published none.
    pub(super) fn of(job: &'a JobSummary) -> Option<Self> {
        match (&job.work, &job.state) {
            (WorkSummary::Unlearn(work), JobState::Succeeded(Outcome::Unlearned(unlearned))) => {
                Some(Self { job, work, unlearned })
            }
            _ => None,
        }
    }

    pub(super) fn name(&self) -> String {
        checkpoint_name(self.job.id)
    }

    /// The checkpoint as the catalogue lists it, with the vocabulary of its base while that is the one
    /// that it was made of.
    pub(super) fn entry_beside(&self, bases: &BTreeMap<String, Base>) -> ModelEntry {
        let facts = bases.get(&self.work.base_model).and_then(Base::facts);
        let same = facts.filter(|facts| facts.digest == self.work.base_digest);
        ModelEntry { vocabulary: same.map(|facts| facts.vocabulary), ..self.entry() }
    }

    /// What the job alone says of it.
    fn entry(&self) -> ModelEntry {
        ModelEntry {
            name: self.name(),
            digest: self.tensors().map(|file| self.digest(file)),
            vocabulary: None,
            origin: ModelOrigin::Erased(Box::new(ErasedOrigin {
                base_model: self.work.base_model.clone(),
                concepts: self.work.concepts.clone(),
                manifest_uri: self.unlearned.published.manifest_uri.clone(),
                // A job that is done never changes again.
                published_at: self.job.updated_at,
                verdicts: self.unlearned.verdicts.clone(),
            })),
        }
    }

    /// The digest of its weights: those of its base, and the published file of edited tensors.
    pub(super) fn digest(&self, tensors: &PublishedFile) -> String {
        digest_bytes(format!("{} {}\n", self.work.base_digest, tensors.sha256).as_bytes())
    }

    /// As those name it that are erased from it.
    pub(super) fn ancestor(&self) -> Ancestor {
        Ancestor {
            model: self.name(),
            digest: self.tensors().map(|file| self.digest(file)).unwrap_or_default(),
            concepts: self.work.concepts.clone(),
        }
    }

    /// The smallest published file with every edited tensor.
    pub(super) fn tensors(&self) -> Option<&'a PublishedFile> {
        self.smallest(|name| is_file(name, DELTA) || is_file(name, UNET_WEIGHTS))
    }

    /// The smallest published file with the whole U-Net.
    pub(super) fn whole_unet(&self) -> Option<&'a PublishedFile> {
        self.smallest(|name| is_file(name, UNET_WEIGHTS))
    }

    fn smallest(&self, fits: impl Fn(&str) -> bool) -> Option<&'a PublishedFile> {
        let files = self.unlearned.published.files.iter();
        files.filter(|file| fits(&file.name)).min_by_key(|file| file.size)
    }

    /// The failure where its job published no file that the model can be made of.
    pub(super) fn has_no_tensors(&self, what: &str) -> Failure {
        let name = self.name();
        let message = format!(
            "{name} cannot be opened: its job published no safetensors {what}; erase again with such an output format"
        );
        Failure::new(FailureReason::ModelNotFound, message).with("model", &name)
    }

    /// The failure where the base model has changed since.
    pub(super) fn check_base(&self, found: &str) -> Result<(), Failure> {
        let (base, made_of) = (&self.work.base_model, &self.work.base_digest);
        if found == made_of {
            return Ok(());
        }
        let name = self.name();
        let message = format!(
            "{name} was made of {base} with the digest {made_of}, and {base} has the digest {found} now; bring the old files back"
        );
        Err(Failure::new(FailureReason::ModelChanged, message)
            .with("model", &name)
            .with("base", base)
            .with("digest", &found)
            .with("accepted", made_of))
    }

    /// The place of a file, which must be in the folder that was published.
    fn place(&self, means: &Means<'_>, file: &PublishedFile) -> Result<StorageLocation, Failure> {
        let name = self.name();
        let of = |error: StorageError| storage_failure(&name, &error);
        let manifest = &self.unlearned.published.manifest_uri;
        let folder = manifest.rsplit_once('/').map_or(manifest.as_str(), |(folder, _)| folder);
        let folder = means.storages.open(folder).map_err(of)?;
        let place = means.storages.open(&file.uri).map_err(of)?;
        let is_same_bucket = folder.url.scheme() == place.url.scheme()
            && folder.url.host_str() == place.url.host_str();
        let is_below =
            place.path.prefix_match(&folder.path).is_some_and(|mut below| below.next().is_some());
        if is_same_bucket && is_below {
            return Ok(place);
        }
        let what = format!("{} is not below its manifest's folder {}", place.url, folder.url);
        Err(damaged(&name, &what))
    }
}

/// Whether a published file is `wanted`, a path below the folder that it was published in.
fn is_file(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// Downloads of edited tensors into the cache.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    /// Locks by digest: one download of each at a time.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// Edited tensors in the cache.
#[derive(Debug)]
pub(super) struct CachedTensors {
    pub(super) path: PathBuf,
    pub(super) entry: PinnedEntry,
}

impl Tensors {
    /// The file from the cache, or downloaded from its output.
    pub(super) async fn open(
        &self,
        means: &Means<'_>,
        checkpoint: &Checkpoint<'_>,
        file: &PublishedFile,
    ) -> Result<CachedTensors, Failure> {
        let name = checkpoint.name();
        let Some(key) = EntryKey::new(EntryKind::Tensors, &file.sha256) else {
            return Err(damaged(&name, "the digest of its tensors is no SHA-256"));
        };
        // Before the cache is asked: what is outside is refused, even if it is here.
        let place = checkpoint.place(means, file)?;
        let turn = self.turn(&file.sha256);
        let _turn = turn.lock().await;
        let (cache, model, wanted) = (means.cache.clone(), name.clone(), key.clone());
        let cached =
            on_disk(move || cache.hold(&wanted).map_err(|error| error.failure(&model))).await?;
        let entry = match cached {
            Some(entry) => entry,
            None => fetch(means, &name, key, FileAt { file, place }).await?,
        };
        Ok(CachedTensors { path: entry.files_folder().join(EDITED), entry })
    }

    fn turn(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(digest.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// A published file and its place.
struct FileAt<'a> {
    file: &'a PublishedFile,
    place: StorageLocation,
}

async fn fetch(
    means: &Means<'_>,
    model: &str,
    key: EntryKey,
    FileAt { file, place }: FileAt<'_>,
) -> Result<PinnedEntry, Failure> {
    let of = |error: StorageError| match error.kind() {
        StorageErrorKind::NotFound => {
            let message = format!("{model} is gone: there is nothing at {} any more", place.url);
            Failure::new(FailureReason::ModelNotFound, message)
                .with("model", &model)
                .with("uri", &place.url)
        }
        _ => storage_failure(model, &error),
    };
    let corrupted = |found: String| {
        storage_failure(
            model,
            &StorageError::Corrupted {
                url: place.url.to_string(),
                expected: format!("{} bytes with the digest {}", file.size, file.sha256),
                found,
            },
        )
    };
    // Before it is read: what is too large would take the room of others.
    let head = place.store.head(&place.path).await;
    let head = head.map_err(|error| of(StorageError::of(&place.url, error)))?;
    if head.size != file.size {
        return Err(corrupted(format!("{} bytes", head.size)));
    }
    let object = Object { name: EDITED.to_owned(), size: file.size, version: file.sha256.clone() };
    let wanted = [RequestedObject { place: place.clone(), object }];
    let partial = EntryKey::partial(&format!("tensors {}", file.sha256));
    let fetch = Fetch { cache: means.cache, model, partial: &partial, wanted: &wanted };
    let whole = fetch.run().await?;
    let found = whole.files.iter().map(|file| file.sha256.clone()).collect::<Vec<_>>().join(" ");
    let (cache, model) = (means.cache.clone(), model.to_owned());
    if found != file.sha256 {
        on_disk(move || cache.remove(&partial).map_err(|error| error.failure(&model))).await?;
        return Err(corrupted(format!("{} bytes with the digest {found}", file.size)));
    }
    on_disk(move || cache.keep(&partial, &key, whole.files).map_err(|error| error.failure(&model)))
        .await
}

/// Checks that each erasure of a lineage was made of the model before it, down to the base. The
/// lineage begins with the checkpoint's own job.
pub(super) fn check_lineage(lineage: &[JobSummary], base_digest: &str) -> Result<(), Failure> {
    let mut digest = base_digest.to_owned();
    for job in lineage.iter().rev() {
        let checkpoint =
            Checkpoint::of(job).ok_or_else(|| no_such_model(&checkpoint_name(job.id)))?;
        checkpoint.check_base(&digest)?;
        let tensors =
            checkpoint.tensors().ok_or_else(|| checkpoint.has_no_tensors("of its U-Net"))?;
        digest = checkpoint.digest(tensors);
    }
    Ok(())
}
