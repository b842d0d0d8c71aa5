//! Scaled dot-product attention.

use candle_core::{D, Result, Tensor};

/// Multi-head attention of already projected queries, keys and values.
///
/// `mask`, of shape `[queries, keys]`, is added to the scores.
///
/// # Shapes
/// `query: [batch, queries, heads · d]`, `key` and `value: [batch, keys, heads · d]`, result
/// `[batch, queries, heads · d]`. Scores are scaled by `d^-1/2`.
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, queries, channels) = query.dims3()?;
    let split = |x: &Tensor| {
        let (batch, length, channels) = x.dims3()?;
        x.reshape((batch, length, heads, channels / heads))?.transpose(1, 2)?.contiguous()
    };
    let (query, key, value) = (split(query)?, split(key)?, split(value)?);
    let scale = ((channels / heads) as f64).powf(-0.5);
    let scores = (query.matmul(&key.t()?)? * scale)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    // Subtracting a constant of the row changes no gradient, so the maximum is detached.
    let scores = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
    let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&value)?.transpose(1, 2)?.reshape((batch, queries, channels))
}
