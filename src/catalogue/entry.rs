//! Models as the catalogue lists them.

use std::path::PathBuf;

use crate::{
    jobs::{ConceptVerdict, JobId, Timestamp},
    spec::Vocabulary,
};

/// The name of the built-in model in the catalogue.
pub const BUILTIN: &str = "emoji-canvas";

/// A base model that the operator configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// Its name in the catalogue.
    pub name: String,
    /// A diffusers folder, such as `s3://models/sd14`.
    pub url: String,
    /// The digest that it must have; `None` accepts any.
    pub sha256: Option<String>,
}

/// Where models are kept on this machine.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// The folder, which only the cache uses.
    pub folder: PathBuf,
    /// Most bytes in it.
    pub max_bytes: u64,
}

/// A model in the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEntry {
    /// Its name, such as "emoji-canvas" or "checkpoints/0192…".
    pub name: String,
    /// Of a base model: SHA-256 over its files' names, sizes and digests
    /// ([`crate::artifacts::model_digest`]), `None` until they were read. Of an erased one: that of
    /// its base and of its own tensors, from its job.
    pub digest: Option<String>,
    /// The words that it is known to draw; `None` until its files were read.
    pub vocabulary: Option<Vocabulary>,
    /// Where it comes from.
    pub origin: ModelOrigin,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelOrigin {
    /// The operator configured it.
    Base,
    /// A job erased concepts from another model.
    Erased(Box<ErasedOrigin>),
}

/// The erasure that made a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ErasedOrigin {
    /// The model that it was made of.
    pub base_model: String,
    /// The concepts that were erased.
    pub concepts: Vec<String>,
    /// The manifest's URL.
    pub manifest_uri: String,
    /// When it was published.
    pub published_at: Timestamp,
    /// The judges' verdicts.
    pub verdicts: Vec<ConceptVerdict>,
}

/// A page of the catalogue.
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
