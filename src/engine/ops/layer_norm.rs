//! Normalisation of the last axis.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{self, Dense};
use super::exponential::{moments, sum_pairs};

/// Normalises the last axis, scales and shifts it.
///
/// # Shapes
/// `x: […, channels]`, `weight` and `bias: [channels]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !cpu::applies(&[x, weight, bias]) {
        return layer_norm_reference(x, weight, bias, eps);
    }
    let operation = LayerNorm { eps, statistics: OnceLock::new() };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, operation)
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
    eps: f64,
    /// Mean and reciprocal deviation of each row, kept from forward to backward.
    statistics: OnceLock<Vec<(f32, f32)>>,
}

impl LayerNorm {
    fn input_gradient(&self, x: &[f32], gradient: &[f32], weight: &[f32]) -> Vec<f32> {
        let channels = weight.len();
        let rows = cpu::rows_per_task(channels);
        let statistics: &[(f32, f32)] = self.statistics.get().map_or(&[], Vec::as_slice);
        let mut dx = vec![0.0; x.len()];
        let inputs = x.par_chunks(rows * channels).zip(gradient.par_chunks(rows * channels));
        dx.par_chunks_mut(rows * channels).zip(inputs).zip(statistics.par_chunks(rows)).for_each(
            |((dx, (x, gradient)), statistics)| {
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        let inputs = x.chunks_exact(channels).zip(gradient.chunks_exact(channels));
                        let rows = dx.chunks_exact_mut(channels).zip(inputs);
                        for ((dx, (x, gradient)), &(mean, rate)) in rows.zip(statistics) {
                            for ((dx, &g), &w) in dx.iter_mut().zip(gradient).zip(weight) {
                                *dx = g * w;
                            }
                            let level = sum_pairs(dx, x, |h, _| h) / channels as f32;
                            let slope =
                                rate * sum_pairs(dx, x, |h, x| h * (x - mean)) / channels as f32;
                            for (dx, &x) in dx.iter_mut().zip(x) {
                                *dx = rate * (*dx - level - (x - mean) * rate * slope);
                            }
                        }
                    },
                );
            },
        );
        dx
    }

    fn weight_gradient(&self, x: &[f32], gradient: &[f32], channels: usize) -> Vec<f32> {
        let rows = cpu::rows_per_task(channels);
        let statistics: &[(f32, f32)] = self.statistics.get().map_or(&[], Vec::as_slice);
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
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let x = Dense::new(x, x_layout)?.values;
        let weight = Dense::new(weight, weight_layout)?.values;
        let bias = Dense::new(bias, bias_layout)?.values;
        let channels = weight.len();
        if channels == 0 || bias.len() != channels || x_layout.dims().last() != Some(&channels) {
            bail!("layer_norm: x {:?} does not fit {channels} channels", x_layout.shape());
        }
        let rows = cpu::rows_per_task(channels);
        let mut y = vec![0.0; x.len()];
        let mut statistics = vec![(0.0, 0.0); x.len() / channels];
        y.par_chunks_mut(rows * channels)
            .zip(x.par_chunks(rows * channels))
            .zip(statistics.par_chunks_mut(rows))
            .for_each(|((y, x), statistics)| {
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        let rows = y.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                        for ((y, x), statistics) in rows.zip(statistics) {
                            let (mean, rate) = moments(x, self.eps as f32);
                            *statistics = (mean, rate);
                            let affine = weight.iter().zip(bias);
                            for ((y, &x), (&weight, &bias)) in y.iter_mut().zip(x).zip(affine) {
                                *y = ((x - mean) * rate).mul_add(weight, bias);
                            }
                        }
                    },
                );
            });
        // A second forward of the same operation would find the same statistics.
        let _ = self.statistics.set(statistics);
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
        let gradient = gradient.contiguous()?;
        let channels = weight.elem_count();
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (guard, layout) = gradient.storage_and_layout();
        let values = Dense::locked(&x_guard, x_layout)?.values;
        let weights = Dense::locked(&weight_guard, weight_layout)?.values;
        let gradient = Dense::locked(&guard, layout)?.values;
        let gradient_if = |tracks: bool, compute: &dyn Fn() -> Vec<f32>, shape: &Shape| {
            tracks.then(|| cpu::tensor(compute(), shape)).transpose()
        };
        Ok((
            gradient_if(
                x.track_op(),
                &|| self.input_gradient(values, gradient, weights),
                x.shape(),
            )?,
            gradient_if(
                weight.track_op(),
                &|| self.weight_gradient(values, gradient, channels),
                weight.shape(),
            )?,
            gradient_if(bias.track_op(), &|| cpu::column_sums(gradient, channels), bias.shape())?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
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
            |t| layer_norm(&t[0].transpose(1, 2)?, &t[1], &t[2], 1e-5),
            |t| layer_norm_reference(&t[0].transpose(1, 2)?.contiguous()?, &t[1], &t[2], 1e-5),
        );
    }
}
