//! Layer norm.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use crate::engine::kernels::cpu;
use crate::engine::kernels::exponential::{moments, sum_pairs};
use crate::engine::kernels::fresh;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

/// Normalises the last axis, scales and shifts it.
///
/// # Shapes
/// `x: […, channels]`, `weight` and `bias: [channels]`.
pub fn layer_norm(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: &TapeTensor,
    eps: f64,
) -> Result<TapeTensor> {
    let arguments = [x, weight, bias];
    let tensors = arguments.map(TapeTensor::tensor);
    let footprint = || {
        let rows = x.tensor().elem_count() / x.tensor().dim(D::Minus1)?.max(1);
        Ok(Footprint {
            keeps: vec![0],
            statistics: 2 * rows as u64,
            ..Footprint::of(x.tensor().shape())
        })
    };
    if let Some(y) = TapeTensor::sized(&arguments, footprint)? {
        return Ok(y);
    }
    if cuda::is_fast(&tensors) {
        return cuda::layer_norm(x, weight, bias, eps);
    }
    if !cpu::is_fast(&tensors) {
        let reference = move |t: &[Tensor]| layer_norm_reference(&t[0], &t[1], &t[2], eps);
        return TapeTensor::via_candle_autograd(&arguments, reference);
    }
    let channels = x.tensor().dim(D::Minus1)?;
    if tensors[1..].iter().any(|affine| affine.dims() != [channels]) || channels == 0 {
        bail!("layer_norm: weight or bias is not of {channels} channels");
    }
    let [x, weight, bias] = tensors.map(Tensor::contiguous);
    let operation = LayerNorm { x: x?, weight: weight? };
    let (y, statistics) = operation.forward(&bias?, eps)?;
    let followed = arguments.map(TapeTensor::is_followed);
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        operation.backward(gradient, &statistics, followed)
    }))
}

pub(super) fn layer_norm_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// See [`layer_norm`].
#[derive(Debug)]
struct LayerNorm {
    x: Tensor,
    weight: Tensor,
}

/// Mean and reciprocal deviation of each row.
type Statistics = Vec<(f32, f32)>;

impl LayerNorm {
    fn forward(&self, bias: &Tensor, eps: f64) -> Result<(Tensor, Statistics)> {
        let [x, weight, bias] = [&self.x, &self.weight, bias].map(cpu::values);
        let (x, weight, bias) = (x.get()?, weight.get()?, bias.get()?);
        let channels = weight.len();
        let chunk = channels * cpu::rows_per_task(channels);
        let (y, statistics) = fresh::written_with(x.len(), chunk, |task, y| {
            let x = &x[task * chunk..];
            cpu::vectorised(
                #[inline(always)]
                || {
                    let mut statistics = Vec::new();
                    for x in x[..y.room()].chunks_exact(channels) {
                        let (mean, rate) = moments(x, eps as f32);
                        let affine = weight.iter().zip(bias);
                        y.extend(x.iter().zip(affine).map(
                            #[inline(always)]
                            |(x, (&weight, &bias))| ((x - mean) * rate).mul_add(weight, bias),
                        ));
                        statistics.push((mean, rate));
                    }
                    statistics
                },
            )
        })?;
        let statistics = statistics.concat();
        Ok((cpu::tensor(y, self.x.shape())?, statistics))
    }

    fn backward(
        &self,
        gradient: &Tensor,
        statistics: &[(f32, f32)],
        followed: [bool; 3],
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, gradient] = [&self.x, &self.weight, gradient].map(cpu::values);
        let (x, weight, gradient) = (x.get()?, weight.get()?, gradient.get()?);
        let channels = weight.len();
        let dx = || cpu::tensor(input_gradient(x, gradient, weight, statistics)?, self.x.shape());
        let vector = |values| cpu::tensor(values, self.weight.shape());
        Ok(vec![
            followed[0].then(dx).transpose()?,
            followed[1]
                .then(|| vector(weight_gradient(x, gradient, channels, statistics)))
                .transpose()?,
            followed[2].then(|| vector(cpu::column_sums(gradient, channels))).transpose()?,
        ])
    }
}

fn input_gradient(
    x: &[f32],
    gradient: &[f32],
    weight: &[f32],
    statistics: &[(f32, f32)],
) -> Result<Vec<f32>> {
    let channels = weight.len();
    let rows = cpu::rows_per_task(channels);
    let chunk = channels * rows;
    fresh::written(x.len(), chunk, |task, fresh| {
        let (x, gradient) = (&x[task * chunk..], &gradient[task * chunk..]);
        let inputs = x.chunks_exact(channels).zip(gradient.chunks_exact(channels));
        cpu::vectorised(
            #[inline(always)]
            || {
                for ((x, gradient), &(mean, rate)) in
                    inputs.zip(&statistics[task * rows..]).take(rows)
                {
                    let dx = fresh.next(gradient.iter().zip(weight).map(|(g, w)| g * w));
                    let level = sum_pairs(dx, x, |h, _| h) / channels as f32;
                    let slope = rate * sum_pairs(dx, x, |h, x| h * (x - mean)) / channels as f32;
                    for (dx, &x) in dx.iter_mut().zip(x) {
                        *dx = rate * (*dx - level - (x - mean) * rate * slope);
                    }
                }
            },
        );
    })
}

fn weight_gradient(
    x: &[f32],
    gradient: &[f32],
    channels: usize,
    statistics: &[(f32, f32)],
) -> Vec<f32> {
    let rows = cpu::rows_per_task(channels);
    let inputs = x.par_chunks(rows * channels).zip(gradient.par_chunks(rows * channels));
    let partial = inputs
        .zip(statistics.par_chunks(rows))
        .map(|((x, gradient), statistics)| {
            let mut sums = vec![0.0; channels];
            cpu::vectorised(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(channels).zip(gradient.chunks_exact(channels));
                    for ((x, gradient), &(mean, rate)) in rows.zip(statistics) {
                        for ((sum, &x), &g) in sums.iter_mut().zip(x).zip(gradient) {
                            *sum += g * ((x - mean) * rate);
                        }
                    }
                },
            );
            sums
        })
        .collect();
    cpu::add_up(partial, channels)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
    use super::*;

    #[test]
    fn layer_norm_agrees_with_its_reference() {
        for shape in [vec![1, 5], vec![3, 7, 19], vec![2, 300, 33]] {
            let channels = [shape[shape.len() - 1]];
            let case = Case::new([values(&shape, 1), values(&channels, 2), values(&channels, 3)]);
            case.check(
                |t| layer_norm(&t[0], &t[1], &t[2], 1e-5),
                |t| layer_norm_reference(&t[0], &t[1], &t[2], 1e-5),
            );
        }
    }

    #[test]
    fn layer_norm_of_a_view() {
        let case = Case::new([values(&[2, 6, 5], 1), values(&[6], 2), values(&[6], 3)]);
        case.check(
            |t| layer_norm(&view(&t[0], |t| t.transpose(1, 2))?, &t[1], &t[2], 1e-5),
            |t| layer_norm_reference(&t[0].transpose(1, 2)?.contiguous()?, &t[1], &t[2], 1e-5),
        );
    }
}
