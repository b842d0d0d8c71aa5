//! Group norm and layer norm. What a gradient needs of the forward pass is its input and the mean
//! and deviation of each row.

use candle_core::{D, DType, Result, Tensor, bail};

use super::{
    super::parameters::GroupNorm,
    Argument::{self, Count, Number, Read},
    Launch, cast, count,
    sums::over_chunks,
};
use crate::engine::tape::TapeTensor;

/// Mean and reciprocal deviation of each of `rows`, `[rows, 2]`.
fn moments(x: &Tensor, rows: usize, eps: f64) -> Result<Tensor> {
    let length = x.elem_count() / rows.max(1);
    let arguments = vec![Read(x), count(length)?, Number(eps as f32)];
    Launch::over_rows("moments", x, (rows, length), arguments)?.write_f32((rows, 2))
}

/// See [`crate::engine::ops::group_norm`].
pub(in super::super) fn group_norm(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: &TapeTensor,
    settings: GroupNorm,
) -> Result<TapeTensor> {
    let (weight, bias) = (cast(weight, DType::F32)?, cast(bias, DType::F32)?);
    let arguments = [x, &weight, &bias];
    let operation = GroupNormOperation::new(arguments.map(TapeTensor::tensor), settings)?;
    let y = operation.forward()?;
    let followed = arguments.map(TapeTensor::is_followed);
    Ok(TapeTensor::result(y, &arguments, move |gradient| operation.backward(gradient, followed)))
}

#[derive(Debug)]
struct GroupNormOperation {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    /// Batch, channels, channels of a group, pixels of a channel.
    extents: [usize; 4],
    silu: bool,
}

impl GroupNormOperation {
    fn new([x, weight, bias]: [&Tensor; 3], settings: GroupNorm) -> Result<Self> {
        let GroupNorm { groups, eps, silu } = settings;
        let dims = x.dims();
        let [batch, channels, space @ ..] = dims else {
            bail!("group_norm: x {dims:?} has no channels");
        };
        if groups == 0 || channels % groups != 0 || x.elem_count() == 0 {
            bail!("group_norm: x {dims:?} does not split into {groups} groups");
        }
        if weight.dims() != [*channels] || bias.dims() != [*channels] {
            bail!("group_norm: weight or bias is not of {channels} channels");
        }
        let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        let statistics = moments(&x, batch * groups, eps)?;
        let extents = [*batch, *channels, channels / groups, space.iter().product()];
        Ok(Self { x, weight, bias, statistics, extents, silu })
    }

    /// What each kernel takes after its tensors.
    fn counts(&self) -> Result<[Argument<'static>; 4]> {
        let [_, channels, members, plane] = self.extents;
        Ok([count(channels)?, count(members)?, count(plane)?, Count(u32::from(self.silu))])
    }

    fn forward(&self) -> Result<Tensor> {
        let Self { x, weight, bias, statistics, .. } = self;
        let values = x.elem_count();
        let mut arguments = [x, statistics, weight, bias].map(Read).to_vec();
        arguments.push(count(values)?);
        arguments.extend(self.counts()?);
        Launch::over_values("group_norm", x, values, arguments)?.write(x.shape())
    }

    fn backward(self, gradient: &Tensor, followed: [bool; 3]) -> Result<Vec<Option<Tensor>>> {
        let [batch, channels, ..] = self.extents;
        let sums = self.sums(gradient)?;
        let over_batch = |index: usize| {
            let parts = sums.reshape((batch, channels, 2))?.narrow(2, index, 1)?;
            parts.sum(0)?.reshape(channels)
        };
        Ok(vec![
            followed[0].then(|| self.input_gradient(gradient, &sums)).transpose()?,
            followed[1].then(|| over_batch(0)).transpose()?,
            followed[2].then(|| over_batch(1)).transpose()?,
        ])
    }

    fn sums(&self, gradient: &Tensor) -> Result<Tensor> {
        let Self { x, weight, bias, statistics, .. } = self;
        let [batch, channels, _, plane] = self.extents;
        let mut arguments = [x, gradient, statistics, weight, bias].map(Read).to_vec();
        arguments.extend(self.counts()?);
        let planes = batch * channels;
        Launch::over_rows("group_norm_sums", x, (planes, plane), arguments)?.write_f32((planes, 2))
    }

    fn input_gradient(&self, gradient: &Tensor, sums: &Tensor) -> Result<Tensor> {
        let Self { x, weight, bias, statistics, .. } = self;
        let [batch, channels, _, plane] = self.extents;
        let mut arguments = [x, gradient, statistics, weight, bias, sums].map(Read).to_vec();
        arguments.extend(self.counts()?);
        let rows = (batch * channels, plane);
        Launch::over_rows("group_norm_input", x, rows, arguments)?.write(x.shape())
    }
}

/// See [`crate::engine::ops::layer_norm`].
pub(in super::super) fn layer_norm(
    x: &TapeTensor,
    weight: &TapeTensor,
    bias: &TapeTensor,
    eps: f64,
) -> Result<TapeTensor> {
    let (weight, bias) = (cast(weight, DType::F32)?, cast(bias, DType::F32)?);
    let arguments = [x, &weight, &bias];
    let channels = x.tensor().dim(D::Minus1)?;
    if [&weight, &bias].iter().any(|affine| affine.tensor().dims() != [channels]) || channels == 0 {
        bail!("layer_norm: weight or bias is not of {channels} channels");
    }
    let (x, weight) = (x.tensor().contiguous()?, weight.tensor().contiguous()?);
    let statistics = moments(&x, x.elem_count() / channels, eps)?;
    let bias = bias.tensor().contiguous()?;
    let values = x.elem_count();
    let mut inputs = [&x, &statistics, &weight, &bias].map(Read).to_vec();
    inputs.extend([count(values)?, count(channels)?]);
    let y = Launch::over_values("layer_norm", &x, values, inputs)?.write(x.shape())?;
    let followed = arguments.map(TapeTensor::is_followed);
    let operation = LayerNormOperation { x, weight, statistics };
    Ok(TapeTensor::result(y, &arguments, move |gradient| operation.backward(gradient, followed)))
}

#[derive(Debug)]
struct LayerNormOperation {
    x: Tensor,
    weight: Tensor,
    statistics: Tensor,
}

impl LayerNormOperation {
    fn backward(self, gradient: &Tensor, followed: [bool; 3]) -> Result<Vec<Option<Tensor>>> {
        let channels = self.weight.elem_count();
        let bias = || over_chunks("column_sums", None, gradient, channels);
        let weight = || {
            over_chunks("layer_norm_weight", Some((&self.x, &self.statistics)), gradient, channels)
        };
        Ok(vec![
            followed[0].then(|| self.input_gradient(gradient)).transpose()?,
            followed[1].then(weight).transpose()?,
            followed[2].then(bias).transpose()?,
        ])
    }

    fn input_gradient(&self, gradient: &Tensor) -> Result<Tensor> {
        let Self { x, weight, statistics } = self;
        let channels = weight.elem_count();
        let inputs =
            vec![Read(x), Read(gradient), Read(statistics), Read(weight), count(channels)?];
        let rows = (x.elem_count() / channels, channels);
        Launch::over_rows("layer_norm_input", x, rows, inputs)?.write(x.shape())
    }
}
