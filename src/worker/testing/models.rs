//! A `ModelProvider` with a fixed list of models.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;

use crate::{
    artifacts::BuiltinModel,
    device::{EditedTensors, ModelProvider, OpenedModel},
    jobs::{Failure, FailureReason},
};

/// Models by name, all of the built-in one's files.
#[derive(Debug, Default)]
pub struct FixedModels {
    models: Mutex<BTreeMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    digest: String,
    /// The base's name, and the edited tensors.
    edited: Option<(String, PathBuf)>,
}

impl FixedModels {
    /// One base model.
    pub fn with_base(name: &str, digest: &str) -> Self {
        let this = Self::default();
        this.add(name, Known { digest: digest.to_owned(), edited: None });
        this
    }

    /// Adds an erased model.
    pub fn add_erased(&self, name: &str, base: &str, tensors: &Path) {
        let edited = Some((base.to_owned(), tensors.to_owned()));
        self.add(name, Known { digest: format!("digest of {name}"), edited });
    }

    fn add(&self, name: &str, known: Known) {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.insert(name.to_owned(), known);
    }

    fn find(&self, name: &str) -> Option<Known> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl ModelProvider for FixedModels {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<OpenedModel, Failure>> {
        Box::pin(async move {
            let unknown = |name: &str| {
                let message = format!("there is no model \"{name}\"");
                Failure::new(FailureReason::ModelNotFound, message).with("model", &name)
            };
            let known = self.find(name).ok_or_else(|| unknown(name))?;
            let files = BuiltinModel::open("emoji-canvas").map_err(|_| unknown(name))?;
            let edited = match known.edited {
                None => None,
                Some((base, path)) => {
                    let base_digest = self.find(&base).ok_or_else(|| unknown(&base))?.digest;
                    Some(EditedTensors { base, base_digest, path })
                }
            };
            let name = name.to_owned();
            Ok(OpenedModel {
                name,
                digest: known.digest,
                files: Arc::new(files),
                edited,
                ancestors: Vec::new(),
            })
        })
    }
}
