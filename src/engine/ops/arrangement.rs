//! Concatenation, reshape, transpose, padding, and sums with constants.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::engine::kernels::cpu;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

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
    use super::super::testing::{Case, values};
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
        let constant = values(&[4, 5], 2);
        let case = Case::new([values(&[2, 4, 5], 1)]);
        case.check_with(
            std::slice::from_ref(&constant),
            |t| add_constant(&t[0], t[1].tensor()),
            |t| t[0].broadcast_add(&t[1]),
        );
        for shape in [[1, 1, 1], [2, 3, 5], [1, 40, 33], [3, 16, 64], [2, 65, 15]] {
            let case = Case::new([values(&shape, 1)]);
            case.check(|t| transpose(&t[0]), |t| t[0].transpose(1, 2)?.contiguous());
        }
    }
}
