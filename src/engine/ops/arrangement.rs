//! Sums, and changes of order and shape.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use candle_core::{DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::traced::Traced;
use super::{cpu, cuda};

/// The sum of two tensors of one shape.
pub fn add(a: &Traced, b: &Traced) -> Result<Traced> {
    let y = plus(a.tensor(), b.tensor())?;
    let followed = [a.is_followed(), b.is_followed()];
    Ok(Traced::result(y, &[a, b], move |gradient| {
        Ok(followed.map(|followed| followed.then(|| gradient.clone())).into())
    }))
}

/// `a + b` of one shape.
pub(super) fn plus(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !cpu::is_fast(&[a, b]) || a.shape() != b.shape() {
        return a + b;
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let sum = cpu::map_pairs(
        cpu::values(&a).get()?,
        cpu::values(&b).get()?,
        #[inline(always)]
        |a, b| a + b,
    );
    cpu::tensor(sum, a.shape())
}

/// The sum of gradients of one shape, in their order.
///
/// Fails where there is none.
pub fn total(parts: &[Tensor]) -> Result<Tensor> {
    let Some((first, rest)) = parts.split_first() else {
        bail!("the sum of no gradients has no shape");
    };
    let mut sum = first.clone();
    for part in rest {
        sum = plus(&sum, part)?;
    }
    Ok(sum)
}

/// The sum of the squares of all values.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if cuda::is_fast(&[x]) {
        return Ok(cuda::squares(&[x])?.into_iter().sum());
    }
    if !cpu::is_fast(&[x]) {
        return Ok(f64::from(x.sqr()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?));
    }
    let x = x.contiguous()?;
    let x = cpu::values(&x);
    let x = x.get()?;
    Ok(f64::from(cpu::vectorised(
        #[inline(always)]
        || super::exponential::sum(x, |x| x * x),
    )))
}

/// [`sum_of_squares`] of each, which takes a device one answer and not one a tensor.
pub fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    if cuda::is_fast(tensors) {
        return cuda::squares(tensors);
    }
    tensors.par_iter().map(|tensor| sum_of_squares(tensor)).collect()
}

/// Adds a value a channel to each image.
///
/// # Shapes
/// `x: [batch, channels, height, width]`, `shift: [batch, channels]`.
pub fn add_to_channels(x: &Traced, shift: &Traced) -> Result<Traced> {
    let (batch, channels, height, width) = x.tensor().dims4()?;
    if shift.tensor().dims() != [batch, channels] {
        bail!("add_to_channels: {:?} to {:?}", shift.tensor().shape(), x.tensor().shape());
    }
    if cuda::is_fast(&[x.tensor(), shift.tensor()]) {
        return cuda::add_to_channels(x, shift);
    }
    if !cpu::is_fast(&[x.tensor(), shift.tensor()]) {
        return Traced::by_candle(&[x, shift], move |t| {
            t[0].broadcast_add(&t[1].reshape((batch, channels, 1, 1))?)
        });
    }
    let y = shifted(x.tensor(), shift.tensor(), height * width)?;
    let followed = [x.is_followed(), shift.is_followed()];
    Ok(Traced::result(y, &[x, shift], move |gradient| {
        let dx = followed[0].then(|| gradient.clone());
        let sums = || {
            let sums = cpu::row_sums(cpu::values(gradient).get()?, height * width);
            cpu::tensor(sums, &Shape::from((batch, channels)))
        };
        Ok(vec![dx, followed[1].then(sums).transpose()?])
    }))
}

/// Adds to each plane of `x` the value that belongs to it.
fn shifted(x: &Tensor, shift: &Tensor, plane: usize) -> Result<Tensor> {
    let (x, shift) = (x.contiguous()?, shift.contiguous()?);
    let [values, shifts] = [&x, &shift].map(cpu::values);
    let (values, shifts) = (values.get()?, shifts.get()?);
    let mut y = vec![0.0; values.len()];
    if plane > 0 {
        let rows = cpu::rows_per_task(plane);
        let inputs = values.par_chunks(rows * plane).zip(shifts.par_chunks(rows));
        y.par_chunks_mut(rows * plane).zip(inputs).for_each(|(y, (x, shifts))| {
            cpu::vectorised(
                #[inline(always)]
                || {
                    let planes = y.chunks_exact_mut(plane).zip(x.chunks_exact(plane));
                    for ((y, x), shift) in planes.zip(shifts) {
                        for (y, x) in y.iter_mut().zip(x) {
                            *y = x + shift;
                        }
                    }
                },
            );
        });
    }
    cpu::tensor(y, x.shape())
}

/// Joins two tensors along their second axis.
pub fn concatenate_channels(a: &Traced, b: &Traced) -> Result<Traced> {
    let y = Tensor::cat(&[a.tensor(), b.tensor()], 1)?;
    let (first, second) = (a.tensor().dim(1)?, b.tensor().dim(1)?);
    let followed = [a.is_followed(), b.is_followed()];
    Ok(Traced::result(y, &[a, b], move |gradient| {
        let part = |start, length| gradient.narrow(1, start, length)?.contiguous();
        Ok(vec![
            followed[0].then(|| part(0, first)).transpose()?,
            followed[1].then(|| part(first, second)).transpose()?,
        ])
    }))
}

/// The same values in another shape.
pub fn reshape(x: &Traced, shape: impl Into<Shape>) -> Result<Traced> {
    let before = x.tensor().shape().clone();
    let y = x.tensor().reshape(shape.into())?;
    Ok(Traced::result(y, &[x], move |gradient| Ok(vec![Some(gradient.reshape(before)?)])))
}

/// Adds a row of zeros below and a column of zeros to the right.
///
/// # Shapes
/// `[batch, channels, h, w]` to `[batch, channels, h + 1, w + 1]`.
pub fn pad_right_and_bottom(x: &Traced) -> Result<Traced> {
    let y = x.tensor().pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
    let (_, _, height, width) = x.tensor().dims4()?;
    Ok(Traced::result(y, &[x], move |gradient| {
        Ok(vec![Some(gradient.narrow(2, 0, height)?.narrow(3, 0, width)?.contiguous()?)])
    }))
}

/// Swaps the last two axes of three.
pub fn transpose(x: &Traced) -> Result<Traced> {
    let y = transposed(x.tensor())?;
    Ok(Traced::result(y, &[x], |gradient| Ok(vec![Some(transposed(gradient)?)])))
}

/// Rows and columns of a block, which stay in the fastest cache.
const BLOCK: usize = 16;

fn transposed(x: &Tensor) -> Result<Tensor> {
    if !cpu::is_fast(&[x]) {
        return x.transpose(1, 2)?.contiguous();
    }
    let (batch, rows, columns) = x.dims3()?;
    let x = x.contiguous()?;
    let values = cpu::values(&x);
    let values = values.get()?;
    let mut y = vec![0.0; values.len()];
    if !y.is_empty() {
        // A task makes some rows of the result, which are columns of the input.
        let at_once = BLOCK.min(columns);
        for (x, y) in values.chunks_exact(rows * columns).zip(y.chunks_exact_mut(rows * columns)) {
            let tasks = y.par_chunks_mut(at_once * rows).enumerate();
            tasks.with_min_len(cpu::rows_per_task(at_once * rows)).for_each(|(task, y)| {
                let first = task * at_once;
                for (block, x) in x.chunks(BLOCK * columns).enumerate() {
                    for (column, y) in y.chunks_exact_mut(rows).enumerate() {
                        let target = &mut y[block * BLOCK..];
                        let source = x[first + column..].iter().step_by(columns);
                        target.iter_mut().zip(source).for_each(|(y, x)| *y = *x);
                    }
                }
            });
        }
    }
    cpu::tensor(y, &Shape::from((batch, columns, rows)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, bytes, values};
    use super::*;

    #[test]
    fn sums_agree_with_candle() {
        let case = Case::new([values(&[2, 3, 5], 1), values(&[2, 3, 5], 2)]);
        case.check(|t| add(&t[0], &t[1]), |t| &t[0] + &t[1]);
        let case = Case::new([values(&[2, 3, 4, 5], 1), values(&[2, 3], 2)]);
        case.check(
            |t| add_to_channels(&t[0], &t[1]),
            |t| t[0].broadcast_add(&t[1].reshape((2, 3, 1, 1))?),
        );
    }

    #[test]
    fn arrangements_agree_with_candle() {
        let case = Case::new([values(&[2, 3, 4, 5], 1), values(&[2, 2, 4, 5], 2)]);
        case.check(|t| concatenate_channels(&t[0], &t[1]), |t| Tensor::cat(t, 1));
        let case = Case::new([values(&[2, 3, 4, 5], 1)]);
        case.check(|t| reshape(&t[0], (2, 3, 20)), |t| t[0].reshape((2, 3, 20)));
        let case = Case::new([values(&[2, 3, 4, 5], 1)]);
        case.check(
            |t| pad_right_and_bottom(&t[0]),
            |t| t[0].pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1),
        );
        for shape in [[1, 1, 1], [2, 3, 5], [1, 40, 33], [3, 16, 64], [2, 65, 15]] {
            let case = Case::new([values(&shape, 1)]);
            case.check(|t| transpose(&t[0]), |t| t[0].transpose(1, 2)?.contiguous());
        }
    }

    #[test]
    fn totals_and_squares_are_candles() {
        let parts = [1, 2, 3].map(|seed| values(&[5, 7], seed));
        let sum = total(&parts).unwrap();
        let right = ((&parts[0] + &parts[1]).unwrap() + &parts[2]).unwrap();
        assert_eq!(bytes(&sum), bytes(&right));
        assert!(total(&[]).is_err());
        let double = sum.to_dtype(DType::F64).unwrap();
        let right = double.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        for x in [&sum, &double] {
            assert!((sum_of_squares(x).unwrap() / right - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_shift_of_another_shape_is_refused() {
        let x = Traced::constant(&values(&[2, 3, 4, 5], 1));
        assert!(add_to_channels(&x, &Traced::constant(&values(&[3, 2], 1))).is_err());
    }
}
