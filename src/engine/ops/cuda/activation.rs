//! Activations and nearest upsampling: a value at a time.

use candle_core::{D, Result, Shape, Tensor, bail};

use super::{super::parameters::Activation, Argument::Read, Launch, count};
use crate::engine::tape::TapeTensor;

/// A kernel that reads tensors and counts, a thread each of `values`.
fn by_value(
    kernel: &'static str,
    inputs: &[&Tensor],
    values: usize,
    counts: &[usize],
    shape: &Shape,
) -> Result<Tensor> {
    let Some(first) = inputs.first() else {
        bail!("{kernel}: nothing to read");
    };
    let mut arguments: Vec<_> = inputs.iter().map(|input| Read(input)).collect();
    arguments.push(count(values)?);
    for number in counts {
        arguments.push(count(*number)?);
    }
    Launch::over_values(kernel, first, values, arguments)?.write(shape)
}

/// See [`crate::engine::ops::silu`] and its like.
pub(in super::super) fn activation(x: &TapeTensor, kind: Activation) -> Result<TapeTensor> {
    let values = x.tensor().contiguous()?;
    let (length, kind) = (values.elem_count(), kind as usize);
    let y = by_value("activation", &[&values], length, &[kind], values.shape())?;
    Ok(TapeTensor::result(y, &[x], move |gradient| {
        let inputs = [&values, gradient];
        let dx = by_value("activation_input", &inputs, length, &[kind], values.shape())?;
        Ok(vec![Some(dx)])
    }))
}

/// See [`crate::engine::ops::geglu`].
pub(in super::super) fn geglu(x: &TapeTensor) -> Result<TapeTensor> {
    let values = x.tensor().contiguous()?;
    let both = values.dim(D::Minus1)?;
    if !both.is_multiple_of(2) || both == 0 {
        bail!("geglu: the last axis of {:?} has no halves", values.shape());
    }
    let half = both / 2;
    let mut dims = values.dims().to_vec();
    dims.pop();
    dims.push(half);
    let length = values.elem_count() / 2;
    let y = by_value("geglu", &[&values], length, &[half], &Shape::from(dims))?;
    Ok(TapeTensor::result(y, &[x], move |gradient| {
        let inputs = [&values, gradient];
        let dx = by_value("geglu_input", &inputs, length, &[half], values.shape())?;
        Ok(vec![Some(dx)])
    }))
}

/// See [`crate::engine::ops::upsample_nearest`]; to twice the height and width alone.
pub(in super::super) fn upsample_nearest_2x(x: &TapeTensor) -> Result<TapeTensor> {
    let values = x.tensor().contiguous()?;
    let (batch, channels, height, width) = values.dims4()?;
    let large = Shape::from((batch, channels, height * 2, width * 2));
    let y = by_value("upsample", &[&values], large.elem_count(), &[width], &large)?;
    let shape = values.shape().clone();
    Ok(TapeTensor::result(y, &[x], move |gradient| {
        let length = shape.elem_count();
        Ok(vec![Some(by_value("upsample_input", &[gradient], length, &[width], &shape)?)])
    }))
}
