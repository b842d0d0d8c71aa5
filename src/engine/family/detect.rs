//! Detects a model folder's family.

use std::sync::Arc;

use super::{model_family::Family, sd::StableDiffusion};
use crate::{engine::EngineError, spec::ModelFiles};

/// Reads and checks the configs of a folder's networks. Folders of families that are not supported are
/// refused by name.
pub(in crate::engine) fn open(files: &dyn ModelFiles) -> Result<Arc<dyn Family>, EngineError> {
    Ok(Arc::new(StableDiffusion::read(files)?))
}
