//! Models by name: base models by URL through a local cache, and what jobs published.

use std::{path::PathBuf, sync::Arc};

use futures::future::BoxFuture;

use crate::{
    jobs::{ConceptVerdict, Failure, FailureReason, JobId, Principal, Store, Timestamp},
    spec::Vocabulary,
    storage::Storages,
    worker::{ModelProvider, OpenedModel},
};

/// The model that is built in, under its name in the catalogue.
pub const BUILTIN: &str = "emoji-canvas";

/// A base model that the operator configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// Its name in the catalogue.
    pub name: String,
    /// A diffusers folder, such as `s3://models/sd14`.
    pub url: String,
    /// The digest that it must have; unset: whatever is there.
    pub sha256: Option<String>,
}

/// Where models are kept on this machine.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// The folder, which is the cache's alone.
    pub folder: PathBuf,
    /// Most bytes in it.
    pub max_bytes: u64,
}

/// Models by name.
#[derive(Debug)]
pub struct Catalogue {
    bases: Vec<BaseModel>,
    cache: CacheSettings,
    storages: Arc<Storages>,
    store: Arc<Store>,
}

/// What is known of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEntry {
    /// Such as "emoji-canvas" or "checkpoints/0192…".
    pub name: String,
    /// SHA-256 over its files' names, sizes and digests; `None` until they were read.
    pub digest: Option<String>,
    /// The words that it is known to draw; `None` until its files were read.
    pub vocabulary: Option<Vocabulary>,
    /// Where it comes from.
    pub origin: ModelOrigin,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelOrigin {
    /// The operator.
    Base,
    /// An erasure.
    Erased(Box<ErasedOrigin>),
}

/// What became of a base model.
#[derive(Debug, Clone, PartialEq)]
pub struct ErasedOrigin {
    /// What it was made of.
    pub base_model: String,
    /// What was erased.
    pub concepts: Vec<String>,
    /// Its commit point.
    pub manifest_uri: String,
    /// When.
    pub published_at: Timestamp,
    /// What the judges said.
    pub verdicts: Vec<ConceptVerdict>,
}

/// A piece of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelPage {
    /// Base models by name, then checkpoints, newest first.
    pub models: Vec<ModelEntry>,
    /// For the next page; `None` on the last one.
    pub next: Option<ModelCursor>,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelCursor {
    /// After the base model of this name.
    AfterBase(String),
    /// With checkpoints that are older than this job's.
    OlderThan(JobId),
}

impl Catalogue {
    /// The built-in model, these, and what the store's jobs published.
    pub fn new(
        bases: Vec<BaseModel>,
        cache: CacheSettings,
        storages: Arc<Storages>,
        store: Arc<Store>,
    ) -> Self {
        Self { bases, cache, storages, store }
    }

    /// What is known of a model, without reading its files; `None` where there is none, or none
    /// that the viewer may see (`None` sees everybody's).
    pub async fn get(
        &self,
        name: &str,
        viewer: Option<&Principal>,
    ) -> Result<Option<ModelEntry>, Failure> {
        let _ = (name, viewer, &self.bases, &self.cache, &self.storages, &self.store);
        Ok(None)
    }

    /// The same, once its files were read: digest and vocabulary are there. Fails with
    /// `ModelNotFound` where [`Catalogue::get`] gives none.
    pub async fn ready(
        &self,
        name: &str,
        viewer: Option<&Principal>,
    ) -> Result<ModelEntry, Failure> {
        let _ = viewer;
        Err(Failure::new(FailureReason::ModelNotFound, format!("there is no model {name}")))
    }

    /// A piece of the list.
    pub async fn list(
        &self,
        viewer: Option<&Principal>,
        after: Option<ModelCursor>,
        most: usize,
    ) -> Result<ModelPage, Failure> {
        let _ = (viewer, after, most);
        Ok(ModelPage { models: Vec::new(), next: None })
    }
}

impl ModelProvider for Catalogue {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<OpenedModel, Failure>> {
        Box::pin(async move {
            Err(Failure::new(FailureReason::ModelNotFound, format!("there is no model {name}")))
        })
    }
}
