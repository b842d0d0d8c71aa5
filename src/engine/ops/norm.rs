//! Normalisation of groups of channels.

use candle_core::{D, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::activation::silu_slope;
use super::exponential::{moments, sigmoid, sum, sum_pairs};
use super::traced::Traced;
use super::{cpu, cuda};

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
    x: &Traced,
    weight: &Traced,
    bias: &Traced,
    settings: GroupNorm,
) -> Result<Traced> {
    let arguments = [x, weight, bias];
    let tensors = arguments.map(Traced::tensor);
    if cuda::is_fast(&tensors) {
        return cuda::group_norm(x, weight, bias, settings);
    }
    if !cpu::is_fast(&tensors) {
        let reference = move |t: &[Tensor]| group_norm_reference(&t[0], &t[1], &t[2], settings);
        return Traced::by_candle(&arguments, reference);
    }
    let extents = Extents::new(settings.groups, x.tensor().shape())?;
    if tensors[1..].iter().any(|affine| affine.dims() != [extents.channels]) {
        bail!("group_norm: weight or bias is not of {} channels", extents.channels);
    }
    let [x, weight, bias] = [x, weight, bias].map(|argument| argument.tensor().contiguous());
    let operation = Operation { settings, extents, x: x?, weight: weight?, bias: bias? };
    let (y, statistics) = operation.forward()?;
    let followed = arguments.map(Traced::is_followed);
    Ok(Traced::result(y, &arguments, move |gradient| {
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
        let mut y = vec![0.0; x.len()];
        let statistics = y
            .par_chunks_mut(length)
            .zip(x.par_chunks(length))
            .enumerate()
            .map(|(index, (y, x))| {
                let first = index % groups * members;
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        let (mean, rate) = moments(x, eps as f32);
                        let channels = y.chunks_exact_mut(plane).zip(x.chunks_exact(plane));
                        for (channel, (y, x)) in channels.enumerate() {
                            let scale = rate * weight[first + channel];
                            let shift = bias[first + channel];
                            if silu {
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
        let mut dx = gradient.get()?.to_vec();
        let sums = self.input_gradient(x.get()?, &mut dx, statistics, affine);
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

    /// Turns `dx`, which holds the result's gradient, into the input's, and yields each channel's
    /// sums of the gradient times the normalised input and of the gradient.
    fn input_gradient(
        &self,
        x: &[f32],
        dx: &mut [f32],
        statistics: &[(f32, f32)],
        affine: [&[f32]; 2],
    ) -> Vec<[f32; 2]> {
        let Extents { groups, members, plane, .. } = self.extents;
        let length = members * plane;
        let mut sums = vec![[0.0; 2]; x.len() / plane];
        let parts = dx.par_chunks_mut(length).zip(x.par_chunks(length)).zip(statistics);
        sums.par_chunks_mut(members).zip(parts).enumerate().for_each(
            |(index, (sums, ((dx, x), &(mean, rate))))| {
                let first = index % groups * members;
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
