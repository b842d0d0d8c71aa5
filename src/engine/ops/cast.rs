//! Casts between number types.

use candle_core::{DType, Result};

use crate::engine::tape::{TapeTensor, dry_run::Footprint};

/// The same values in another type; the gradient comes back in the argument's own.
pub fn cast(x: &TapeTensor, dtype: DType) -> Result<TapeTensor> {
    let before = x.tensor().dtype();
    if before == dtype {
        return Ok(x.clone());
    }
    if let Some(y) = TapeTensor::sized(&[x], || Ok(Footprint::of(x.tensor().shape())))? {
        return Ok(y);
    }
    let y = x.tensor().to_dtype(dtype)?;
    Ok(TapeTensor::result(y, &[x], move |gradient| Ok(vec![Some(gradient.to_dtype(before)?)])))
}
