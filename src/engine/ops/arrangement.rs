//! Sums, and changes of order and shape.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use candle_core::{DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::Values;
use super::fresh;
use super::dry_run::Footprint;
use super::tape::TapeTensor;
use super::{cpu, cuda};

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
    )?;
    cpu::tensor(sum, a.shape())
}

/// The sum of gradients of one shape, in their order.
///
/// Fails where there is none.
pub fn total(parts: &[Tensor]) -> Result<Tensor> {
    let Some((first, rest)) = parts.split_first() else {
        bail!("the sum of no gradients has no shape");
    };
    let tensors: Vec<&Tensor> = parts.iter().collect();
    if rest.is_empty() || !cpu::is_fast(&tensors) {
        return rest.iter().try_fold(first.clone(), |sum, part| sum + part);
    }
    if rest.iter().any(|part| part.shape() != first.shape()) {
        bail!("the sum of gradients of several shapes, of which the first is {:?}", first.shape());
    }
    let parts = parts.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let parts: Vec<_> = parts.iter().map(cpu::values).collect();
    let parts = parts.iter().map(Values::get).collect::<Result<Vec<_>>>()?;
    let sum = fresh::written(first.elem_count(), cpu::CHUNK, |task, sum| {
        let start = task * cpu::CHUNK;
        let sum = sum.next(parts[0][start..].iter().copied());
        for part in &parts[1..] {
            cpu::add(sum, &part[start..]);
        }
    })?;
    cpu::tensor(sum, first.shape())
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

/// Joins two tensors along their second axis.
pub fn concatenate_channels(a: &TapeTensor, b: &TapeTensor) -> Result<TapeTensor> {
    let footprint = || {
        let mut shape = a.tensor().dims().to_vec();
        shape[1] = a.tensor().dim(1)? + b.tensor().dim(1)?;
        Ok(Footprint::of(shape))
    };
    if let Some(y) = TapeTensor::sized(&[a, b], footprint)? {
        return Ok(y);
    }
    let y = Tensor::cat(&[a.tensor(), b.tensor()], 1)?;
    let (first, second) = (a.tensor().dim(1)?, b.tensor().dim(1)?);
    let followed = [a.is_followed(), b.is_followed()];
    Ok(TapeTensor::result(y, &[a, b], move |gradient| {
        let part = |start, length| gradient.narrow(1, start, length)?.contiguous();
        Ok(vec![
            followed[0].then(|| part(0, first)).transpose()?,
            followed[1].then(|| part(first, second)).transpose()?,
        ])
    }))
}

/// The sum with a tensor that no gradient is wanted for, of the shape of the last axes.
pub fn add_constant(x: &TapeTensor, constant: &Tensor) -> Result<TapeTensor> {
    let shape = x.tensor().shape();
    let footprint = || Ok(Footprint { added_from: 0, ..Footprint::of(shape) });
    if let Some(y) = TapeTensor::sized(&[x], footprint)? {
        return Ok(y);
    }
    let y = x.tensor().broadcast_add(&constant.detach())?;
    if y.shape() != shape {
        bail!("add_constant: {:?} does not fit {shape:?}", constant.shape());
    }
    Ok(TapeTensor::result(y, &[x], |gradient| Ok(vec![Some(gradient.clone())])))
}

/// The same values in another type; the gradient comes back in the argument's own.
pub fn cast(x: &TapeTensor, dtype: DType) -> Result<TapeTensor> {
    let before = x.tensor().dtype();
    if before == dtype {
        return Ok(x.clone());
    }
    if let Some(y) = TapeTensor::sized(&[x], || Ok(Footprint::of(x.tensor().shape())))? {
        return Ok(y);
    }
    let y = x.tensor().to_dtype(dtype)?;
    Ok(TapeTensor::result(y, &[x], move |gradient| Ok(vec![Some(gradient.to_dtype(before)?)])))
}

/// The same values in another shape.
pub fn reshape(x: &TapeTensor, shape: impl Into<Shape>) -> Result<TapeTensor> {
    let before = x.tensor().shape().clone();
    let shape = shape.into();
    if shape.elem_count() != before.elem_count() {
        bail!("{before:?} has other than the numbers of {shape:?}");
    }
    let footprint = || Ok(Footprint { shares: Some(0), ..Footprint::of(shape.clone()) });
    if let Some(y) = TapeTensor::sized(&[x], footprint)? {
        return Ok(y);
    }
    let y = x.tensor().reshape(shape)?;
    Ok(TapeTensor::result(y, &[x], move |gradient| Ok(vec![Some(gradient.reshape(before)?)])))
}

/// Adds a row of zeros below and a column of zeros to the right.
///
/// # Shapes
/// `[batch, channels, h, w]` to `[batch, channels, h + 1, w + 1]`.
pub fn pad_right_and_bottom(x: &TapeTensor) -> Result<TapeTensor> {
    let (batch, channels, height, width) = x.tensor().dims4()?;
    let footprint = || Ok(Footprint::of((batch, channels, height + 1, width + 1)));
    if let Some(y) = TapeTensor::sized(&[x], footprint)? {
        return Ok(y);
    }
    let y = x.tensor().pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
    Ok(TapeTensor::result(y, &[x], move |gradient| {
        Ok(vec![Some(gradient.narrow(2, 0, height)?.narrow(3, 0, width)?.contiguous()?)])
    }))
}

/// Swaps the last two axes of three.
pub fn transpose(x: &TapeTensor) -> Result<TapeTensor> {
    let (batch, rows, columns) = x.tensor().dims3()?;
    let footprint = || Ok(Footprint::of((batch, columns, rows)));
    if let Some(y) = TapeTensor::sized(&[x], footprint)? {
        return Ok(y);
    }
    let y = transposed(x.tensor())?;
    Ok(TapeTensor::result(y, &[x], |gradient| Ok(vec![Some(transposed(gradient)?)])))
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
        assert!(total(&[values(&[5, 7], 1), values(&[7, 5], 1)]).is_err());
        assert_eq!(bytes(&total(&parts[..1]).unwrap()), bytes(&parts[0]));
        let double = sum.to_dtype(DType::F64).unwrap();
        let right = double.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        for x in [&sum, &double] {
            assert!((sum_of_squares(x).unwrap() / right - 1.0).abs() < 1e-6);
        }
    }
}
