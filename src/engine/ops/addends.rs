//! What a linear layer or convolution adds to its products, such as bias and residual: in the same
//! pass over the result.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use candle_core::{Result, Shape, Tensor, bail};

use super::cuda;
use crate::engine::kernels::cpu::{self, Values};
use crate::engine::kernels::fresh;
use crate::engine::kernels::sums::plus;
use crate::engine::tape::TapeTensor;

/// What is added to the result of a convolution or a linear layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addends<'a> {
    /// `[out]`, to every pixel of a channel.
    pub bias: Option<&'a TapeTensor>,
    /// `[batch, out]`, to every pixel of an image's channel; convolutions only.
    pub shift: Option<&'a TapeTensor>,
    /// Of the result's shape.
    pub residual: Option<&'a TapeTensor>,
}

impl<'a> Addends<'a> {
    /// A bias alone.
    pub fn bias(bias: &'a TapeTensor) -> Self {
        Self { bias: Some(bias), ..Self::default() }
    }

    /// Those that are given, in the order of the fields.
    pub(super) fn given(self) -> impl Iterator<Item = &'a TapeTensor> {
        [self.bias, self.shift, self.residual].into_iter().flatten()
    }

    /// Which are given, in the order of the fields; and, of those, which are followed.
    pub(super) fn followed(self) -> [Option<bool>; 3] {
        [self.bias, self.shift, self.residual].map(|addend| addend.map(TapeTensor::is_followed))
    }

    /// Fails where an addend does not fit a result of `shape` with so many channels; `images` where
    /// a shift can belong to one.
    fn check(self, images: Option<usize>, channels: usize, shape: &Shape) -> Result<()> {
        let fits = |addend: Option<&TapeTensor>, dims: &[usize]| {
            addend.is_none_or(|addend| addend.tensor().dims() == dims)
        };
        let shift_fits = match images {
            Some(images) => fits(self.shift, &[images, channels]),
            None => self.shift.is_none(),
        };
        if fits(self.bias, &[channels]) && shift_fits && fits(self.residual, shape.dims()) {
            return Ok(());
        }
        let shapes: Vec<_> = self.given().map(|addend| addend.tensor().shape()).collect();
        bail!("addends {shapes:?} do not fit a result of {shape:?}");
    }

    /// The sum that the products of planes are added to, of `shape`, `[batch, channels, …]`.
    pub(super) fn of_planes(self, shape: &Shape) -> Result<Vec<f32>> {
        let [batch, channels, size @ ..] = shape.dims() else {
            bail!("planes of {shape:?} have no channels");
        };
        self.check(Some(*batch), *channels, shape)?;
        let (length, plane) = (shape.elem_count(), size.iter().product::<usize>());
        if self.given().next().is_none() {
            return Ok(vec![0.0; length]);
        }
        let (bias, shift) = (contiguous(self.bias)?, contiguous(self.shift)?);
        let residual = contiguous(self.residual)?;
        let [bias, shift, residual] =
            [&bias, &shift, &residual].map(|addend| addend.as_ref().map(cpu::values));
        let values = |addend| Option::map(addend, Values::get).transpose();
        let (bias, shift) = (values(bias.as_ref())?, values(shift.as_ref())?);
        let residual = values(residual.as_ref())?;
        let rows = cpu::rows_per_task(plane);
        fresh::written(length, rows * plane, |task, y| {
            for index in task * rows..((task + 1) * rows).min(batch * channels) {
                let offset = bias.map_or(0.0, |bias| bias[index % channels])
                    + shift.map_or(0.0, |shift| shift[index]);
                match residual {
                    Some(residual) => {
                        let residual = &residual[index * plane..][..plane];
                        y.extend(residual.iter().map(|x| x + offset));
                    }
                    None => y.extend(std::iter::repeat_n(offset, plane)),
                }
            }
        })
    }

    /// The sum that the products of rows are added to, of `shape`, `[…, channels]`.
    pub(super) fn of_rows(self, shape: &Shape) -> Result<Vec<f32>> {
        let channels = shape.dims().last().copied().unwrap_or(1);
        // Rows have no images.
        self.check(None, channels, shape)?;
        let length = shape.elem_count();
        let (bias, residual) = (contiguous(self.bias)?, contiguous(self.residual)?);
        let bias = bias.as_ref().map(cpu::values);
        let residual = residual.as_ref().map(cpu::values);
        let bias = bias.as_ref().map(Values::get).transpose()?;
        let residual = residual.as_ref().map(Values::get).transpose()?;
        let chunk = channels * cpu::rows_per_task(channels);
        match (bias, residual) {
            (None, None) => Ok(vec![0.0; length]),
            (Some(bias), None) => fresh::written(length, chunk, |_, y| {
                for _ in 0..y.room() / channels {
                    y.extend(bias.iter().copied());
                }
            }),
            (None, Some(residual)) => Ok(residual.to_vec()),
            (Some(bias), Some(residual)) => fresh::written(length, chunk, |task, y| {
                let residual = &residual[task * chunk..];
                for row in residual[..y.room()].chunks_exact(channels) {
                    y.extend(row.iter().zip(bias).map(|(x, bias)| x + bias));
                }
            }),
        }
    }

    /// Adds all but the bias to a result, in passes of their own.
    pub(super) fn added_to(self, y: TapeTensor) -> Result<TapeTensor> {
        let y = match self.shift {
            Some(shift) => cuda::add_to_channels(&y, shift)?,
            None => y,
        };
        let Some(residual) = self.residual else {
            return Ok(y);
        };
        let sum = plus(y.tensor(), residual.tensor())?;
        let followed = [y.is_followed(), residual.is_followed()];
        Ok(TapeTensor::result(sum, &[&y, residual], move |gradient| {
            Ok(followed.map(|followed| followed.then(|| gradient.clone())).into())
        }))
    }
}

/// Adds by candle what is `given`, of those [`Addends`], to products of planes.
pub(super) fn reference_of_planes(
    products: &Tensor,
    given: [bool; 3],
    addends: &[Tensor],
) -> Result<Tensor> {
    let space = vec![1; products.rank() - 2];
    let mut sum = products.clone();
    let which = (0..given.len()).filter(|index| given[*index]);
    for (index, addend) in which.zip(addends) {
        let shape = match index {
            0 => [&[1, addend.dim(0)?], &space[..]].concat(),
            1 => [addend.dims(), &space[..]].concat(),
            _ => addend.dims().to_vec(),
        };
        sum = sum.broadcast_add(&addend.reshape(shape)?)?;
    }
    Ok(sum)
}

fn contiguous(addend: Option<&TapeTensor>) -> Result<Option<Tensor>> {
    addend.map(|addend| addend.tensor().contiguous()).transpose()
}

/// The gradients of those that are given, from that of a result of `[batch, channels, …]`.
pub(super) fn gradients_of_planes(
    followed: [Option<bool>; 3],
    gradient: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    let (batch, channels) = (gradient.dim(0)?, gradient.dim(1)?);
    let plane = gradient.elem_count() / (batch * channels).max(1);
    let sums = if followed[0] == Some(true) || followed[1] == Some(true) {
        cpu::row_sums(cpu::values(gradient).get()?, plane)
    } else {
        Vec::new()
    };
    let bias = || cpu::tensor(cpu::column_sums(&sums, channels), &Shape::from(channels));
    let shift = || cpu::tensor(sums.clone(), &Shape::from((batch, channels)));
    let mut gradients = Vec::new();
    if let Some(followed) = followed[0] {
        gradients.push(followed.then(bias).transpose()?);
    }
    if let Some(followed) = followed[1] {
        gradients.push(followed.then(shift).transpose()?);
    }
    if let Some(followed) = followed[2] {
        gradients.push(followed.then(|| gradient.clone()));
    }
    Ok(gradients)
}

/// The gradients of those that are given, from that of a result of `[…, channels]`.
pub(super) fn gradients_of_rows(
    followed: [Option<bool>; 3],
    gradient: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    let channels = gradient.dims().last().copied().unwrap_or(1);
    let mut gradients = Vec::new();
    if let Some(followed) = followed[0] {
        let sums = || {
            let sums = cpu::column_sums(cpu::values(gradient).get()?, channels);
            cpu::tensor(sums, &Shape::from(channels))
        };
        gradients.push(followed.then(sums).transpose()?);
    }
    if let Some(followed) = followed[2] {
        gradients.push(followed.then(|| gradient.clone()));
    }
    Ok(gradients)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
    use super::*;

    #[test]
    fn a_residual_in_a_pass_of_its_own_gives_both_the_gradient() {
        let case = Case::new([values(&[2, 3, 4, 5], 1), values(&[2, 3, 4, 5], 2)]);
        case.check(
            |t| {
                // The bias is in the result already.
                let addends = Addends { residual: Some(&t[1]), ..Addends::bias(&t[0]) };
                addends.added_to(t[0].clone())
            },
            |t| &t[0] + &t[1],
        );
    }
}
