//! Linear layers: affine maps of the last axis.

use std::ops::Range;

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::addends::{self, Addends};
use super::cuda;
use crate::engine::kernels::cpu;
use crate::engine::kernels::product::{self, Columns, Matrices};
use crate::engine::kernels::weight::Weight;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

/// `x · weightᵀ` and what is added to it.
///
/// # Shapes
/// `x: […, in]`, `weight: [out, in]`, result `[…, out]`.
pub fn linear(x: &TapeTensor, weight: &TapeTensor, addends: Addends<'_>) -> Result<TapeTensor> {
    let arguments: Vec<&TapeTensor> = [x, weight].into_iter().chain(addends.given()).collect();
    let tensors: Vec<&Tensor> = arguments.iter().map(|argument| argument.tensor()).collect();
    let added = addends.followed();
    if let Some(y) = TapeTensor::sized(&arguments, || footprint(x, weight))? {
        return Ok(y);
    }
    if cuda::is_fast(&tensors) {
        return addends.added_to(cuda::linear(x, weight, addends.bias)?);
    }
    if !is_fast(&tensors) {
        let given = added.map(|addend| addend.is_some());
        return TapeTensor::via_candle_autograd(&arguments, move |t| linear_reference(t, given));
    }
    let followed = [x, weight].map(TapeTensor::is_followed);
    let operation = Linear { x: x.tensor().contiguous()?, weight: Weight::new(weight.tensor())? };
    let y = operation.forward(addends)?;
    let kept = operation.keep(followed);
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        let mut gradients = kept.backward(gradient)?;
        gradients.extend(addends::gradients_of_rows(added, gradient)?);
        Ok(gradients)
    }))
}

/// Whether the fast form of an affine map applies to its input, its weight, and what is added.
pub(super) fn is_fast(tensors: &[&Tensor]) -> bool {
    let [x, weight, addends @ ..] = tensors else {
        return false;
    };
    cpu::is_fast(&[x]) && Weight::is_fast(weight) && cpu::is_fast(addends)
}

/// Of the input, the weight and the addends that are given.
pub(super) fn linear_reference(t: &[Tensor], given: [bool; 3]) -> Result<Tensor> {
    let mut shape = t[0].dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    shape.push(t[1].dim(0)?);
    let mut y = t[0].reshape(((), inputs))?.matmul(&t[1].t()?)?.reshape(shape)?;
    if given[1] {
        bail!("linear: rows have no images that a shift could belong to");
    }
    for addend in &t[2..] {
        y = y.broadcast_add(addend)?;
    }
    Ok(y)
}

/// Rows below which a product is computed transposed, `weight · xᵀ`: otherwise all of the weight is arranged
/// for sums with so few of them that it takes longer than the sums.
const ROWS: usize = 512;
/// Rows and columns of a block, which stay in the fastest cache.
const BLOCK: usize = 16;

/// Adds a transposed product, `[part, rows]`, to columns of rows of `outputs` values.
fn add_transposed(y: &mut [f32], transposed: &[f32], outputs: usize, part: Range<usize>) {
    let rows = y.len() / outputs;
    y.par_chunks_mut(BLOCK * outputs).enumerate().for_each(|(task, y)| {
        let first = task * BLOCK;
        for column in (0..part.len()).step_by(BLOCK) {
            let count = BLOCK.min(part.len() - column);
            for (row, y) in y.chunks_exact_mut(outputs).enumerate() {
                let target = &mut y[part.start + column..][..count];
                let source = transposed[column * rows + first + row..].iter().step_by(rows);
                target.iter_mut().zip(source).for_each(|(y, sum)| *y += *sum);
            }
        }
    });
}

/// Of [`linear`].
fn footprint(x: &TapeTensor, weight: &TapeTensor) -> Result<Footprint> {
    let (outputs, inputs) = weight.tensor().dims2()?;
    let mut shape = x.tensor().dims().to_vec();
    if shape.pop() != Some(inputs) {
        bail!("linear: {:?} does not end in {inputs} features", x.tensor().shape());
    }
    let rows: usize = shape.iter().product();
    shape.push(outputs);
    let buffer = if rows < ROWS { (rows * outputs) as u64 } else { 0 };
    Ok(Footprint { buffer, ..footprint_of_products(shape, inputs, weight.is_followed()) })
}

/// Of an affine map to `shape` of so many inputs: a frozen weight's does not keep its input.
pub(super) fn footprint_of_products(
    shape: impl Into<Shape>,
    inputs: usize,
    weight_is_followed: bool,
) -> Footprint {
    let shape = shape.into();
    Footprint {
        multiplications: (shape.elem_count() * inputs) as u64,
        keeps: if weight_is_followed { vec![0] } else { Vec::new() },
        added_from: 2,
        ..Footprint::of(shape)
    }
}

/// See [`linear`].
#[derive(Debug)]
struct Linear {
    x: Tensor,
    weight: Weight,
}

/// What the gradients need, and no more: a frozen weight's layer does not keep its input.
#[derive(Debug)]
struct SavedForBackward {
    x: Option<Tensor>,
    weight: Option<Weight>,
    shapes: [Shape; 2],
}

impl Linear {
    fn forward(&self, addends: Addends) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.tensor().dims2()?;
        let mut shape = self.x.dims().to_vec();
        if shape.pop() != Some(inputs) {
            let shapes = [self.x.shape(), self.weight.tensor().shape()];
            bail!("linear: x and weight {shapes:?} do not fit");
        }
        let rows = shape.iter().product();
        shape.push(outputs);
        let shape = Shape::from(shape);
        let x = cpu::values(&self.x);
        let x_values = x.get()?;
        let x = Matrices::new(x_values, [0, inputs, 1]);
        let lies = rows < ROWS && outputs * inputs > 0;
        if !lies && addends.given().next().is_none() && self.weight.is_wide() {
            let y = self.weight.with_all(|weight| {
                let weight = Matrices::new(weight, [0, 1, inputs]);
                product::multiply(1, (rows, outputs, inputs), x, weight)
            })?;
            return cpu::tensor(y, &shape);
        }
        let mut y = addends.of_rows(&shape)?;
        if lies {
            let x = Matrices::new(x_values, [0, 1, inputs]);
            self.weight.for_each_part(None, |part, weight| {
                let weight = Matrices::new(weight, [0, inputs, 1]);
                let sizes = (part.len(), rows, inputs);
                let transposed = product::multiply_for_a_moment(1, sizes, weight, x)?;
                add_transposed(&mut y, &transposed, outputs, part);
                Ok(())
            })?;
        } else if !y.is_empty() && inputs > 0 {
            self.weight.for_each_part(None, |part, weight| {
                let columns = Columns { rows: &mut y, length: outputs, first: part.start };
                columns.add((rows, part.len(), inputs), x, Matrices::new(weight, [0, 1, inputs]))
            })?;
        }
        cpu::tensor(y, &shape)
    }

    fn keep(self, followed: [bool; 2]) -> SavedForBackward {
        let shapes = [self.x.shape().clone(), self.weight.tensor().shape().clone()];
        SavedForBackward {
            x: followed[1].then_some(self.x),
            weight: followed[0].then_some(self.weight),
            shapes,
        }
    }
}

impl SavedForBackward {
    /// The gradients of the input and of the weight.
    fn backward(self, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let [x_shape, weight_shape] = &self.shapes;
        let (outputs, inputs) = weight_shape.dims2()?;
        let rows = gradient.elem_count() / outputs.max(1);
        let gradient = cpu::values(gradient);
        let gradient = gradient.get()?;
        let mut gradients = vec![None; 2];
        if let Some(weight) = &self.weight {
            let mut dx = Vec::new();
            weight.for_each_part(None, |part, weight| {
                let weight = Matrices::new(weight, [0, inputs, 1]);
                let gradient = Matrices::new(&gradient[part.start..], [0, outputs, 1]);
                let sizes = (rows, inputs, part.len());
                if part.start == 0 {
                    dx = product::multiply(1, sizes, gradient, weight)?;
                    return Ok(());
                }
                product::add_products(&mut dx, sizes, gradient, weight)
            })?;
            gradients[0] = Some(cpu::tensor(dx, x_shape)?);
        }
        if let Some(x) = &self.x {
            let x = cpu::values(x);
            let x = Matrices::new(x.get()?, [0, inputs, 1]);
            let gradient = Matrices::new(gradient, [0, 1, outputs]);
            let dweight = product::multiply(1, (outputs, inputs, rows), gradient, x)?;
            gradients[1] = Some(cpu::tensor(dweight, weight_shape)?);
        }
        Ok(gradients)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::testing::{Case, values, view};
    use super::*;

    #[test]
    fn linear_agrees_with_its_reference() {
        const { assert!(3 * 11 < ROWS && 2 * 260 > ROWS) };
        for (shape, inputs, outputs) in
            [(vec![1, 5], 5, 7), (vec![3, 11, 13], 13, 39), (vec![2, 260, 13], 13, 9)]
        {
            let [x, weight] = [values(&shape, 1), values(&[outputs, inputs], 2)];
            let result = [&shape[..shape.len() - 1], &[outputs]].concat();
            let [bias, residual] = [values(&[outputs], 3), values(&result, 4)];
            Case::new([x.clone(), weight.clone(), bias.clone(), residual.clone()]).check(
                |t| {
                    let addends = Addends { bias: Some(&t[2]), residual: Some(&t[3]), shift: None };
                    linear(&t[0], &t[1], addends)
                },
                |t| linear_reference(t, [true, false, true]),
            );
            Case::new([x.clone(), weight.clone(), bias]).check(
                |t| linear(&t[0], &t[1], Addends::bias(&t[2])),
                |t| linear_reference(t, [true, false, false]),
            );
            Case::new([x.clone(), weight.clone(), residual]).check(
                |t| linear(&t[0], &t[1], Addends { residual: Some(&t[2]), ..Addends::default() }),
                |t| linear_reference(t, [false, false, true]),
            );
            Case::new([x, weight]).check(
                |t| linear(&t[0], &t[1], Addends::default()),
                |t| linear_reference(t, [false; 3]),
            );
        }
    }

    #[test]
    fn linear_of_views() {
        let case = Case::new([values(&[6, 4, 3], 1), values(&[6, 5], 2), values(&[5], 3)]);
        case.check(
            |t| {
                let (x, weight) = (view(&t[0], |t| t.transpose(0, 2))?, view(&t[1], Tensor::t)?);
                linear(&x, &weight, Addends::bias(&t[2]))
            },
            |t| {
                let arguments = [t[0].transpose(0, 2)?.contiguous()?, t[1].t()?, t[2].clone()];
                linear_reference(&arguments, [true, false, false])
            },
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let traced = |shape: &[usize]| TapeTensor::constant(&values(shape, 1));
        let (x, weight, wrong) = (traced(&[4, 6]), traced(&[3, 6]), traced(&[4]));
        assert!(linear(&x, &weight, Addends::bias(&wrong)).is_err());
        let residual = Addends { residual: Some(&x), ..Addends::default() };
        assert!(linear(&x, &weight, residual).is_err());
        let (right, shift) = (traced(&[3]), traced(&[4, 3]));
        assert!(linear(&x, &weight, Addends::bias(&right)).is_ok());
        let shift = Addends { shift: Some(&shift), ..Addends::bias(&right) };
        assert!(linear(&x, &weight, shift).is_err());
    }

    #[test]
    fn a_frozen_weight_of_half_precision_is_widened() {
        let [weight, bias] = [values(&[70, 40], 2), values(&[70], 3)];
        for (dtype, rows) in [(DType::F16, 15), (DType::BF16, 15), (DType::F16, ROWS + 1)] {
            let x = values(&[1, rows, 40], 1);
            let half = weight.to_dtype(dtype).unwrap();
            let wide = half.to_dtype(DType::F32).unwrap();
            Case::new([x.clone(), bias.clone()]).check(
                |t| linear(&t[0], &TapeTensor::constant(&half), Addends::bias(&t[1])),
                |t| {
                    let wide = wide.to_dtype(t[0].dtype())?;
                    linear_reference(&[t[0].clone(), wide, t[1].clone()], [true, false, false])
                },
            );
        }
    }
}
