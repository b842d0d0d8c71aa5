//! Models by name: base models by URL through a local cache, and what jobs published.
//!
//! | File | Is |
//! | --- | --- |
//! | `entry` | a model as the catalogue lists it |
//! | `base` | one base model: opened one at a time, and what was found out about it |
//! | `folder` | a base model in a local folder, read where it lies |
//! | `remote` | a base model in a bucket |
//! | `published` | checkpoints: a base model and edited tensors |
//! | `fetch` | objects into the cache |
//! | `cache` | the disk, within a bound |
//! | `list` | pages |

mod base;
mod cache;
mod entry;
mod fetch;
mod folder;
mod list;
mod model_failure;
mod published;
mod remote;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream};

pub use self::entry::{
    BUILTIN, BaseModel, CacheSettings, ErasedOrigin, ModelCursor, ModelEntry, ModelOrigin,
    ModelPage,
};
use self::{
    base::{Base, Means},
    cache::{Cache, EditedModel},
    list::Listed,
    model_failure::{no_such_model, store_failure},
    published::{CachedTensors, Checkpoint, Tensors, check_lineage, checkpoint_name, job_of},
};
use crate::{
    device::{EditedTensors, ModelProvider, OpenedModel, PictureCache},
    jobs::{Failure, JobId, JobStore, JobSummary, Principal, Store},
    outcome::Ancestor,
    storage::Storages,
};

/// Base models that are made ready at the same time.
const PREWARMED_AT_ONCE: usize = 2;

/// Models by name.
#[derive(Debug)]
pub struct Catalogue {
    bases: BTreeMap<String, Base>,
    cache: Arc<Cache>,
    tensors: Tensors,
    storages: Arc<Storages>,
    store: Arc<Store>,
}

impl Catalogue {
    /// The built-in model, these, and what the store's jobs published. Reads and makes nothing yet.
    pub fn new(
        bases: Vec<BaseModel>,
        cache: CacheSettings,
        storages: Arc<Storages>,
        store: Arc<Store>,
    ) -> Self {
        let mut known = BTreeMap::from([(BUILTIN.to_owned(), Base::builtin(BUILTIN))]);
        for base in bases {
            if known.contains_key(&base.name) {
                tracing::warn!(
                    model = base.name,
                    "a model is configured twice; the first one is kept"
                );
            } else {
                known.insert(base.name.clone(), Base::configured(base));
            }
        }
        let cache = Arc::new(Cache::new(cache));
        Self { bases: known, cache, tensors: Tensors::default(), storages, store }
    }

    /// What is known of a model, without reading its files; `None` where there is none, or none
    /// that the viewer may see (`None` sees everybody's).
    pub async fn get(
        &self,
        name: &str,
        viewer: Option<&Principal>,
    ) -> Result<Option<ModelEntry>, Failure> {
        if let Some(base) = self.bases.get(name) {
            return Ok(Some(base.entry()));
        }
        let Some(id) = job_of(name) else { return Ok(None) };
        let job = self.job(id).await?;
        let visible = job.filter(|job| viewer.is_none_or(|viewer| *viewer == job.principal));
        let checkpoint = visible.as_ref().and_then(Checkpoint::of);
        Ok(checkpoint.map(|checkpoint| checkpoint.entry_beside(&self.bases)))
    }

    /// The same, once its files were read: digest and vocabulary are there. Fails with
    /// `ModelNotFound` where [`Catalogue::get`] gives none.
    ///
    /// Of a checkpoint, the base's files are read; its own tensors are, and their absence shows,
    /// when it is opened.
    pub async fn ready(
        &self,
        name: &str,
        viewer: Option<&Principal>,
    ) -> Result<ModelEntry, Failure> {
        let entry = self.get(name, viewer).await?.ok_or_else(|| no_such_model(name))?;
        let base = match job_of(name) {
            None => self.base(name)?,
            Some(id) => self.root(id).await?.0,
        };
        base.open(&self.means()).await?;
        let facts = base.facts();
        let (digest, vocabulary) = facts.map(|facts| (facts.digest, facts.vocabulary)).unzip();
        // A checkpoint's own digest stands in its job.
        let digest = if matches!(entry.origin, ModelOrigin::Base) { digest } else { entry.digest };
        Ok(ModelEntry { digest, vocabulary, ..entry })
    }

    /// A piece of the list; at least one model, where there is one.
    pub async fn list(
        &self,
        viewer: Option<&Principal>,
        after: Option<ModelCursor>,
        most: usize,
    ) -> Result<ModelPage, Failure> {
        let models = Listed { bases: &self.bases, store: &self.store, viewer };
        models.page(after, most).await
    }

    /// Opens every base model, so that the first request need not wait for it. A failure is logged, and
    /// the next request for the model tries again.
    pub async fn prewarm(&self) {
        let openings: Vec<_> =
            self.bases.iter().map(|(name, base)| self.prewarm_one(name, base).boxed()).collect();
        stream::iter(openings).buffer_unordered(PREWARMED_AT_ONCE).collect::<()>().await;
    }

    async fn prewarm_one(&self, model: &str, base: &Base) {
        match base.open(&self.means()).await {
            Ok(opened) => tracing::info!(model, digest = opened.digest, "a model is ready"),
            Err(failure) => {
                tracing::warn!(model, reason = ?failure.reason, %failure, "a model is not ready");
            }
        }
    }

    fn means(&self) -> Means<'_> {
        Means { cache: &self.cache, storages: &self.storages }
    }

    fn base(&self, name: &str) -> Result<&Base, Failure> {
        self.bases.get(name).ok_or_else(|| no_such_model(name))
    }

    async fn job(&self, id: JobId) -> Result<Option<JobSummary>, Failure> {
        self.store.get(id).await.map_err(|error| store_failure(&error))
    }

    /// The base model under a checkpoint, and the erasures that lie between, that checkpoint's
    /// first.
    async fn root(&self, mut id: JobId) -> Result<(&Base, Vec<JobSummary>), Failure> {
        let mut lineage = Vec::new();
        loop {
            let job = self.job(id).await?;
            let name = checkpoint_name(id);
            let job = job.filter(|job| Checkpoint::of(job).is_some());
            let job = job.ok_or_else(|| no_such_model(&name))?;
            let base = job.work.base_model().to_owned();
            lineage.push(job);
            match job_of(&base) {
                // Older than its successor, so that this ends.
                Some(older) if older < id => id = older,
                Some(_) => return Err(no_such_model(&base)),
                None => return Ok((self.base(&base)?, lineage)),
            }
        }
    }

    async fn open_checkpoint(&self, id: JobId) -> Result<OpenedModel, Failure> {
        let (base, lineage) = self.root(id).await?;
        let Some(checkpoint) = lineage.first().and_then(Checkpoint::of) else {
            return Err(no_such_model(&checkpoint_name(id)));
        };
        let opened = base.open(&self.means()).await?;
        check_lineage(&lineage, &opened.digest)?;
        // Edited tensors alone lack what the erasures before this one edited.
        let (tensors, what) = match lineage.len() {
            1 => (checkpoint.tensors(), "of its edited tensors"),
            _ => {
                (checkpoint.whole_unet(), "of the whole U-Net, and its base is a checkpoint itself")
            }
        };
        let tensors = tensors.ok_or_else(|| checkpoint.has_no_tensors(what))?;
        let CachedTensors { path, entry } =
            self.tensors.open(&self.means(), &checkpoint, tensors).await?;
        let root = Ancestor {
            model: opened.name.clone(),
            digest: opened.digest.clone(),
            concepts: Vec::new(),
        };
        let erased = lineage.iter().filter_map(Checkpoint::of).map(|erased| erased.ancestor());
        let ancestors = erased.chain(std::iter::once(root)).collect();
        Ok(OpenedModel {
            name: checkpoint.name(),
            digest: checkpoint.tensors().map(|file| checkpoint.digest(file)).unwrap_or_default(),
            files: Arc::new(EditedModel { base: opened.files, _edited: entry.in_use }),
            edited: Some(EditedTensors { base: opened.name, base_digest: opened.digest, path }),
            ancestors,
        })
    }
}

impl ModelProvider for Catalogue {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<OpenedModel, Failure>> {
        Box::pin(async move {
            match job_of(name) {
                Some(id) => self.open_checkpoint(id).await,
                None => self.base(name)?.open(&self.means()).await,
            }
        })
    }

    fn pictures(&self) -> Option<Arc<dyn PictureCache>> {
        Some(self.cache.clone())
    }
}
