//! Tensors out of and into safetensors bytes.

mod header;
mod locate;
mod measure;
mod read;
mod saved;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
mod text;
mod write;

pub(in crate::engine) use locate::has_variant;
pub(in crate::engine) use measure::{measure_large_named, outline_component, outline_single};
pub(in crate::engine) use read::{check_dtype, read_named, read_single_named};
pub use read::{read_component, read_edited, read_large, read_metadata, read_single};
pub(in crate::engine) use saved::SavedFile;
pub use text::read_text;
pub use write::{CheckpointWriteError, write_safetensors};

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

/// Numbers that are turned into bytes for a digest at a time: a tensor may be of a hundred megabytes.
const HASHED_AT_ONCE: usize = 1 << 18;

/// A tensor, with what is needed to name it in an error and to write it back as it was.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// f32 in host memory, but for some of [`read_large`]'s, or what
    /// `StoredTensors::placed` made of it.
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

impl StoredTensor {
    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        (self.tensor.elem_count() * self.tensor.dtype().size_in_bytes()) as u64
    }
}

impl StoredTensors {
    /// Bytes that all tensors take.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(StoredTensor::bytes).sum()
    }

    /// The same tensors on a device, as a network computes with them: what has two axes or more in
    /// `dtype`, vectors (biases, norms) in f32.
    ///
    /// `before` are tensors in host memory and what was made of them: a tensor that is one of those
    /// shares it.
    pub(in crate::engine) fn placed(
        &self,
        device: &Device,
        dtype: DType,
        before: Option<(&Self, &Self)>,
    ) -> candle_core::Result<Self> {
        if device.is_cpu() && dtype == DType::F32 {
            return Ok(self.clone());
        }
        let shared = |name: &String, tensor: &Tensor| {
            let (origin, placed) = before?;
            let is_same = origin.tensors.get(name)?.tensor.id() == tensor.id();
            placed.tensors.get(name).filter(|_| is_same).map(|placed| placed.tensor.clone())
        };
        let tensors = self.tensors.iter().map(|(name, stored)| {
            let tensor = match shared(name, &stored.tensor) {
                Some(tensor) => tensor,
                None if stored.tensor.rank() < 2 => stored.tensor.to_device(device)?,
                // Converted here, so that half as much is moved.
                None => stored.tensor.to_dtype(dtype)?.to_device(device)?,
            };
            Ok((name.clone(), StoredTensor { tensor, ..stored.clone() }))
        });
        let tensors = tensors.collect::<candle_core::Result<_>>()?;
        Ok(Self { location: self.location.clone(), tensors })
    }

    /// SHA-256, hexadecimal, of every tensor's name, shape and values as little-endian f32, in order
    /// of their names: the same for the same weights, however they are spread over files.
    pub fn digest(&self) -> candle_core::Result<String> {
        let mut hasher = Sha256::new();
        for (name, stored) in &self.tensors {
            hasher.update(format!("{name}{:?}", stored.tensor.dims()));
            let values = stored.tensor.to_dtype(DType::F32)?.flatten_all()?;
            let count = values.elem_count();
            for start in (0..count).step_by(HASHED_AT_ONCE) {
                let values = values.narrow(0, start, HASHED_AT_ONCE.min(count - start))?;
                let values = values.to_vec1::<f32>()?;
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                hasher.update(bytes);
            }
        }
        Ok(hex::encode(hasher.finalize()))
    }
}
