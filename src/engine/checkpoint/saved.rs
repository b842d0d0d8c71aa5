//! Reads files that Keystep wrote, with the same checks as foreign ones, one tensor at a time.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use safetensors::Dtype;

use super::{
    header::{HeaderFault, OpenWeights},
    read::{ReadFault, read_tensor},
};
use crate::{engine::EngineError, spec::ReadSeek};

/// A safetensors file of f32 tensors that is open and whose header is sound. What is wrong with it
/// is an error's text, which its reader puts into a sentence.
pub(in crate::engine) struct SavedFile {
    open: OpenWeights,
    buffer: Vec<u8>,
}

impl SavedFile {
    /// Reads the header of a file of `length` bytes.
    pub(in crate::engine) fn open(reader: Box<dyn ReadSeek>, length: u64) -> Result<Self, String> {
        let open =
            OpenWeights::read(String::new(), reader, length).map_err(|fault| match fault {
                HeaderFault::Damaged(message) => message,
                HeaderFault::LfsPointer => "it is a Git LFS pointer".to_owned(),
                HeaderFault::Unreadable(source) => format!("it cannot be read: {source}"),
            })?;
        Ok(Self { open, buffer: Vec::new() })
    }

    /// What the file says of itself.
    pub(in crate::engine) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.open.metadata
    }

    /// Refuses a file that holds other tensors than these, by name and shape, before any is read.
    pub(in crate::engine) fn require(
        &self,
        shapes: &BTreeMap<String, Vec<usize>>,
    ) -> Result<(), String> {
        if let Some(name) = self.open.tensors.keys().find(|name| !shapes.contains_key(*name)) {
            return Err(format!("it holds the tensor \"{name}\", which has no place in it"));
        }
        for (name, shape) in shapes {
            match self.open.tensors.get(name) {
                None => return Err(format!("it lacks the tensor \"{name}\"")),
                Some(info) if info.shape != *shape || info.dtype != Dtype::F32 => {
                    return Err(format!(
                        "its tensor \"{name}\" is {:?} of {}, not {shape:?} of F32",
                        info.shape, info.dtype
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Reads a tensor.
    pub(in crate::engine) fn read(
        &mut self,
        name: &str,
        device: &Device,
    ) -> Result<Tensor, String> {
        let Some(info) = self.open.tensors.get(name).cloned() else {
            return Err(format!("it lacks the tensor \"{name}\""));
        };
        read_tensor(&mut self.open, name, &info, device, &mut self.buffer).map_err(|fault| {
            match fault {
                ReadFault::Io(source) => format!("it cannot be read: {source}"),
                ReadFault::Other(EngineError::DamagedWeights { .. }) => {
                    format!("it ends within the tensor \"{name}\"")
                }
                ReadFault::Other(EngineError::NonFiniteWeight { value, element, .. }) => {
                    format!("its tensor \"{name}\" holds {value} at element {element}")
                }
                ReadFault::Other(error) => error.to_string(),
            }
        })
    }
}
