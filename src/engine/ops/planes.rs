//! A 1 × 1 convolution or linear layer together with the transpose between channels-first planes
//! and channels-last rows, in one matrix product.

use candle_core::{Result, Shape, Tensor, bail};

use super::addends::{self, Addends};
use super::cuda;
use super::linear::{self, linear_reference};
use crate::engine::kernels::cpu;
use crate::engine::kernels::product::{self, Matrices, Sizes};
use crate::engine::kernels::weight::Weight;
use crate::engine::tape::TapeTensor;

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
/// `x: [batch, in, pixels]`, `weight: [out, in]` or `[out, in, 1, 1]`, result `[batch, pixels, out]`.
pub fn linear_from_planes(
    x: &TapeTensor,
    weight: &TapeTensor,
    addends: Addends<'_>,
) -> Result<TapeTensor> {
    Direction::FromPlanes.apply(x, weight, addends)
}

/// Maps the channels of each pixel.
///
/// # Shapes
/// `x: [batch, pixels, in]`, `weight: [out, in]` or `[out, in, 1, 1]`, result `[batch, out, pixels]`.
pub fn linear_to_planes(
    x: &TapeTensor,
    weight: &TapeTensor,
    addends: Addends<'_>,
) -> Result<TapeTensor> {
    Direction::ToPlanes.apply(x, weight, addends)
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
    fn apply(self, x: &TapeTensor, weight: &TapeTensor, addends: Addends) -> Result<TapeTensor> {
        let arguments: Vec<&TapeTensor> = [x, weight].into_iter().chain(addends.given()).collect();
        let tensors: Vec<&Tensor> = arguments.iter().map(|argument| argument.tensor()).collect();
        let added = addends.followed();
        let footprint = || {
            let extents = self.extents(x.tensor(), weight.tensor())?;
            let Extents { batch, pixels, inputs, outputs } = extents;
            let shape = match self {
                Self::FromPlanes => [batch, pixels, outputs],
                Self::ToPlanes => [batch, outputs, pixels],
            };
            Ok(linear::footprint_of_products(&shape[..], inputs, weight.is_followed()))
        };
        if let Some(y) = TapeTensor::sized(&arguments, footprint)? {
            return Ok(y);
        }
        if let (true, Some(bias)) = (cuda::is_fast(&tensors), addends.bias) {
            return addends.added_to(match self {
                Self::FromPlanes => cuda::linear_from_planes(x, weight, bias)?,
                Self::ToPlanes => cuda::linear_to_planes(x, weight, bias)?,
            });
        }
        if !linear::is_fast(&tensors) {
            let given = added.map(|addend| addend.is_some());
            return TapeTensor::via_candle_autograd(&arguments, move |t| self.reference(t, given));
        }
        let followed = [x, weight].map(TapeTensor::is_followed);
        let extents = self.extents(x.tensor(), weight.tensor())?;
        let (x, weight) = (x.tensor().contiguous()?, Weight::new(weight.tensor())?);
        let y = self.forward(extents, &x, &weight, addends)?;
        let shapes = [x.shape().clone(), weight.tensor().shape().clone()];
        // A frozen weight's layer does not keep its input.
        let (x, weight) = (followed[1].then_some(x), followed[0].then_some(weight));
        Ok(TapeTensor::result(y, &arguments, move |gradient| {
            let dx = weight.map(|weight| self.input_gradient(extents, &weight, gradient));
            let dweight = x.map(|x| self.weight_gradient(extents, &x, gradient));
            let mut gradients = vec![
                dx.transpose()?.map(|dx| cpu::tensor(dx, &shapes[0])).transpose()?,
                dweight.transpose()?.map(|dw| cpu::tensor(dw, &shapes[1])).transpose()?,
            ];
            gradients.extend(match self {
                Self::FromPlanes => addends::gradients_of_rows(added, gradient)?,
                Self::ToPlanes => addends::gradients_of_planes(added, gradient)?,
            });
            Ok(gradients)
        }))
    }

    /// Of the input, the weight and the addends that are given.
    fn reference(self, t: &[Tensor], given: [bool; 3]) -> Result<Tensor> {
        let weight = t[1].reshape((t[1].dim(0)?, t[1].dim(1)?))?;
        match self {
            Self::FromPlanes => {
                let x = t[0].transpose(1, 2)?.contiguous()?;
                linear_reference(&[&[x, weight], &t[2..]].concat(), given)
            }
            Self::ToPlanes => {
                let products = linear_reference(&[t[0].clone(), weight], [false; 3])?;
                let products = products.transpose(1, 2)?.contiguous()?;
                addends::reference_of_planes(&products, given, &t[2..])
            }
        }
    }

    fn extents(self, x: &Tensor, weight: &Tensor) -> Result<Extents> {
        let (batch, second, third) = x.dims3()?;
        let (inputs, pixels) = match self {
            Self::FromPlanes => (second, third),
            Self::ToPlanes => (third, second),
        };
        match weight.dims() {
            [outputs, of, ones @ ..]
                if *of == inputs
                    && ones.iter().all(|one| *one == 1)
                    && x.elem_count() * weight.elem_count() > 0 =>
            {
                Ok(Extents { batch, pixels, inputs, outputs: *outputs })
            }
            _ => {
                let shapes = [x, weight].map(Tensor::shape);
                bail!("a linear map of planes: x and weight {shapes:?} do not fit")
            }
        }
    }

    fn takes_planes(self) -> bool {
        matches!(self, Self::FromPlanes)
    }

    fn forward(
        self,
        Extents { batch, pixels, inputs, outputs }: Extents,
        x: &Tensor,
        weight: &Weight,
        addends: Addends,
    ) -> Result<Tensor> {
        let x = cpu::values(x);
        let x = x.get()?;
        weight.with_all(|weight| match self {
            Self::FromPlanes => {
                let shape = Shape::from((batch, pixels, outputs));
                let mut y = addends.of_rows(&shape)?;
                let x = by_pixel(x, inputs, pixels, true);
                let weight = Matrices::new(weight, [0, 1, inputs]);
                product::add_products(&mut y, (pixels, outputs, inputs), x, weight)?;
                cpu::tensor(y, &shape)
            }
            Self::ToPlanes => {
                let shape = Shape::from((batch, outputs, pixels));
                let mut y = addends.of_planes(&shape)?;
                let x = by_channel(x, inputs, pixels, false);
                let weight = Matrices::new(weight, [0, inputs, 1]);
                product::add_products(&mut y, (outputs, pixels, inputs), weight, x)?;
                cpu::tensor(y, &shape)
            }
        })
    }

    fn input_gradient(
        self,
        Extents { batch, pixels, inputs, outputs }: Extents,
        weight: &Weight,
        gradient: &Tensor,
    ) -> Result<Vec<f32>> {
        let gradient = cpu::values(gradient);
        let gradient = gradient.get()?;
        weight.with_all(|weight| match self {
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
        })
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
                    let (x, y) = match direction {
                        Direction::FromPlanes => {
                            ([batch, inputs, pixels], [batch, pixels, outputs])
                        }
                        Direction::ToPlanes => ([batch, pixels, inputs], [batch, outputs, pixels]),
                    };
                    let case = Case::new([
                        values(&x, 1),
                        values(&weight, 2),
                        values(&[outputs], 3),
                        values(&y, 4),
                    ]);
                    case.check(
                        |t| {
                            let addends =
                                Addends { bias: Some(&t[2]), residual: Some(&t[3]), shift: None };
                            direction.apply(&t[0], &t[1], addends)
                        },
                        |t| direction.reference(t, [true, false, true]),
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let traced = |shape: &[usize]| TapeTensor::constant(&values(shape, 1));
        let (x, bias) = (traced(&[2, 4, 6]), traced(&[3]));
        let fits = |of: fn(&TapeTensor, &TapeTensor, Addends<'_>) -> Result<TapeTensor>,
                    weight: &[usize]| {
            of(&x, &traced(weight), Addends::bias(&bias)).is_ok()
        };
        assert!(!fits(linear_from_planes, &[3, 5]));
        assert!(!fits(linear_from_planes, &[4, 4]));
        assert!(!fits(linear_from_planes, &[3, 4, 3, 3]));
        assert!(fits(linear_from_planes, &[3, 4]));
        assert!(!fits(linear_to_planes, &[3, 4]));
        assert!(fits(linear_to_planes, &[3, 6]));
    }
}
