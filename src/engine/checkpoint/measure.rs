//! What weights a component has, from its headers alone.

use std::collections::BTreeMap;

use safetensors::{Dtype, tensor::TensorInfo};

use super::{
    header::{OpenWeights, is_bookkeeping},
    locate::{Located, locate},
};
use crate::{engine::EngineError, spec::ModelFiles};

/// Elements of every weight, by name.
pub(in crate::engine) type Measured = BTreeMap<String, usize>;

/// Bytes of a component's weights as f32 up to which they are always widened as they are read.
const WIDE_BYTES: u64 = 1 << 30;

/// The weights that [`super::read_component`] would read.
pub(in crate::engine) fn measure_component(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
) -> Result<Measured, EngineError> {
    let infos = infos(files, component, variant)?;
    Ok(infos.into_iter().map(|(name, info)| (name, count(&info))).collect())
}

/// Whether [`super::read_large_component`] keeps a component's matrices in half precision.
pub(super) fn keeps_halves(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
) -> Result<bool, EngineError> {
    Ok(is_large(&infos(files, component, variant)?))
}

/// Bytes that [`super::read_large_component`] takes in host memory.
pub(in crate::engine) fn measure_large_component(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
) -> Result<u64, EngineError> {
    let infos = infos(files, component, variant)?;
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
) -> Result<BTreeMap<String, TensorInfo>, EngineError> {
    match locate(files, component, variant)? {
        Located::Single(name) => infos_of(files, &name),
        Located::Sharded(shards) => {
            let mut all = BTreeMap::new();
            for name in shards.files() {
                all.extend(infos_of(files, name)?);
            }
            Ok(all)
        }
    }
}

fn infos_of(
    files: &dyn ModelFiles,
    name: &str,
) -> Result<BTreeMap<String, TensorInfo>, EngineError> {
    let open = OpenWeights::open(files, name)?;
    Ok(open.tensors.into_iter().filter(|(_, info)| !is_bookkeeping(info.dtype)).collect())
}

/// The weights of one file.
pub(in crate::engine) fn measure_single(
    files: &dyn ModelFiles,
    name: &str,
) -> Result<Measured, EngineError> {
    let infos = infos_of(files, name)?;
    Ok(infos.into_iter().map(|(name, info)| (name, count(&info))).collect())
}
