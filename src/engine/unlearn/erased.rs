//! The result of an erasure: edited weights, in the base model's own number format.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::Arc,
};

use candle_core::{DType, Device, Tensor, Var};
use half::{bf16, f16};
use safetensors::Dtype;

use crate::{
    engine::{
        EngineError, Pipeline,
        checkpoint::{CheckpointWriteError, StoredTensors, read_edited, write_safetensors},
        nn::Scoped,
    },
    outcome::{ErasureRecord, TimestepScores, TrainingLog},
    spec::{ReadSeek, UnlearnSpec},
};

/// Consecutive weights that tell a tensor from all others.
const STRETCH: usize = 16;
/// Of those, how many must differ as bytes: zeros and ones stand in every model.
const DISTINCT: usize = 8;

/// An edited denoiser, and how it came about.
#[derive(Debug, Clone)]
pub struct ErasedCheckpoint {
    /// What was asked.
    pub spec: UnlearnSpec,
    /// What training measured.
    pub log: TrainingLog,
    /// One for each concept, where the run measured its window itself.
    pub scores: Vec<TimestepScores>,
    /// Every tensor, the edited ones rounded to the format they are stored in, so that what is
    /// judged is what is published.
    pub tensors: StoredTensors,
    /// Names of the edited tensors, sorted.
    pub edited: Vec<String>,
    /// The U-Net as it was before.
    pub(super) base: Arc<StoredTensors>,
}

impl ErasedCheckpoint {
    pub(super) fn new(
        pipeline: &Pipeline,
        spec: &UnlearnSpec,
        scoped: &Scoped,
    ) -> Result<Self, EngineError> {
        let mut tensors = StoredTensors::clone(&pipeline.unet_tensors);
        for (name, variable) in &scoped.variables {
            if let Some(stored) = tensors.tensors.get_mut(name) {
                stored.tensor = rounded(variable, stored.dtype)?;
            }
        }
        Ok(Self {
            spec: spec.clone(),
            log: TrainingLog::default(),
            scores: Vec::new(),
            tensors,
            edited: scoped.variables.keys().cloned().collect(),
            base: pipeline.unet_tensors.clone(),
        })
    }

    /// An erasure of this pipeline that was made before: its edited tensors, as
    /// [`ErasedCheckpoint::write_delta`] wrote them, and all else of it. `file` is how messages name
    /// what `reader` reads.
    ///
    /// # Errors
    ///
    /// The file is damaged, is of another model, or holds other tensors than those in the scope.
    pub(in crate::engine) fn restore(
        pipeline: &Pipeline,
        record: ErasureRecord,
        (file, reader, length): (&str, Box<dyn ReadSeek>, u64),
    ) -> Result<Self, EngineError> {
        let ErasureRecord { spec, log, scores } = record;
        let base = pipeline.unet_tensors.clone();
        let tensors = read_edited(file, reader, length, &base, &Device::Cpu)?;
        let is_edited = |name: &&String| {
            let before = base.tensors.get(*name).map(|stored| stored.tensor.id());
            tensors.tensors.get(*name).map(|stored| stored.tensor.id()) != before
        };
        let edited: Vec<String> = tensors.tensors.keys().filter(is_edited).cloned().collect();
        let scoped = pipeline.trained_names(&spec.scope).unwrap_or_default();
        if !edited.iter().eq(scoped.iter().copied()) {
            return Err(EngineError::DamagedWeights {
                file: file.to_owned(),
                message: format!(
                    "it holds {} tensors of the U-Net, and its scope {} has {}",
                    edited.len(),
                    spec.scope,
                    scoped.len()
                ),
            });
        }
        Ok(Self { spec, log, scores, tensors, edited, base })
    }

    /// 2-norm of the change over that of the base weights, over the edited tensors.
    pub(super) fn weight_change(&self, base: &Pipeline) -> Result<f64, EngineError> {
        let squares = |tensor: &Tensor| {
            Ok::<_, EngineError>(f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?))
        };
        let (mut change, mut norm) = (0.0, 0.0);
        for name in &self.edited {
            let (Some(before), Some(after)) =
                (base.unet_tensors.tensors.get(name), self.tensors.tensors.get(name))
            else {
                continue;
            };
            let before = before.tensor.to_dtype(DType::F32)?;
            change += squares(&(&after.tensor - &before)?)?;
            norm += squares(&before)?;
        }
        Ok((change / norm.max(f64::MIN_POSITIVE)).sqrt())
    }

    /// Stretches of the base's weights that the edit changed, as files of F32, F16, BF16 and F64
    /// hold them: where one is found in a file, that file brings back what was erased.
    ///
    /// Three stretches of a tensor in each format; none of tensors with fewer than 16 values, or
    /// whose values repeat too often to tell one tensor from another.
    pub fn erased_stretches(&self) -> Result<Vec<Vec<u8>>, EngineError> {
        let mut stretches = BTreeSet::new();
        for name in &self.edited {
            let (Some(before), Some(after)) =
                (self.base.tensors.get(name), self.tensors.tensors.get(name))
            else {
                continue;
            };
            let values =
                |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            let (before, after) = (values(&before.tensor)?, values(&after.tensor)?);
            for quarter in 1..4 {
                let Some(start) = (before.len() * quarter / 4).checked_sub(STRETCH / 2) else {
                    continue;
                };
                let range = start..start + STRETCH;
                let (Some(old), Some(new)) = (before.get(range.clone()), after.get(range)) else {
                    continue;
                };
                let is_same = old.iter().zip(new).all(|(old, new)| old.to_bits() == new.to_bits());
                if !is_same {
                    stretches.extend(encodings(old));
                }
            }
        }
        Ok(stretches.into_iter().collect())
    }

    /// The whole U-Net as safetensors.
    pub fn write_unet(&self, out: &mut dyn Write) -> Result<(), CheckpointWriteError> {
        // What PyTorch's own writer says of itself; transformers refuses files without it.
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        self.write(self.tensors.tensors.keys(), &metadata, out)
    }

    /// The edited tensors alone, with the spec in the metadata.
    pub fn write_delta(
        &self,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> Result<(), CheckpointWriteError> {
        self.write(self.edited.iter(), metadata, out)
    }

    fn write<'a>(
        &'a self,
        names: impl Iterator<Item = &'a String>,
        metadata: &BTreeMap<String, String>,
        out: &mut dyn Write,
    ) -> Result<(), CheckpointWriteError> {
        let tensors = names
            .filter_map(|name| self.tensors.tensors.get(name).map(|stored| (name, stored)))
            .map(|(name, stored)| (name.clone(), (stored.tensor.clone(), stored.dtype)))
            .collect();
        write_safetensors(&tensors, metadata, out)
    }
}

/// Values as each number format holds them, but for formats in which too few differ.
fn encodings(values: &[f32]) -> impl Iterator<Item = Vec<u8>> {
    fn encoded<const N: usize>(values: &[f32], encode: impl Fn(f32) -> [u8; N]) -> Option<Vec<u8>> {
        let encoded: Vec<[u8; N]> = values.iter().map(|&value| encode(value)).collect();
        let distinct: BTreeSet<_> = encoded.iter().collect();
        (distinct.len() >= DISTINCT).then(|| encoded.concat())
    }
    [
        encoded(values, f32::to_le_bytes),
        encoded(values, |value| f16::from_f32(value).to_le_bytes()),
        encoded(values, |value| bf16::from_f32(value).to_le_bytes()),
        encoded(values, |value| f64::from(value).to_le_bytes()),
    ]
    .into_iter()
    .flatten()
}

/// The variable's values as they will be read back from a file of this format.
fn rounded(variable: &Var, dtype: Dtype) -> Result<Tensor, EngineError> {
    let stored = match dtype {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        _ => DType::F32,
    };
    // A copy even where nothing is rounded: training may go on in the variable's own memory.
    let copy = variable.as_detached_tensor().copy()?.to_device(&Device::Cpu)?;
    Ok(copy.to_dtype(stored)?.to_dtype(DType::F32)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_stand_in_every_model_tell_nothing() {
        assert_eq!(encodings(&[0.0; 16]).count(), 0);
        let alternating: Vec<f32> = (0..16).map(|index| (index % 2) as f32).collect();
        assert_eq!(encodings(&alternating).count(), 0);
        let distinct: Vec<f32> = (0..16).map(|index| 0.1 + index as f32 / 7.0).collect();
        let lengths: Vec<usize> = encodings(&distinct).map(|bytes| bytes.len()).collect();
        assert_eq!(lengths, [64, 32, 32, 128]);
        // Values that are equal in half precision differ in the wider formats.
        let close: Vec<f32> = (0..16).map(|index| 1.0 + index as f32 * 1e-6).collect();
        assert_eq!(encodings(&close).map(|bytes| bytes.len()).collect::<Vec<_>>(), [64, 128]);
    }
}
