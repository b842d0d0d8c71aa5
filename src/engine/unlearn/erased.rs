//! The result of an erasure: edited weights, in the base model's own number format.

use std::{collections::BTreeMap, io::Write};

use candle_core::{DType, Device, Tensor, Var};
use safetensors::Dtype;

use crate::{
    engine::{
        EngineError, Pipeline,
        checkpoint::{CheckpointWriteError, StoredTensors, write_safetensors},
        model::Scoped,
    },
    outcome::{TimestepScores, TrainingLog},
    spec::UnlearnSpec,
};

/// An edited U-Net, and how it came about.
#[derive(Debug, Clone)]
pub struct ErasedCheckpoint {
    /// What was asked.
    pub spec: UnlearnSpec,
    /// What training measured.
    pub log: TrainingLog,
    /// One a concept, where the run measured its window itself.
    pub scores: Vec<TimestepScores>,
    /// Every tensor, the edited ones rounded to the format they are stored in, so that what is
    /// judged is what is published.
    pub tensors: StoredTensors,
    /// Names of the edited tensors, sorted.
    pub edited: Vec<String>,
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
        })
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
