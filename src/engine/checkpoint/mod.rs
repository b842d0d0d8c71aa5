//! Tensors out of and into safetensors bytes.

mod header;
mod locate;
mod read;
#[cfg(test)]
mod tests;
mod text;
mod write;

pub use read::{read_component, read_single};
pub use text::read_text;
pub use write::{CheckpointWriteError, write_safetensors};

use std::collections::BTreeMap;

use candle_core::Tensor;

/// A tensor, with what is needed to name it in an error and to write it back as it was.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// f32 on the engine's device.
    pub tensor: Tensor,
    /// The file that held it, as `folder/unet/file.safetensors`.
    pub file: String,
    /// How the file stored it.
    pub dtype: safetensors::Dtype,
}

/// The weights of one component (`unet`, `vae`, …), by their names in the checkpoint.
#[derive(Debug, Clone, Default)]
pub struct StoredTensors {
    /// How messages name the component, such as `folder/unet`.
    pub location: String,
    /// By name.
    pub tensors: BTreeMap<String, StoredTensor>,
}
