//! Sums over rows, columns and all of a tensor, and shifts, whose gradients those are.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    Argument::{Count, Read},
    Launch, cast, count,
};
use crate::engine::tape::TapeTensor;

/// Rows that a thread adds up: few enough that a tall matrix of few columns keeps a device busy.
const CHUNK: usize = 64;
/// Values that a block adds up of what is one long row.
const PART: usize = 16_384;

/// Sums over the rows of `[…, columns]` in f32, by a kernel that adds up some rows at a time. Such
/// of a norm's weight also look at its input and statistics.
pub(super) fn over_chunks(
    kernel: &'static str,
    norm: Option<(&Tensor, &Tensor)>,
    gradient: &Tensor,
    columns: usize,
) -> Result<Tensor> {
    let rows = gradient.elem_count() / columns.max(1);
    let chunks = rows.div_ceil(CHUNK);
    let sizes = [count(rows)?, count(columns)?, count(CHUNK)?];
    let inputs = match norm {
        Some((x, statistics)) => vec![Read(x), Read(gradient), Read(statistics)],
        None => vec![Read(gradient)],
    };
    let arguments = inputs.into_iter().chain(sizes).collect();
    let parts = Launch::over_values(kernel, gradient, chunks * columns, arguments)?
        .write_f32((chunks, columns))?;
    if chunks == 1 { parts.reshape(columns) } else { parts.sum(0) }
}

/// The sum over the rows of `[…, columns]`, in f32: the gradient of what was added to each.
pub(super) fn column_sums(x: &Tensor, columns: usize) -> Result<Tensor> {
    over_chunks("column_sums", None, x, columns)
}

/// The sum of each row of `length` values, or of their squares, in f32.
fn row_sums(x: &Tensor, length: usize, squared: bool) -> Result<Tensor> {
    let rows = x.elem_count().div_ceil(length.max(1));
    let arguments =
        vec![Read(x), count(x.elem_count())?, count(length)?, Count(u32::from(squared))];
    Launch::over_rows("row_sums", x, (rows, length), arguments)?.write_f32(rows)
}

/// The sum of each of `[planes, …]`, in f32.
pub(super) fn plane_sums(x: &Tensor, planes: usize) -> Result<Tensor> {
    row_sums(x, x.elem_count() / planes.max(1), false)
}

/// The sum of the squares of each tensor, read from the device at once.
pub(in super::super) fn squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    let sums = tensors.iter().map(|x| row_sums(&x.contiguous()?, PART, true)?.sum_keepdim(0));
    let sums = sums.collect::<Result<Vec<_>>>()?;
    if sums.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Tensor::cat(&sums, 0)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

/// Adds `shift[index / inner % period]` to each value of a tensor that nothing else uses.
pub(super) fn add_vector(y: &Tensor, shift: &Tensor, inner: usize) -> Result<()> {
    let shift = shift.contiguous()?;
    let arguments =
        vec![Read(&shift), count(y.elem_count())?, count(inner)?, count(shift.elem_count())?];
    Launch::over_values("add_vector", y, y.elem_count(), arguments)?.change(y)
}

/// See [`crate::engine::ops::add_to_channels`].
pub(in super::super) fn add_to_channels(x: &TapeTensor, shift: &TapeTensor) -> Result<TapeTensor> {
    let shift = cast(shift, DType::F32)?;
    let (batch, channels, height, width) = x.tensor().dims4()?;
    if shift.tensor().dims() != [batch, channels] {
        bail!("add_to_channels: {:?} to {:?}", shift.tensor().shape(), x.tensor().shape());
    }
    let y = x.tensor().copy()?;
    add_vector(&y, shift.tensor(), height * width)?;
    let followed = [x.is_followed(), shift.is_followed()];
    Ok(TapeTensor::result(y, &[x, &shift], move |gradient| {
        let sums = || plane_sums(gradient, batch * channels)?.reshape((batch, channels));
        Ok(vec![followed[0].then(|| gradient.clone()), followed[1].then(sums).transpose()?])
    }))
}
