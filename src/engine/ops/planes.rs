//! Affine maps of channels that turn planes of pixels into rows of channels, and back: a 1 × 1
//! convolution or linear layer and the change of order around it, in one product.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::linear::linear_reference;
use super::product::{self, Matrices, Sizes};
use super::traced::Traced;
use super::{cpu, cuda};

/// Which way.
#[derive(Debug, Clone, Copy)]
enum Direction {
    /// `[batch, channels, pixels]` to `[batch, pixels, outputs]`.
    FromPlanes,
    /// `[batch, pixels, channels]` to `[batch, outputs, pixels]`.
    ToPlanes,
}

/// Maps the channels of each pixel.
///
/// # Shapes
/// `x: [batch, in, pixels]`, `weight: [out, in]` or `[out, in, 1, 1]`, `bias: [out]`, result
/// `[batch, pixels, out]`.
pub fn linear_from_planes(x: &Traced, weight: &Traced, bias: &Traced) -> Result<Traced> {
    Direction::FromPlanes.apply(x, weight, bias)
}

/// Maps the channels of each pixel.
///
/// # Shapes
/// `x: [batch, pixels, in]`, `weight: [out, in]` or `[out, in, 1, 1]`, `bias: [out]`, result
/// `[batch, out, pixels]`.
pub fn linear_to_planes(x: &Traced, weight: &Traced, bias: &Traced) -> Result<Traced> {
    Direction::ToPlanes.apply(x, weight, bias)
}

#[derive(Debug, Clone, Copy)]
struct Extents {
    batch: usize,
    pixels: usize,
    inputs: usize,
    outputs: usize,
}

/// `[batch, pixels, channels]` of what lies in planes or in rows.
fn by_pixel(values: &[f32], channels: usize, pixels: usize, in_planes: bool) -> Matrices<'_> {
    let strides = if in_planes { [1, pixels] } else { [channels, 1] };
    Matrices::new(values, [channels * pixels, strides[0], strides[1]])
}

/// `[batch, channels, pixels]` of the same.
fn by_channel(values: &[f32], channels: usize, pixels: usize, in_planes: bool) -> Matrices<'_> {
    let strides = if in_planes { [pixels, 1] } else { [1, channels] };
    Matrices::new(values, [channels * pixels, strides[0], strides[1]])
}

impl Direction {
    fn apply(self, x: &Traced, weight: &Traced, bias: &Traced) -> Result<Traced> {
        let arguments = [x, weight, bias];
        if cuda::is_fast(&arguments.map(Traced::tensor)) {
            return match self {
                Self::FromPlanes => cuda::linear_from_planes(x, weight, bias),
                Self::ToPlanes => cuda::linear_to_planes(x, weight, bias),
            };
        }
        if !cpu::is_fast(&arguments.map(Traced::tensor)) {
            return Traced::by_candle(&arguments, move |t| self.reference(&t[0], &t[1], &t[2]));
        }
        let extents = self.extents(x.tensor(), weight.tensor(), bias.tensor())?;
        let (x, weight) = (x.tensor().contiguous()?, weight.tensor().contiguous()?);
        let y = self.forward(extents, &x, &weight, bias.tensor())?;
        let followed = arguments.map(Traced::is_followed);
        let shapes = [x.shape().clone(), weight.shape().clone()];
        // A frozen weight's layer does not keep its input.
        let (x, weight) = (followed[1].then_some(x), followed[0].then_some(weight));
        Ok(Traced::result(y, &arguments, move |gradient| {
            let dx = weight.map(|weight| self.input_gradient(extents, &weight, gradient));
            let dweight = x.map(|x| self.weight_gradient(extents, &x, gradient));
            Ok(vec![
                dx.transpose()?.map(|dx| cpu::tensor(dx, &shapes[0])).transpose()?,
                dweight.transpose()?.map(|dw| cpu::tensor(dw, &shapes[1])).transpose()?,
                followed[2].then(|| self.bias_gradient(extents, gradient)).transpose()?,
            ])
        }))
    }

    fn reference(self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let weight = weight.reshape((weight.dim(0)?, weight.dim(1)?))?;
        match self {
            Self::FromPlanes => {
                linear_reference(&x.transpose(1, 2)?.contiguous()?, &weight, Some(bias))
            }
            Self::ToPlanes => {
                linear_reference(x, &weight, Some(bias))?.transpose(1, 2)?.contiguous()
            }
        }
    }

    fn extents(self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Extents> {
        let (batch, second, third) = x.dims3()?;
        let (inputs, pixels) = match self {
            Self::FromPlanes => (second, third),
            Self::ToPlanes => (third, second),
        };
        let fits = match weight.dims() {
            [outputs, of, ones @ ..] => {
                *of == inputs && ones.iter().all(|one| *one == 1) && bias.dims() == [*outputs]
            }
            _ => false,
        };
        if !fits || x.elem_count() * weight.elem_count() == 0 {
            let shapes = [x, weight, bias].map(Tensor::shape);
            bail!("a linear map of planes: x, weight and bias {shapes:?} do not fit");
        }
        Ok(Extents { batch, pixels, inputs, outputs: bias.dim(0)? })
    }

    fn takes_planes(self) -> bool {
        matches!(self, Self::FromPlanes)
    }

    fn forward(
        self,
        Extents { batch, pixels, inputs, outputs }: Extents,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
    ) -> Result<Tensor> {
        let bias = bias.contiguous()?;
        let [x, weight, bias] = [x, weight, &bias].map(cpu::values);
        let (x, weight, bias) = (x.get()?, weight.get()?, bias.get()?);
        match self {
            Self::FromPlanes => {
                let x = by_pixel(x, inputs, pixels, true);
                let weight = Matrices::new(weight, [0, 1, inputs]);
                let mut y = product::multiply(batch, (pixels, outputs, inputs), x, weight)?;
                cpu::add_to_rows(&mut y, bias);
                cpu::tensor(y, &Shape::from((batch, pixels, outputs)))
            }
            Self::ToPlanes => {
                let x = by_channel(x, inputs, pixels, false);
                let weight = Matrices::new(weight, [0, inputs, 1]);
                let mut y = product::multiply(batch, (outputs, pixels, inputs), weight, x)?;
                let rows = cpu::rows_per_task(pixels);
                y.par_chunks_mut(rows * pixels).enumerate().for_each(|(task, planes)| {
                    for (index, plane) in planes.chunks_exact_mut(pixels).enumerate() {
                        let bias = bias[(task * rows + index) % outputs];
                        cpu::vectorised(
                            #[inline(always)]
                            || plane.iter_mut().for_each(|y| *y += bias),
                        );
                    }
                });
                cpu::tensor(y, &Shape::from((batch, outputs, pixels)))
            }
        }
    }

    fn input_gradient(
        self,
        Extents { batch, pixels, inputs, outputs }: Extents,
        weight: &Tensor,
        gradient: &Tensor,
    ) -> Result<Vec<f32>> {
        let [weight, gradient] = [weight, gradient].map(cpu::values);
        let (weight, gradient) = (weight.get()?, gradient.get()?);
        match self {
            Self::FromPlanes => {
                let weight = Matrices::new(weight, [0, 1, inputs]);
                let gradient = by_channel(gradient, outputs, pixels, false);
                product::multiply(batch, (inputs, pixels, outputs), weight, gradient)
            }
            Self::ToPlanes => {
                let gradient = by_pixel(gradient, outputs, pixels, true);
                let weight = Matrices::new(weight, [0, inputs, 1]);
                product::multiply(batch, (pixels, inputs, outputs), gradient, weight)
            }
        }
    }

    fn weight_gradient(
        self,
        Extents { batch, pixels, inputs, outputs }: Extents,
        x: &Tensor,
        gradient: &Tensor,
    ) -> Result<Vec<f32>> {
        let [x, gradient] = [x, gradient].map(cpu::values);
        let (x, gradient) = (x.get()?, gradient.get()?);
        let in_planes = self.takes_planes();
        let mut dweight = vec![0.0; outputs * inputs];
        let sizes: Sizes = (outputs, inputs, pixels);
        for image in 0..batch {
            let x = &x[image * inputs * pixels..];
            let gradient = &gradient[image * outputs * pixels..];
            let gradient = by_channel(gradient, outputs, pixels, !in_planes);
            let x = by_pixel(x, inputs, pixels, in_planes);
            product::add_products(&mut dweight, sizes, gradient, x)?;
        }
        Ok(dweight)
    }

    fn bias_gradient(self, extents: Extents, gradient: &Tensor) -> Result<Tensor> {
        let gradient = cpu::values(gradient);
        let gradient = gradient.get()?;
        let sums = match self {
            Self::FromPlanes => cpu::column_sums(gradient, extents.outputs),
            Self::ToPlanes => {
                cpu::column_sums(&cpu::row_sums(gradient, extents.pixels), extents.outputs)
            }
        };
        cpu::tensor(sums, &Shape::from(extents.outputs))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
    use super::*;

    #[test]
    fn maps_of_planes_agree_with_their_references() {
        for (batch, pixels, inputs, outputs) in [(1, 1, 3, 2), (3, 35, 5, 7), (2, 64, 16, 33)] {
            for weight in [vec![outputs, inputs], vec![outputs, inputs, 1, 1]] {
                for direction in [Direction::FromPlanes, Direction::ToPlanes] {
                    let x = match direction {
                        Direction::FromPlanes => [batch, inputs, pixels],
                        Direction::ToPlanes => [batch, pixels, inputs],
                    };
                    let case =
                        Case::new([values(&x, 1), values(&weight, 2), values(&[outputs], 3)]);
                    case.check(
                        |t| direction.apply(&t[0], &t[1], &t[2]),
                        |t| direction.reference(&t[0], &t[1], &t[2]),
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let traced = |shape: &[usize]| Traced::constant(&values(shape, 1));
        let x = traced(&[2, 4, 6]);
        assert!(linear_from_planes(&x, &traced(&[3, 5]), &traced(&[3])).is_err());
        assert!(linear_from_planes(&x, &traced(&[3, 4]), &traced(&[4])).is_err());
        assert!(linear_from_planes(&x, &traced(&[3, 4, 3, 3]), &traced(&[3])).is_err());
        assert!(linear_to_planes(&x, &traced(&[3, 4]), &traced(&[3])).is_err());
        assert!(linear_to_planes(&x, &traced(&[3, 6]), &traced(&[3])).is_ok());
    }
}
