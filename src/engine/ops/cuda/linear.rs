//! Affine maps: products by cuBLAS, biases by a kernel in place.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    cast,
    sums::{add_vector, column_sums, plane_sums},
};
use crate::engine::tape::TapeTensor;

/// See [`crate::engine::ops::linear`].
pub(in super::super) fn linear(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: Option<&TapeTensor>,
) -> Result<TapeTensor> {
    let weight = cast(weight, x.tensor().dtype())?;
    let bias = bias.map(|bias| cast(bias, DType::F32)).transpose()?;
    let arguments: Vec<&TapeTensor> = [x, &weight].into_iter().chain(bias.as_ref()).collect();
    let shape = x.tensor().shape().clone();
    let (outputs, inputs) = weight.tensor().dims2()?;
    let mut dims = shape.dims().to_vec();
    if dims.pop() != Some(inputs) {
        bail!("linear: x {shape:?} does not fit weight {:?}", weight.tensor().shape());
    }
    dims.push(outputs);
    let rows = x.tensor().reshape(((), inputs))?.contiguous()?;
    let matrix = weight.tensor().contiguous()?;
    let y = rows.matmul(&matrix.t()?)?;
    if let Some(bias) = &bias {
        fits(bias.tensor(), outputs)?;
        add_vector(&y, bias.tensor(), 1)?;
    }
    let followed: Vec<bool> = arguments.iter().map(|argument| argument.is_followed()).collect();
    // A frozen weight's layer does not keep its input.
    let rows = followed[1].then_some(rows);
    let matrix = followed[0].then_some(matrix);
    Ok(TapeTensor::result(y.reshape(dims)?, &arguments, move |gradient| {
        let gradient = gradient.reshape(((), outputs))?;
        let dx = matrix.map(|matrix| gradient.matmul(&matrix)?.reshape(shape)).transpose()?;
        let dweight = rows.map(|rows| gradient.t()?.matmul(&rows)).transpose()?;
        let mut gradients = vec![dx, dweight];
        if let Some(followed) = followed.get(2) {
            let sums = followed.then(|| column_sums(&gradient, outputs));
            gradients.push(sums.transpose()?);
        }
        Ok(gradients)
    }))
}

fn fits(bias: &Tensor, outputs: usize) -> Result<()> {
    if bias.dims() != [outputs] {
        bail!("a bias of {:?} does not fit {outputs} outputs", bias.shape());
    }
    Ok(())
}

/// See [`crate::engine::ops::linear_from_planes`].
pub(in super::super) fn linear_from_planes(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: &TapeTensor,
) -> Result<TapeTensor> {
    between_planes(x, weight, bias, true)
}

/// See [`crate::engine::ops::linear_to_planes`].
pub(in super::super) fn linear_to_planes(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: &TapeTensor,
) -> Result<TapeTensor> {
    between_planes(x, weight, bias, false)
}

/// `[batch, in, pixels]` to `[batch, pixels, out]` where `from` planes, else the other way around.
fn between_planes(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: &TapeTensor,
    from: bool,
) -> Result<TapeTensor> {
    let weight = cast(weight, x.tensor().dtype())?;
    let bias = cast(bias, DType::F32)?;
    let arguments = [x, &weight, &bias];
    let (batch, second, third) = x.tensor().dims3()?;
    let (inputs, pixels) = if from { (second, third) } else { (third, second) };
    let weight_shape = weight.tensor().shape().clone();
    let outputs = match weight_shape.dims() {
        [outputs, of] | [outputs, of, 1, 1] if *of == inputs => *outputs,
        other => bail!("a map of {inputs} channels to or from planes by a weight of {other:?}"),
    };
    fits(bias.tensor(), outputs)?;
    let x = x.tensor().contiguous()?;
    let matrix = weight.tensor().contiguous()?.reshape((outputs, inputs))?;
    let y = if from {
        times(&x.transpose(1, 2)?, &matrix.t()?)?
    } else {
        repeated(&matrix, batch)?.matmul(&x.transpose(1, 2)?)?
    };
    add_vector(&y, bias.tensor(), if from { 1 } else { pixels })?;
    let followed = arguments.map(TapeTensor::is_followed);
    let x = followed[1].then_some(x);
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        // `[batch, out, pixels]` or its transpose.
        let input_gradient = || {
            if from {
                repeated(&matrix.t()?, batch)?.matmul(&gradient.transpose(1, 2)?)
            } else {
                times(&gradient.transpose(1, 2)?, &matrix)
            }
        };
        let weight_gradient = |x: Tensor| {
            let each = if from {
                gradient.transpose(1, 2)?.matmul(&x.transpose(1, 2)?)?
            } else {
                gradient.matmul(&x)?
            };
            over_batch(&each)?.reshape(&weight_shape)
        };
        let bias_gradient = || {
            if from {
                column_sums(gradient, outputs)
            } else {
                column_sums(&plane_sums(gradient, batch * outputs)?, outputs)
            }
        };
        Ok(vec![
            followed[0].then(input_gradient).transpose()?,
            x.map(weight_gradient).transpose()?,
            followed[2].then(bias_gradient).transpose()?,
        ])
    }))
}

/// Each image's matrix times one that all share.
fn times(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let matrix = repeated(matrix, x.dim(0)?)?;
    if x.device().is_cuda() {
        return x.matmul(&matrix);
    }
    // In the tests: candle's product in host memory takes transposed images for one tall matrix where
    // the other operand is repeated. cuBLAS is given each image's place.
    x.matmul(&matrix.contiguous()?)
}

/// A matrix for each image, without a copy.
pub(super) fn repeated(matrix: &Tensor, batch: usize) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    matrix.unsqueeze(0)?.broadcast_as((batch, rows, columns))
}

/// The sum over the first axis, taken in f32 and rounded once.
pub(super) fn over_batch(each: &Tensor) -> Result<Tensor> {
    if each.dim(0)? == 1 {
        return each.squeeze(0);
    }
    each.to_dtype(DType::F32)?.sum(0)?.to_dtype(each.dtype())
}
