//! Refuses what a network computed where it is NaN or infinite.

use candle_core::{CpuStorage, DType, Storage, Tensor};

use super::EngineError;

/// Refuses NaN and infinity in what a part of a model computed, which `location` names, such as
/// `folder/unet`. Weights may be finite and overflow all the same.
pub(super) fn check(
    location: &str,
    computed: &'static str,
    tensor: &Tensor,
) -> Result<(), EngineError> {
    let value = first(tensor)?;
    refuse(location, computed, value.map(f64::from))
}

/// [`check`] of numbers that have left the tensors.
pub(super) fn check_all(
    location: &str,
    computed: &'static str,
    values: impl IntoIterator<Item = f64>,
) -> Result<(), EngineError> {
    refuse(location, computed, values.into_iter().find(|value| !value.is_finite()))
}

fn refuse(location: &str, computed: &'static str, value: Option<f64>) -> Result<(), EngineError> {
    match value {
        None => Ok(()),
        Some(value) => {
            Err(EngineError::NonFiniteOutput { location: location.to_owned(), computed, value })
        }
    }
}

/// The first value that is none.
fn first(tensor: &Tensor) -> Result<Option<f32>, EngineError> {
    let not_finite = |values: &[f32]| values.iter().copied().find(|value| !value.is_finite());
    {
        // Where it lies, without a copy.
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            return Ok(values.get(start..end).and_then(not_finite));
        }
    }
    Ok(not_finite(&tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_part_and_the_value_are_named() {
        let values = vec![1.0_f32, f32::MAX, f32::NAN, f32::INFINITY];
        let tensor = Tensor::from_vec(values, (2, 2), &Device::Cpu).unwrap();
        check("folder/vae", "a picture", &tensor.narrow(0, 0, 1).unwrap()).unwrap();
        // A view with gaps between its values.
        let column = tensor.narrow(1, 1, 1).unwrap();
        for (tensor, value) in [(tensor, "NaN"), (column, "inf")] {
            let error = check("folder/vae", "a picture", &tensor).unwrap_err().to_string();
            assert!(error.starts_with("folder/vae computed a picture"), "{error}");
            assert!(error.contains(value), "{error}");
        }
        assert!(check_all("scores", "energy", [1.0, f64::NAN]).is_err());
    }
}
