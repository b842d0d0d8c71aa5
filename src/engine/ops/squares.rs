//! Sums of squares, for norms of gradients.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::cuda;
use crate::engine::kernels::{cpu, exponential};

/// The sum of the squares of all values.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if cuda::is_fast(&[x]) {
        return Ok(cuda::squares(&[x])?.into_iter().sum());
    }
    if !cpu::is_fast(&[x]) {
        return Ok(f64::from(x.sqr()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?));
    }
    let x = x.contiguous()?;
    let x = cpu::values(&x);
    let x = x.get()?;
    Ok(f64::from(cpu::vectorised(
        #[inline(always)]
        || exponential::sum(x, |x| x * x),
    )))
}

/// [`sum_of_squares`] of each, for which a device answers once, not once for each tensor.
pub fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    if cuda::is_fast(tensors) {
        return cuda::squares(tensors);
    }
    tensors.par_iter().map(|tensor| sum_of_squares(tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;
    use super::*;

    #[test]
    fn squares_are_candles() {
        let single = values(&[5, 7], 1);
        let double = single.to_dtype(DType::F64).unwrap();
        let right = double.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        for x in [&single, &double] {
            assert!((sum_of_squares(x).unwrap() / right - 1.0).abs() < 1e-6);
        }
    }
}
