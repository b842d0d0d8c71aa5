//! Nearest upsampling.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use crate::engine::kernels::cpu;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

/// Doubles height and width by repetition, or leaves out the last row or column of that (diffusers
/// `Upsample2D` before its convolution, without and with its `output_size`).
///
/// A side of a result may be odd, since a strided convolution halves upwards. There the rule of
/// PyTorch, `floor(i * n / (2 n - 1))`, is `floor(i / 2)`, as it is where the side is even.
///
/// # Shapes
/// `x: [batch, channels, h, w]`, result `[batch, channels, height, width]` with `height` of `2 h`
/// or `2 h - 1`, and `width` alike.
pub fn upsample_nearest(x: &TapeTensor, [height, width]: [usize; 2]) -> Result<TapeTensor> {
    let (batch, channels, from_height, from_width) = x.tensor().dims4()?;
    if [height.div_ceil(2), width.div_ceil(2)] != [from_height, from_width] {
        bail!("{from_height} x {from_width} do not double to {height} x {width}");
    }
    let footprint = || Ok(Footprint::of((batch, channels, height, width)));
    if let Some(y) = TapeTensor::sized(&[x], footprint)? {
        return Ok(y);
    }
    if cuda::is_fast(&[x.tensor()]) {
        let doubled = cuda::upsample_nearest_2x(x)?;
        if [height, width] == [2 * from_height, 2 * from_width] {
            return Ok(doubled);
        }
        let left_out = [2 * from_height - height, 2 * from_width - width];
        let kept = doubled.tensor().narrow(2, 0, height)?.narrow(3, 0, width)?.contiguous()?;
        return Ok(TapeTensor::result(kept, &[&doubled], move |gradient| {
            let padded = gradient.pad_with_zeros(2, 0, left_out[0])?;
            Ok(vec![Some(padded.pad_with_zeros(3, 0, left_out[1])?.contiguous()?)])
        }));
    }
    if !cpu::is_fast(&[x.tensor()]) {
        return TapeTensor::via_candle_autograd(&[x], move |t| {
            upsample_nearest_reference(&t[0], [height, width])
        });
    }
    let values = x.tensor().contiguous()?;
    let sizes = Sizes { from: [from_height, from_width], to: [height, width] };
    let y = sizes.repeated(cpu::values(&values).get()?);
    let y = cpu::tensor(y, &Shape::from((batch, channels, height, width)))?;
    let shape = values.shape().clone();
    Ok(TapeTensor::result(y, &[x], move |gradient| {
        let dx = sizes.summed(cpu::values(gradient).get()?);
        Ok(vec![Some(cpu::tensor(dx, &shape)?)])
    }))
}

/// PyTorch's rule as it is written, `floor(i * from / to)`.
pub(super) fn upsample_nearest_reference(x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let mut y = x.clone();
    for (axis, to) in [2, 3].into_iter().zip(size) {
        let from = x.dim(axis)?;
        let sources: Vec<u32> = (0..to).map(|i| (i * from / to) as u32).collect();
        y = y.contiguous()?.index_select(&Tensor::new(sources, x.device())?, axis)?;
    }
    Ok(y)
}

/// Height and width of a plane and of what it is repeated to.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    from: [usize; 2],
    to: [usize; 2],
}

impl Sizes {
    /// Values of the planes that a task takes, before and after.
    fn task(self) -> [usize; 2] {
        let [height, width] = self.from;
        let planes = (cpu::rows_per_task(width) / height.max(1)).max(1);
        [self.from, self.to].map(|[height, width]| planes * height * width)
    }

    /// Each value twice, each row twice, but for what the result has no room for.
    fn repeated(self, x: &[f32]) -> Vec<f32> {
        let ([height, width], [to_height, to_width]) = (self.from, self.to);
        if x.is_empty() {
            return Vec::new();
        }
        let mut y = vec![0.0; x.len() / (height * width) * to_height * to_width];
        let [read, written] = self.task();
        y.par_chunks_mut(written).zip(x.par_chunks(read)).for_each(|(y, x)| {
            let planes = y.chunks_exact_mut(to_height * to_width);
            for (y, x) in planes.zip(x.chunks_exact(height * width)) {
                for (y, x) in y.chunks_mut(2 * to_width).zip(x.chunks_exact(width)) {
                    let (upper, lower) = y.split_at_mut(to_width);
                    let mut pairs = upper.chunks_exact_mut(2);
                    for (pair, &x) in pairs.by_ref().zip(x) {
                        pair.fill(x);
                    }
                    if let ([last], Some(&x)) = (pairs.into_remainder(), x.last()) {
                        *last = x;
                    }
                    lower.copy_from_slice(&upper[..lower.len()]);
                }
            }
        });
        y
    }

    /// The sums of what [`Self::repeated`] made of each value.
    fn summed(self, gradient: &[f32]) -> Vec<f32> {
        let ([height, width], [to_height, to_width]) = (self.from, self.to);
        if gradient.is_empty() {
            return Vec::new();
        }
        let mut dx = vec![0.0; gradient.len() / (to_height * to_width) * height * width];
        let [written, read] = self.task();
        dx.par_chunks_mut(written).zip(gradient.par_chunks(read)).for_each(|(dx, g)| {
            let planes = dx.chunks_exact_mut(height * width);
            for (dx, g) in planes.zip(g.chunks_exact(to_height * to_width)) {
                for (dx, g) in dx.chunks_exact_mut(width).zip(g.chunks(2 * to_width)) {
                    let (upper, lower) = g.split_at(to_width);
                    if lower.is_empty() {
                        for (dx, upper) in dx.iter_mut().zip(upper.chunks(2)) {
                            *dx = upper.iter().sum();
                        }
                        continue;
                    }
                    let pairs = upper.chunks_exact(2).zip(lower.chunks_exact(2));
                    for (dx, (upper, lower)) in dx.iter_mut().zip(pairs) {
                        *dx = (upper[0] + upper[1]) + (lower[0] + lower[1]);
                    }
                    if !to_width.is_multiple_of(2) {
                        dx[width - 1] = upper[to_width - 1] + lower[to_width - 1];
                    }
                }
            }
        });
        dx
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
    use super::*;

    fn check(shape: &[usize; 4], size: [usize; 2]) {
        let case = Case::new([values(shape, 1)]);
        case.check(|t| upsample_nearest(&t[0], size), |t| upsample_nearest_reference(&t[0], size));
    }

    #[test]
    fn upsampling_agrees_with_its_reference() {
        for shape in [[1, 3, 5, 7], [3, 5, 1, 2]] {
            check(&shape, [2 * shape[2], 2 * shape[3]]);
        }
        let case = Case::new([values(&[2, 5, 3, 4], 1)]);
        case.check(
            |t| upsample_nearest(&view(&t[0], |t| t.transpose(1, 2))?, [10, 8]),
            |t| upsample_nearest_reference(&t[0].transpose(1, 2)?, [10, 8]),
        );
    }

    #[test]
    fn a_side_may_be_one_less_than_double() {
        for size in [[9, 14], [10, 13], [9, 13]] {
            check(&[2, 3, 5, 7], size);
        }
        for (shape, size) in
            [([3, 2, 1, 1], [1, 1]), ([1, 2, 1, 3], [2, 5]), ([1, 2, 3, 1], [5, 1])]
        {
            check(&shape, size);
        }
        // Several tasks of several planes.
        check(&[3, 40, 9, 9], [17, 17]);
        let x = TapeTensor::constant(&values(&[1, 1, 3, 3], 1));
        for size in [[4, 6], [6, 7], [6, 3]] {
            let refused = upsample_nearest(&x, size).unwrap_err().to_string();
            assert!(refused.contains("3 x 3 do not double to"), "{refused}");
        }
    }
}
