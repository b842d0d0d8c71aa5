//! Affine maps of the last axis.

use candle_core::{Result, Tensor};

/// `x · weightᵀ + bias`.
///
/// # Shapes
/// `x: […, in]`, `weight: [out, in]`, `bias: [out]`, result `[…, out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let y = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    shape.push(weight.dim(0)?);
    y.reshape(shape)
}
