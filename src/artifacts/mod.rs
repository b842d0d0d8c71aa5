//! Model folders in, result folders out: bytes and digests, no tensors.

mod builtin;
pub mod diffusers;
pub mod digest;
mod erased_model;
mod erased_weights;
mod error;
mod folder;
mod locate;
pub mod model_digest;
mod output;
pub mod preflight;

pub use builtin::BuiltinModel;
pub use erased_model::{EditedBytes, ErasedModel, ErasedWeights, delta_metadata};
pub use erased_weights::refuse_erased_weights;
pub use error::ArtifactError;
pub use folder::ModelFolder;
pub use locate::open_model;
pub use output::{StagedFile, StagedFolder, remove_folder, sync_folder};
