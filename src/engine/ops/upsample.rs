//! Nearest upsampling.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::traced::Traced;
use super::{cpu, cuda};

/// Doubles height and width by repetition (diffusers `Upsample2D` before its convolution).
pub fn upsample_nearest_2x(x: &Traced) -> Result<Traced> {
    if cuda::is_fast(&[x.tensor()]) {
        return cuda::upsample_nearest_2x(x);
    }
    if !cpu::is_fast(&[x.tensor()]) {
        return Traced::by_candle(&[x], |t| upsample_nearest_2x_reference(&t[0]));
    }
    let values = x.tensor().contiguous()?;
    let (batch, channels, height, width) = values.dims4()?;
    let y = repeated(cpu::values(&values).get()?, width);
    let y = cpu::tensor(y, &Shape::from((batch, channels, height * 2, width * 2)))?;
    let shape = values.shape().clone();
    Ok(Traced::result(y, &[x], move |gradient| {
        let dx = summed(cpu::values(gradient).get()?, width);
        Ok(vec![Some(cpu::tensor(dx, &shape)?)])
    }))
}

pub(super) fn upsample_nearest_2x_reference(x: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    x.reshape((batch, channels, height, 1, width, 1))?
        .broadcast_as((batch, channels, height, 2, width, 2))?
        .reshape((batch, channels, height * 2, width * 2))
}

/// Each value twice, each row of `width` values twice.
fn repeated(x: &[f32], width: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len() * 4];
    if width > 0 {
        let rows = cpu::rows_per_task(width);
        y.par_chunks_mut(rows * width * 4).zip(x.par_chunks(rows * width)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(4 * width).zip(x.chunks_exact(width)) {
                let (upper, lower) = y.split_at_mut(2 * width);
                for (pair, &x) in upper.chunks_exact_mut(2).zip(x) {
                    pair.fill(x);
                }
                lower.copy_from_slice(upper);
            }
        });
    }
    y
}

/// The sums of what [`repeated`] made of each value.
fn summed(gradient: &[f32], width: usize) -> Vec<f32> {
    let mut dx = vec![0.0; gradient.len() / 4];
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
    dx
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
    use super::*;

    #[test]
    fn upsampling_agrees_with_its_reference() {
        for shape in [[1, 3, 5, 7], [3, 5, 1, 2]] {
            let case = Case::new([values(&shape, 1)]);
            case.check(|t| upsample_nearest_2x(&t[0]), |t| upsample_nearest_2x_reference(&t[0]));
        }
        let case = Case::new([values(&[2, 5, 3, 4], 1)]);
        case.check(
            |t| upsample_nearest_2x(&view(&t[0], |t| t.transpose(1, 2))?),
            |t| upsample_nearest_2x_reference(&t[0].transpose(1, 2)?),
        );
    }
}
