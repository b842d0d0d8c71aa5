//! `ModelProvider` and `PictureCache`: what the device and the worker ask of the catalogue.

use std::{path::PathBuf, sync::Arc};

use futures::future::BoxFuture;

use crate::{jobs::Failure, outcome::Ancestor, spec::ModelFiles};

/// Finds models by name.
pub trait ModelProvider: std::fmt::Debug + Send + Sync {
    /// Brings a model's files within reach, however long that takes, or says why it cannot, as
    /// `ModelNotFound`, `DamagedModel` or one of the reasons of storage.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<OpenedModel, Failure>>;

    /// Where pictures of base models are kept from one judgement to the next; nowhere by default.
    fn pictures(&self) -> Option<Arc<dyn PictureCache>> {
        None
    }
}

/// Keeps bytes under digests, within a bound. Blocking. A failure is logged, and costs no more than
/// the time to compute them again.
pub trait PictureCache: std::fmt::Debug + Send + Sync {
    /// What is kept under a key, to the last bit as it was kept; `None` where there is nothing, or
    /// where it was damaged.
    fn read(&self, key: &str) -> Option<Vec<u8>>;

    /// Keeps bytes under a key, a SHA-256 in hexadecimal, whole or not at all.
    fn keep(&self, key: &str, bytes: &[u8]);
}

/// A model whose files can be read.
#[derive(Debug, Clone)]
pub struct OpenedModel {
    /// Its name in the catalogue.
    pub name: String,
    /// Names its weights: equal for equal ones.
    pub digest: String,
    /// Its files; for an erased model, those of its base.
    pub files: Arc<dyn ModelFiles>,
    /// For an erased model: what is different from its base.
    pub edited: Option<EditedTensors>,
    /// For an erased model: itself, and the models that it was erased from down to the base.
    pub ancestors: Vec<Ancestor>,
}

/// What an erasure changed.
#[derive(Debug, Clone)]
pub struct EditedTensors {
    /// The base model's name in the catalogue.
    pub base: String,
    /// Digest of the base model, as [`OpenedModel::digest`] of it.
    pub base_digest: String,
    /// A safetensors file of the edited tensors; further ones of the U-Net may be in it.
    pub path: PathBuf,
}
