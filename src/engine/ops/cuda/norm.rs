//! Group norm and layer norm. What a gradient needs of the forward pass is its input and the mean
//! and deviation of each row.

use candle_core::{D, DType, Result, Tensor, bail};

use super::{
    super::parameters::GroupNorm,
    Argument::{Count, Number, Read},
    Launch, cast, count,
    sums::over_chunks,
};
use crate::engine::tape::TapeTensor;

/// Mean and reciprocal deviation of each of `rows`, `[rows, 2]`.
fn moments(x: &Tensor, rows: usize, eps: f64) -> Result<Tensor> {
    let length = x.elem_count() / rows.max(1);
    let arguments = vec![Read(x), Count(count(length)?), Number(eps as f32)];
    Launch::over_rows("moments", x.dtype(), (rows, length), arguments)?.write(
        (rows, 2),
        DType::F32,
        x.device(),
    )
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

    fn forward(&self) -> Result<Tensor> {
        let Self { x, weight, bias, statistics, silu, .. } = self;
        let [_, channels, members, plane] = self.extents;
        let arguments = vec![
            Read(x),
            Read(statistics),
            Read(weight),
            Read(bias),
            Count(count(x.elem_count())?),
            Count(count(channels)?),
            Count(count(members)?),
            Count(count(plane)?),
            Count(u32::from(*silu)),
        ];
        Launch::over_values("group_norm", x.dtype(), x.elem_count(), arguments)?.write(
            x.shape(),
            x.dtype(),
            x.device(),
        )
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
        let Self { x, weight, bias, statistics, silu, .. } = self;
        let [batch, channels, members, plane] = self.extents;
        let arguments = vec![
            Read(x),
            Read(gradient),
            Read(statistics),
            Read(weight),
            Read(bias),
            Count(count(channels)?),
            Count(count(members)?),
            Count(count(plane)?),
            Count(u32::from(*silu)),
        ];
        let planes = batch * channels;
        Launch::over_rows("group_norm_sums", x.dtype(), (planes, plane), arguments)?.write(
            (planes, 2),
            DType::F32,
            x.device(),
        )
    }

    fn input_gradient(&self, gradient: &Tensor, sums: &Tensor) -> Result<Tensor> {
        let Self { x, weight, bias, statistics, silu, .. } = self;
        let [batch, channels, members, plane] = self.extents;
        let arguments = vec![
            Read(x),
            Read(gradient),
            Read(statistics),
            Read(weight),
            Read(bias),
            Read(sums),
            Count(count(channels)?),
            Count(count(members)?),
            Count(count(plane)?),
            Count(u32::from(*silu)),
        ];
        let rows = (batch * channels, plane);
        Launch::over_rows("group_norm_input", x.dtype(), rows, arguments)?.write(
            x.shape(),
            x.dtype(),
            x.device(),
        )
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
    let inputs = vec![
        Read(&x),
        Read(&statistics),
        Read(&weight),
        Read(&bias),
        Count(count(values)?),
        Count(count(channels)?),
    ];
    let y = Launch::over_values("layer_norm", x.dtype(), values, inputs)?.write(
        x.shape(),
        x.dtype(),
        x.device(),
    )?;
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
            vec![Read(x), Read(gradient), Read(statistics), Read(weight), Count(count(channels)?)];
        let rows = (x.elem_count() / channels, channels);
        Launch::over_rows("layer_norm_input", x.dtype(), rows, inputs)?.write(
            x.shape(),
            x.dtype(),
            x.device(),
        )
    }
}
