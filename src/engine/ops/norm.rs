//! Normalisations.

use candle_core::{D, Result, Tensor};

/// A group norm's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Groups that the channels are split into.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Whether a SiLU follows, as in every ResNet block.
    pub silu: bool,
}

/// Normalises each group of channels, scales and shifts each channel, and optionally applies SiLU.
///
/// # Shapes
/// `x: [batch, channels, …]`, `weight` and `bias: [channels]`.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    settings: GroupNorm,
) -> Result<Tensor> {
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    let grouped = x.reshape((batch, settings.groups, ()))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + settings.eps)?.sqrt()?)?;
    let per_channel = |v: &Tensor| v.reshape((1, channels, 1));
    let y = normed
        .reshape((batch, channels, ()))?
        .broadcast_mul(&per_channel(weight)?)?
        .broadcast_add(&per_channel(bias)?)?
        .reshape(x.shape())?;
    if settings.silu { super::silu(&y) } else { Ok(y) }
}

/// Normalises the last axis, scales and shifts it.
///
/// # Shapes
/// `x: […, channels]`, `weight` and `bias: [channels]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}
