//! Two-dimensional convolution and nearest upsampling.

use candle_core::{Result, Tensor};

/// A convolution's geometry; dilation and groups are 1 throughout Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

/// `weight ∗ x + bias`.
///
/// # Shapes
/// `x: [batch, in, height, width]`, `weight: [out, in, kernel, kernel]`, `bias: [out]`.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Convolution,
) -> Result<Tensor> {
    let y = x.conv2d(weight, geometry.padding, geometry.stride, 1, 1)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}

/// Doubles height and width by repetition (diffusers `Upsample2D` before its convolution).
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    x.reshape((batch, channels, height, 1, width, 1))?
        .broadcast_as((batch, channels, height, 2, width, 2))?
        .reshape((batch, channels, height * 2, width * 2))
}
