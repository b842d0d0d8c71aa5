//! What weights a component has, from its headers alone.

use std::collections::BTreeMap;

use super::{
    header::{OpenWeights, is_bookkeeping},
    locate::{Located, locate},
};
use crate::{engine::EngineError, spec::ModelFiles};

/// Elements of every weight, by name.
pub(in crate::engine) type Measured = BTreeMap<String, usize>;

/// The weights that [`super::read_component`] would read.
pub(in crate::engine) fn measure_component(
    files: &dyn ModelFiles,
    component: &str,
    variant: Option<&str>,
) -> Result<Measured, EngineError> {
    let mut measured = Measured::new();
    match locate(files, component, variant)? {
        Located::Single(name) => measured.extend(measure_single(files, &name)?),
        Located::Sharded(shards) => {
            for name in shards.files() {
                measured.extend(measure_single(files, name)?);
            }
        }
    }
    Ok(measured)
}

/// The weights of one file.
pub(in crate::engine) fn measure_single(
    files: &dyn ModelFiles,
    name: &str,
) -> Result<Measured, EngineError> {
    let open = OpenWeights::open(files, name)?;
    let weights = open.tensors.into_iter().filter(|(_, info)| !is_bookkeeping(info.dtype));
    // The header has been checked: no product is larger than its file.
    Ok(weights.map(|(name, info)| (name, info.shape.iter().product())).collect())
}
