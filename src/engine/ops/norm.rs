//! Group norm.

use candle_core::{D, Result, Shape, Tensor, bail};

use super::activation::silu_slope;
use super::cuda;
use super::parameters::GroupNorm;
use crate::engine::kernels::cpu;
use crate::engine::kernels::exponential::{moments, sigmoid, sum, sum_pairs};
use crate::engine::kernels::fresh;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

/// Normalises each group of channels, scales and shifts each channel, and optionally applies `SiLU`.
///
/// # Shapes
/// `x: [batch, channels, …]`, `weight` and `bias: [channels]`.
pub fn group_norm(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: &TapeTensor,
    settings: GroupNorm,
) -> Result<TapeTensor> {
    let arguments = [x, weight, bias];
    let tensors = arguments.map(TapeTensor::tensor);
    let footprint = || {
        let statistics = 2 * x.tensor().dim(0)? * settings.groups;
        Ok(Footprint {
            keeps: vec![0],
            statistics: statistics as u64,
            ..Footprint::of(x.tensor().shape())
        })
    };
    if let Some(y) = TapeTensor::sized(&arguments, footprint)? {
        return Ok(y);
    }
    if cuda::is_fast(&tensors) {
        return cuda::group_norm(x, weight, bias, settings);
    }
    if !cpu::is_fast(&tensors) {
        let reference = move |t: &[Tensor]| group_norm_reference(&t[0], &t[1], &t[2], settings);
        return TapeTensor::via_candle_autograd(&arguments, reference);
    }
    let extents = Extents::new(settings.groups, x.tensor().shape())?;
    if tensors[1..].iter().any(|affine| affine.dims() != [extents.channels]) {
        bail!("group_norm: weight or bias is not of {} channels", extents.channels);
    }
    let [x, weight, bias] = [x, weight, bias].map(|argument| argument.tensor().contiguous());
    let operation = Operation { settings, extents, x: x?, weight: weight?, bias: bias? };
    let (y, statistics) = operation.forward()?;
    let followed = arguments.map(TapeTensor::is_followed);
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        operation.backward(gradient, &statistics, followed)
    }))
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
struct Operation {
    settings: GroupNorm,
    extents: Extents,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
}

/// Mean and reciprocal deviation of each group.
type Statistics = Vec<(f32, f32)>;

/// For each channel of a group, sums over its pixels.
type Sums = Vec<[f32; 2]>;

/// The sizes that a group norm's loops run over.
#[derive(Debug, Clone, Copy)]
struct Extents {
    groups: usize,
    /// Channels.
    channels: usize,
    /// Channels of a group.
    members: usize,
    /// Pixels of a channel.
    plane: usize,
}

impl Extents {
    fn new(groups: usize, shape: &Shape) -> Result<Self> {
        let dims = shape.dims();
        let [_, channels, space @ ..] = dims else {
            bail!("group_norm: x {dims:?} has no channels");
        };
        if groups == 0 || channels % groups != 0 || shape.elem_count() == 0 {
            bail!("group_norm: x {dims:?} does not split into {groups} groups");
        }
        Ok(Self {
            groups,
            channels: *channels,
            members: channels / groups,
            plane: space.iter().product(),
        })
    }
}

impl Operation {
    fn forward(&self) -> Result<(Tensor, Statistics)> {
        let Extents { groups, members, plane, .. } = self.extents;
        let length = members * plane;
        let GroupNorm { eps, silu, .. } = self.settings;
        let [x, weight, bias] = [&self.x, &self.weight, &self.bias].map(cpu::values);
        let (x, weight, bias) = (x.get()?, weight.get()?, bias.get()?);
        let (y, statistics) = fresh::written_with(x.len(), length, |index, y| {
            let x = &x[index * length..][..length];
            let first = index % groups * members;
            cpu::vectorised(
                #[inline(always)]
                || {
                    let (mean, rate) = moments(x, eps as f32);
                    for (channel, x) in x.chunks_exact(plane).enumerate() {
                        let scale = rate * weight[first + channel];
                        let shift = bias[first + channel];
                        let normed = x.iter().map(
                            #[inline(always)]
                            |x| (x - mean).mul_add(scale, shift),
                        );
                        if silu {
                            y.extend(normed.map(
                                #[inline(always)]
                                |z| z * sigmoid(z),
                            ));
                        } else {
                            y.extend(normed);
                        }
                    }
                    (mean, rate)
                },
            )
        })?;
        Ok((cpu::tensor(y, self.x.shape())?, statistics))
    }

    fn backward(
        &self,
        gradient: &Tensor,
        statistics: &[(f32, f32)],
        followed: [bool; 3],
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, bias, gradient] =
            [&self.x, &self.weight, &self.bias, gradient].map(cpu::values);
        let affine = [weight.get()?, bias.get()?];
        let (dx, sums) = self.input_gradient(x.get()?, gradient.get()?, statistics, affine)?;
        let sums = sums.concat();
        let over_batch = |index: usize| {
            let mut total = vec![0.0; self.extents.channels];
            for image in sums.chunks_exact(self.extents.channels) {
                total.iter_mut().zip(image).for_each(|(total, sums)| *total += sums[index]);
            }
            cpu::tensor(total, self.weight.shape())
        };
        Ok(vec![
            followed[0].then(|| cpu::tensor(dx, self.x.shape())).transpose()?,
            followed[1].then(|| over_batch(0)).transpose()?,
            followed[2].then(|| over_batch(1)).transpose()?,
        ])
    }

    /// The input's gradient, and by group each channel's sums of the result's gradient, before the
    /// `SiLU`, times the normalised input and by itself.
    fn input_gradient(
        &self,
        x: &[f32],
        gradient: &[f32],
        statistics: &[(f32, f32)],
        affine: [&[f32]; 2],
    ) -> Result<(Vec<f32>, Vec<Sums>)> {
        let Extents { groups, members, plane, .. } = self.extents;
        let length = members * plane;
        fresh::written_with(x.len(), length, |index, fresh| {
            let (mean, rate) = statistics[index];
            let first = index % groups * members;
            let [weights, biases] = affine.map(|affine| &affine[first..first + members]);
            let x = &x[index * length..][..length];
            let gradient = &gradient[index * length..][..length];
            let channels = x.chunks_exact(plane).zip(gradient.chunks_exact(plane));
            cpu::vectorised(
                #[inline(always)]
                || {
                    let mut totals = [0.0; 2];
                    let mut sums = Vec::with_capacity(members);
                    for ((x, gradient), (&weight, &bias)) in
                        channels.zip(weights.iter().zip(biases))
                    {
                        let scale = rate * weight;
                        let pairs = x.iter().zip(gradient);
                        let gradient = if self.settings.silu {
                            &*fresh.next(pairs.map(
                                #[inline(always)]
                                |(&x, &g)| g * silu_slope((x - mean).mul_add(scale, bias)),
                            ))
                        } else {
                            &*fresh.next(gradient.iter().copied())
                        };
                        let normed = rate * sum_pairs(gradient, x, |g, x| g * (x - mean));
                        let level = sum(gradient, |g| g);
                        totals[0] += weight * normed;
                        totals[1] += weight * level;
                        sums.push([normed, level]);
                    }
                    let [slope, level] = totals.map(|total| total / length as f32);
                    let dx = fresh.values().chunks_exact_mut(plane).zip(x.chunks_exact(plane));
                    for ((dx, x), weight) in dx.zip(weights) {
                        for (dx, x) in dx.iter_mut().zip(x) {
                            let normed = (x - mean) * rate;
                            *dx = rate * (weight * *dx - level - normed * slope);
                        }
                    }
                    sums
                },
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
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
            |t| group_norm(&view(&t[0], |t| t.transpose(1, 2))?, &t[1], &t[2], settings),
            |t| group_norm_reference(&t[0].transpose(1, 2)?.contiguous()?, &t[1], &t[2], settings),
        );
    }
}
