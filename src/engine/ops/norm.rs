//! Normalisation of groups of channels.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::activation::silu_slope;
use super::cpu::{self, Dense};
use super::exponential::{moments, sigmoid, sum, sum_pairs};

/// A group norm's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Groups that the channels are split into.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Whether a `SiLU` follows, as in every `ResNet` block.
    pub silu: bool,
}

/// Normalises each group of channels, scales and shifts each channel, and optionally applies `SiLU`.
///
/// # Shapes
/// `x: [batch, channels, …]`, `weight` and `bias: [channels]`.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    settings: GroupNorm,
) -> Result<Tensor> {
    if !cpu::applies(&[x, weight, bias]) {
        return group_norm_reference(x, weight, bias, settings);
    }
    let operation = GroupNormOperation { settings, statistics: OnceLock::new() };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, operation)
}

pub(super) fn group_norm_reference(
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
    if settings.silu { y.silu() } else { Ok(y) }
}

/// See [`group_norm`].
#[derive(Debug)]
struct GroupNormOperation {
    settings: GroupNorm,
    /// Mean and reciprocal deviation of each group, kept from forward to backward.
    statistics: OnceLock<Vec<(f32, f32)>>,
}

/// The sizes that a group norm's loops run over.
#[derive(Debug, Clone, Copy)]
struct Extents {
    /// Channels.
    channels: usize,
    /// Channels of a group.
    members: usize,
    /// Pixels of a channel.
    plane: usize,
}

impl GroupNormOperation {
    fn extents(&self, shape: &Shape) -> Result<Extents> {
        let (dims, groups) = (shape.dims(), self.settings.groups);
        let [_, channels, space @ ..] = dims else {
            bail!("group_norm: x {dims:?} has no channels");
        };
        if groups == 0 || channels % groups != 0 || shape.elem_count() == 0 {
            bail!("group_norm: x {dims:?} does not split into {groups} groups");
        }
        Ok(Extents {
            channels: *channels,
            members: channels / groups,
            plane: space.iter().product(),
        })
    }

    fn forward(&self, x: &[f32], y: &mut [f32], extents: Extents, affine: [&[f32]; 2]) {
        let Extents { members, plane, .. } = extents;
        let length = members * plane;
        let eps = self.settings.eps as f32;
        let statistics = y
            .par_chunks_mut(length)
            .zip(x.par_chunks(length))
            .enumerate()
            .map(|(index, (y, x))| {
                let first = index % self.settings.groups * members;
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        let (mean, rate) = moments(x, eps);
                        let channels = y.chunks_exact_mut(plane).zip(x.chunks_exact(plane));
                        for (channel, (y, x)) in channels.enumerate() {
                            let scale = rate * affine[0][first + channel];
                            let shift = affine[1][first + channel];
                            if self.settings.silu {
                                for (y, &x) in y.iter_mut().zip(x) {
                                    let z = (x - mean).mul_add(scale, shift);
                                    *y = z * sigmoid(z);
                                }
                            } else {
                                for (y, &x) in y.iter_mut().zip(x) {
                                    *y = (x - mean).mul_add(scale, shift);
                                }
                            }
                        }
                        (mean, rate)
                    },
                )
            })
            .collect();
        // A second forward of the same operation would find the same statistics.
        let _ = self.statistics.set(statistics);
    }

    /// Turns `dx`, which holds the result's gradient, into the input's, and yields each channel's
    /// sums of the gradient times the normalised input and of the gradient.
    fn backward(
        &self,
        x: &[f32],
        dx: &mut [f32],
        extents: Extents,
        affine: [&[f32]; 2],
    ) -> Vec<[f32; 2]> {
        let Extents { members, plane, .. } = extents;
        let length = members * plane;
        let statistics: &[(f32, f32)] = self.statistics.get().map_or(&[], Vec::as_slice);
        let mut sums = vec![[0.0; 2]; x.len() / plane];
        let groups = dx.par_chunks_mut(length).zip(x.par_chunks(length)).zip(statistics);
        sums.par_chunks_mut(members).zip(groups).enumerate().for_each(
            |(index, (sums, ((dx, x), &(mean, rate))))| {
                let first = index % self.settings.groups * members;
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        let weights = &affine[0][first..first + members];
                        let mut totals = [0.0; 2];
                        for (channel, sums) in sums.iter_mut().enumerate() {
                            let range = channel * plane..(channel + 1) * plane;
                            let (dx, x) = (&mut dx[range.clone()], &x[range]);
                            let weight = weights[channel];
                            if self.settings.silu {
                                let (scale, shift) = (rate * weight, affine[1][first + channel]);
                                for (dx, &x) in dx.iter_mut().zip(x) {
                                    *dx *= silu_slope((x - mean).mul_add(scale, shift));
                                }
                            }
                            *sums =
                                [rate * sum_pairs(dx, x, |g, x| g * (x - mean)), sum(dx, |g| g)];
                            totals[0] += weight * sums[0];
                            totals[1] += weight * sums[1];
                        }
                        let [slope, level] = totals.map(|total| total / length as f32);
                        for (channel, &weight) in weights.iter().enumerate() {
                            let range = channel * plane..(channel + 1) * plane;
                            for (dx, &x) in dx[range.clone()].iter_mut().zip(&x[range]) {
                                let normed = (x - mean) * rate;
                                *dx = rate * (weight * *dx - level - normed * slope);
                            }
                        }
                    },
                );
            },
        );
        sums
    }
}

impl CustomOp3 for GroupNormOperation {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let extents = self.extents(x_layout.shape())?;
        let x = Dense::new(x, x_layout)?.values;
        let affine =
            [Dense::new(weight, weight_layout)?.values, Dense::new(bias, bias_layout)?.values];
        if affine.iter().any(|values| values.len() != extents.channels) {
            bail!("group_norm: weight or bias is not of {} channels", extents.channels);
        }
        let mut y = vec![0.0; x.len()];
        self.forward(x, &mut y, extents, affine);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let extents = self.extents(x.shape())?;
        let gradient = gradient.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (bias_guard, bias_layout) = bias.storage_and_layout();
        let (guard, layout) = gradient.storage_and_layout();
        let affine = [
            Dense::locked(&weight_guard, weight_layout)?.values,
            Dense::locked(&bias_guard, bias_layout)?.values,
        ];
        let mut dx = Dense::locked(&guard, layout)?.values.to_vec();
        let values = Dense::locked(&x_guard, x_layout)?.values;
        let sums = self.backward(values, &mut dx, extents, affine);
        let over_batch = |index: usize| {
            let mut total = vec![0.0; extents.channels];
            for image in sums.chunks_exact(extents.channels) {
                total.iter_mut().zip(image).for_each(|(total, sums)| *total += sums[index]);
            }
            cpu::tensor(total, weight.shape())
        };
        Ok((
            x.track_op().then(|| cpu::tensor(dx, x.shape())).transpose()?,
            weight.track_op().then(|| over_batch(0)).transpose()?,
            bias.track_op().then(|| over_batch(1)).transpose()?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
    use super::*;

    #[test]
    fn group_norm_agrees_with_its_reference() {
        for silu in [false, true] {
            for (shape, groups) in [
                (vec![1, 6, 3, 5], 3),
                (vec![3, 20, 4, 4], 4),
                (vec![2, 33, 7], 1),
                (vec![2, 8], 2),
            ] {
                let settings = GroupNorm { groups, eps: 1e-5, silu };
                let channels = [shape[1]];
                let case =
                    Case::new([values(&shape, 1), values(&channels, 2), values(&channels, 3)]);
                case.check(
                    |t| group_norm(&t[0], &t[1], &t[2], settings),
                    |t| group_norm_reference(&t[0], &t[1], &t[2], settings),
                );
            }
        }
    }

    #[test]
    fn group_norm_of_a_view() {
        let settings = GroupNorm { groups: 2, eps: 1e-6, silu: true };
        let case = Case::new([values(&[2, 5, 6], 1), values(&[6], 2), values(&[6], 3)]);
        case.check(
            |t| group_norm(&t[0].transpose(1, 2)?, &t[1], &t[2], settings),
            |t| group_norm_reference(&t[0].transpose(1, 2)?.contiguous()?, &t[1], &t[2], settings),
        );
    }
}
