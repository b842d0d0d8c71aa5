//! Model folders in, result folders out: bytes and digests, no tensors.

mod builtin;
pub mod diffusers;
pub mod digest;
mod error;
mod folder;
mod locate;
pub mod model_digest;
mod output;

pub use builtin::BuiltinModel;
pub use error::ArtifactError;
pub use folder::ModelFolder;
pub use locate::open_model;
pub use output::{StagedFile, StagedFolder};
