//! Nearest upsampling.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{self, Dense};

/// Doubles height and width by repetition (diffusers `Upsample2D` before its convolution).
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    if !cpu::applies(&[x]) {
        return upsample_nearest_2x_reference(x);
    }
    x.contiguous()?.apply_op1(Upsample)
}

pub(super) fn upsample_nearest_2x_reference(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    x.reshape((batch, channels, height, 1, width, 1))?
        .broadcast_as((batch, channels, height, 2, width, 2))?
        .reshape((batch, channels, height * 2, width * 2))
}

/// See [`upsample_nearest_2x`].
#[derive(Debug, Clone, Copy)]
struct Upsample;

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample_nearest_2x"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Dense::new(storage, layout)?.values;
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let mut y = vec![0.0; x.len() * 4];
        if width > 0 {
            let rows = cpu::rows_per_task(width);
            y.par_chunks_mut(rows * width * 4).zip(x.par_chunks(rows * width)).for_each(
                |(y, x)| {
                    for (y, x) in y.chunks_exact_mut(4 * width).zip(x.chunks_exact(width)) {
                        let (upper, lower) = y.split_at_mut(2 * width);
                        for (pair, &x) in upper.chunks_exact_mut(2).zip(x) {
                            pair.fill(x);
                        }
                        lower.copy_from_slice(upper);
                    }
                },
            );
        }
        Ok((CpuStorage::F32(y), Shape::from((batch, channels, height * 2, width * 2))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (guard, layout) = gradient.storage_and_layout();
        let gradient = Dense::locked(&guard, layout)?.values;
        let width = x.dims4()?.3;
        let mut dx = vec![0.0; x.elem_count()];
        if width > 0 {
            let rows = cpu::rows_per_task(width);
            let inputs = gradient.par_chunks(rows * width * 4);
            dx.par_chunks_mut(rows * width).zip(inputs).for_each(|(dx, g)| {
                for (dx, g) in dx.chunks_exact_mut(width).zip(g.chunks_exact(4 * width)) {
                    let (upper, lower) = g.split_at(2 * width);
                    let pairs = upper.chunks_exact(2).zip(lower.chunks_exact(2));
                    for (dx, (upper, lower)) in dx.iter_mut().zip(pairs) {
                        *dx = (upper[0] + upper[1]) + (lower[0] + lower[1]);
                    }
                }
            });
        }
        Ok(Some(cpu::tensor(dx, x.shape())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
    use super::*;

    #[test]
    fn upsampling_agrees_with_its_reference() {
        for shape in [[1, 3, 5, 7], [3, 5, 1, 2]] {
            let case = Case::new([values(&shape, 1)]);
            case.check(|t| upsample_nearest_2x(&t[0]), |t| upsample_nearest_2x_reference(&t[0]));
        }
        let case = Case::new([values(&[2, 5, 3, 4], 1)]);
        case.check(
            |t| upsample_nearest_2x(&t[0].transpose(1, 2)?),
            |t| upsample_nearest_2x_reference(&t[0].transpose(1, 2)?),
        );
    }
}
