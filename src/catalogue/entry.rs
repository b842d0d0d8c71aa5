//! What the catalogue knows of models.

use std::path::PathBuf;

use crate::{
    jobs::{JobId, Timestamp},
    outcome::ConceptVerdict,
    spec::Vocabulary,
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

/// What is known of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEntry {
    /// Such as "emoji-canvas" or "checkpoints/0192…".
    pub name: String,
    /// Of a base model: SHA-256 over its files' names, sizes and digests
    /// ([`crate::artifacts::model_digest`]), `None` until they were read. Of an erased one: that of
    /// its base and of its own tensors, which its job recorded.
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
