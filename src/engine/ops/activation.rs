//! Activations.

use candle_core::{D, Result, Tensor};

/// `x · sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// `x · Φ(x)` with the exact error function, as Stable Diffusion needs it.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// `x · sigmoid(1.702 x)`, CLIP's activation.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * ((x * -1.702)?.exp()? + 1.0)?.recip()?
}

/// `a · gelu_erf(b)` where `a` and `b` are the halves of the last axis (diffusers `GEGLU`).
///
/// # Shapes
/// `[…, 2 n]` to `[…, n]`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * gelu_erf(&halves[1])?
}
