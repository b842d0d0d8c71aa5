//! What weights a component has, from its headers alone.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, tensor::TensorInfo};

use super::{
    StoredTensor, StoredTensors,
    header::{OpenWeights, is_bookkeeping},
    locate::{Located, locate},
};
use crate::{engine::EngineError, spec::ModelFiles};

/// Bytes of a component's weights as f32 up to which they are always widened as they are read.
const WIDE_BYTES: u64 = 1 << 30;

/// The weights that [`super::read_component`] would read, from the headers alone: each in its shape
/// and all of it one zero, so that none takes memory, whatever its type.
pub(in crate::engine) fn outline_component(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
) -> Result<StoredTensors, EngineError> {
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let mut outline = StoredTensors {
        location: format!("{}/{component}", files.location()),
        ..StoredTensors::default()
    };
    each_header(files, component, variant, |file, name, info| {
        let tensor = zero.broadcast_as(info.shape.as_slice())?;
        let stored = StoredTensor { tensor, file: file.to_owned(), dtype: info.dtype };
        outline.tensors.insert(name, stored);
        Ok(())
    })?;
    Ok(outline)
}

/// The same of a file that is no component's, such as a judge's.
pub(in crate::engine) fn outline_single(
    files: &dyn ModelFiles,
    name: &str,
) -> Result<StoredTensors, EngineError> {
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let open = OpenWeights::open(files, name)?;
    let mut outline = StoredTensors { location: open.file.clone(), ..StoredTensors::default() };
    for (name, info) in open.tensors.into_iter().filter(|(_, info)| !is_bookkeeping(info.dtype)) {
        let tensor = zero.broadcast_as(info.shape.as_slice())?;
        let stored = StoredTensor { tensor, file: open.file.clone(), dtype: info.dtype };
        outline.tensors.insert(name, stored);
    }
    Ok(outline)
}

/// Whether [`super::read_large`] keeps a component's matrices in half precision; of its
/// tensors only those of these names count, where they are given.
pub(super) fn keeps_halves(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    names: Option<&BTreeSet<String>>,
) -> Result<bool, EngineError> {
    Ok(is_large(&infos(files, component, variant, names)?))
}

/// Bytes that [`super::read_large`] takes in host memory.
pub(in crate::engine) fn measure_large_named(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    names: &BTreeSet<String>,
) -> Result<u64, EngineError> {
    let infos = infos(files, component, variant, Some(names))?;
    let is_large = is_large(&infos);
    let bytes = |info: &TensorInfo| {
        let is_half = matches!(info.dtype, Dtype::F16 | Dtype::BF16) && info.shape.len() > 1;
        count(info) as u64 * if is_large && is_half { 2 } else { 4 }
    };
    Ok(infos.values().map(bytes).sum())
}

fn is_large(infos: &BTreeMap<String, TensorInfo>) -> bool {
    infos.values().map(|info| 4 * count(info) as u64).sum::<u64>() > WIDE_BYTES
}

/// The header has been checked: no product is larger than its file.
fn count(info: &TensorInfo) -> usize {
    info.shape.iter().product()
}

fn infos(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    names: Option<&BTreeSet<String>>,
) -> Result<BTreeMap<String, TensorInfo>, EngineError> {
    let mut infos = BTreeMap::new();
    each_header(files, component, variant, |_, name, info| {
        if names.is_none_or(|names| names.contains(&name)) {
            infos.insert(name, info);
        }
        Ok(())
    })?;
    Ok(infos)
}

/// Every weight of a component, with how messages name the file that holds it.
fn each_header(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
    mut each: impl FnMut(&str, String, TensorInfo) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut read = |open: OpenWeights| {
        let weights = open.tensors.into_iter().filter(|(_, info)| !is_bookkeeping(info.dtype));
        weights.into_iter().try_for_each(|(name, info)| each(&open.file, name, info))
    };
    match locate(files, component, variant)? {
        Located::Single(name) => read(OpenWeights::open(files, &name)?),
        Located::Sharded(shards) => shards.files().into_iter().try_for_each(|name| {
            let open = OpenWeights::open(files, name)?;
            shards.agree(name, &open)?;
            read(open)
        }),
    }
}
