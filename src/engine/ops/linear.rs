//! Affine maps of the last axis.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{self, Dense};

/// `x · weightᵀ + bias`.
///
/// # Shapes
/// `x: […, in]`, `weight: [out, in]`, `bias: [out]`, result `[…, out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        None if cpu::applies(&[x, weight]) => {
            x.contiguous()?.apply_op2(&weight.contiguous()?, Linear)
        }
        Some(bias) if cpu::applies(&[x, weight, bias]) => {
            x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)
        }
        bias => linear_reference(x, weight, bias),
    }
}

pub(super) fn linear_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let y = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    shape.push(weight.dim(0)?);
    y.reshape(shape)
}

/// See [`linear`]; the third argument, where there is one, is the bias.
#[derive(Debug, Clone, Copy)]
struct Linear;

impl Linear {
    fn forward(
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let mut shape = x_layout.dims().to_vec();
        if shape.pop() != Some(inputs) {
            bail!(
                "linear: x {:?} does not fit weight {:?}",
                x_layout.shape(),
                weight_layout.shape()
            );
        }
        let rows = shape.iter().product();
        shape.push(outputs);
        let x = Dense::new(x, x_layout)?.matrices(0, [0, inputs, 1]);
        let weight = Dense::new(weight, weight_layout)?.matrices(0, [0, 1, inputs]);
        let mut y = cpu::multiply(1, (rows, outputs, inputs), x, weight)?;
        if let Some((bias, layout)) = bias {
            let bias = Dense::new(bias, layout)?.values;
            if bias.len() != outputs {
                bail!(
                    "linear: bias {:?} does not fit weight {:?}",
                    layout.shape(),
                    weight_layout.shape()
                );
            }
            if outputs > 0 {
                y.par_chunks_mut(outputs * cpu::rows_per_task(outputs)).for_each(|rows| {
                    rows.chunks_exact_mut(outputs).for_each(|y| cpu::add(y, bias));
                });
            }
        }
        Ok((CpuStorage::F32(y), Shape::from(shape)))
    }

    fn backward(x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let gradient = gradient.contiguous()?;
        let (outputs, inputs) = weight.dims2()?;
        let rows = gradient.elem_count() / outputs.max(1);
        let (guard, layout) = gradient.storage_and_layout();
        let gradient = Dense::locked(&guard, layout)?;
        let dx = if x.track_op() {
            let (guard, layout) = weight.storage_and_layout();
            let weight = Dense::locked(&guard, layout)?.matrices(0, [0, inputs, 1]);
            let gradient = gradient.matrices(0, [0, outputs, 1]);
            let dx = cpu::multiply(1, (rows, inputs, outputs), gradient, weight)?;
            Some(cpu::tensor(dx, x.shape())?)
        } else {
            None
        };
        let dweight = if weight.track_op() {
            let (guard, layout) = x.storage_and_layout();
            let x = Dense::locked(&guard, layout)?.matrices(0, [0, inputs, 1]);
            let gradient = gradient.matrices(0, [0, 1, outputs]);
            let dweight = cpu::multiply(1, (outputs, inputs, rows), gradient, x)?;
            Some(cpu::tensor(dweight, weight.shape())?)
        } else {
            None
        };
        Ok([dx, dweight])
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dweight] = Self::backward(x, weight, gradient)?;
        Ok((dx, dweight))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        Self::forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dweight] = Self::backward(x, weight, gradient)?;
        let dbias = if bias.track_op() {
            let gradient = gradient.contiguous()?;
            let (guard, layout) = gradient.storage_and_layout();
            let sums = cpu::column_sums(Dense::locked(&guard, layout)?.values, bias.elem_count());
            Some(cpu::tensor(sums, bias.shape())?)
        } else {
            None
        };
        Ok((dx, dweight, dbias))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
    use super::*;

    #[test]
    fn linear_agrees_with_its_reference() {
        for (shape, inputs, outputs) in [(vec![1, 5], 5, 7), (vec![3, 11, 13], 13, 9)] {
            let case = Case::new([
                values(&shape, 1),
                values(&[outputs, inputs], 2),
                values(&[outputs], 3),
            ]);
            case.check(
                |t| linear(&t[0], &t[1], Some(&t[2])),
                |t| linear_reference(&t[0], &t[1], Some(&t[2])),
            );
            let case = Case::new([values(&shape, 1), values(&[outputs, inputs], 2)]);
            case.check(|t| linear(&t[0], &t[1], None), |t| linear_reference(&t[0], &t[1], None));
        }
    }

    #[test]
    fn linear_of_views() {
        let case = Case::new([values(&[6, 4, 3], 1), values(&[6, 5], 2), values(&[5], 3)]);
        case.check(
            |t| linear(&t[0].transpose(0, 2)?, &t[1].t()?, Some(&t[2])),
            |t| linear_reference(&t[0].transpose(0, 2)?, &t[1].t()?, Some(&t[2])),
        );
    }
}
