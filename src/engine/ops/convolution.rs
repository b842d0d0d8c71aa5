//! Two-dimensional convolution: by `im2col` and one matrix product, or for 3 × 3 kernels by
//! [`crate::engine::kernels::winograd`].

use candle_core::{Result, Shape, Tensor, bail};

use super::addends::{self, Addends};
use super::cuda;
use super::linear;
use super::parameters::Convolution;
use crate::engine::kernels::columns::{Extents, Span};
use crate::engine::kernels::cpu::{self, Values};
use crate::engine::kernels::product::{self, Matrices};
use crate::engine::kernels::weight::Weight;
use crate::engine::kernels::winograd::Winograd;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

/// `weight ∗ x` and what is added to it.
///
/// # Shapes
/// `x: [batch, in, height, width]`, `weight: [out, in, kernel, kernel]`, result `[batch, out, …]`.
pub fn conv2d(
    x: &TapeTensor,
    weight: &TapeTensor,
    addends: Addends<'_>,
    geometry: Convolution,
) -> Result<TapeTensor> {
    let arguments: Vec<&TapeTensor> = [x, weight].into_iter().chain(addends.given()).collect();
    let tensors: Vec<&Tensor> = arguments.iter().map(|argument| argument.tensor()).collect();
    let added = addends.followed();
    let footprint = || {
        let extents = geometry.extents(x.tensor().shape(), weight.tensor().shape())?;
        Ok(footprint(extents, weight.is_followed()))
    };
    if let Some(y) = TapeTensor::sized(&arguments, footprint)? {
        return Ok(y);
    }
    if cuda::is_fast(&tensors) {
        return addends.added_to(cuda::conv2d(x, weight, addends.bias, geometry)?);
    }
    if !linear::is_fast(&tensors) {
        let given = added.map(|addend| addend.is_some());
        return TapeTensor::via_candle_autograd(&arguments, move |t| {
            conv2d_reference(t, given, geometry)
        });
    }
    let extents = geometry.extents(x.tensor().shape(), weight.tensor().shape())?;
    let followed = [x, weight].map(TapeTensor::is_followed);
    let (x, weight) = (x.tensor().contiguous()?, Weight::new(weight.tensor())?);
    let y = forward(extents, &x, &weight, addends)?;
    // A frozen kernel's layer does not keep its input.
    let kept = SavedForBackward {
        extents,
        shapes: [x.shape().clone(), weight.tensor().shape().clone()],
        x: followed[1].then_some(x),
        weight: followed[0].then_some(weight),
    };
    Ok(TapeTensor::result(y, &arguments, move |gradient| {
        let mut gradients = kept.backward(gradient)?;
        gradients.extend(addends::gradients_of_planes(added, gradient)?);
        Ok(gradients)
    }))
}

/// What the gradients need of a convolution, and no more.
#[derive(Debug)]
struct SavedForBackward {
    extents: Extents,
    shapes: [Shape; 2],
    /// For the gradient of the weight.
    x: Option<Tensor>,
    /// For the gradient of the input.
    weight: Option<Weight>,
}

/// Of the input, the weight and the addends that are given.
pub(super) fn conv2d_reference(
    t: &[Tensor],
    given: [bool; 3],
    geometry: Convolution,
) -> Result<Tensor> {
    let products = t[0].conv2d(&t[1], geometry.padding, geometry.stride, 1, 1)?;
    addends::reference_of_planes(&products, given, &t[2..])
}

/// Pixels of a plane from which on a product per image beats one product on gathered pixels.
const PLANE: usize = 64;

impl Convolution {
    fn extents(self, x: &Shape, weight: &Shape) -> Result<Extents> {
        let (batch, inputs, height, width) = x.dims4()?;
        let (outputs, weight_inputs, rows, columns) = weight.dims4()?;
        let (padded_height, padded_width) = (height + 2 * self.padding, width + 2 * self.padding);
        let fits = inputs == weight_inputs && rows <= padded_height && columns <= padded_width;
        if !fits || self.stride == 0 || x.elem_count() * weight.elem_count() == 0 {
            bail!("conv2d: x {x:?} does not fit weight {weight:?} with {self:?}");
        }
        Ok(Extents {
            batch,
            inputs,
            outputs,
            size: [height, width],
            kernel: [rows, columns],
            result: [
                (padded_height - rows) / self.stride + 1,
                (padded_width - columns) / self.stride + 1,
            ],
            stride: self.stride,
            padding: self.padding,
        })
    }
}

/// Whether the input's planes are a matrix as they lie.
fn is_product_of_planes(extents: Extents) -> bool {
    extents.is_pointwise() && (extents.plane() >= PLANE || extents.batch == 1)
}

/// Of [`conv2d`].
fn footprint(extents: Extents, weight_is_followed: bool) -> Footprint {
    let Extents { batch, outputs, result: [height, width], .. } = extents;
    let products = linear::footprint_of_products(
        (batch, outputs, height, width),
        extents.depth(),
        weight_is_followed,
    );
    if is_product_of_planes(extents) {
        return products;
    }
    if let Some(winograd) = Winograd::of(extents) {
        // The kernels, and their gradients too.
        let kernels = winograd.kernels_held();
        let backward_buffer = if weight_is_followed { 2 * kernels } else { kernels };
        return Footprint { buffer: kernels, backward_buffer, ..products };
    }
    let length = extents.spans().map(|span| span.length).max().unwrap_or(0);
    let columns = (extents.depth() * length) as u64;
    Footprint { buffer: columns, backward_buffer: columns, ..products }
}

fn forward(extents: Extents, x: &Tensor, weight: &Weight, addends: Addends) -> Result<Tensor> {
    let (outputs, plane) = (extents.outputs, extents.plane());
    let shape = Shape::from((extents.batch, outputs, extents.result[0], extents.result[1]));
    let mut y = addends.of_planes(&shape)?;
    let x = cpu::values(x);
    let x = x.get()?;
    if is_product_of_planes(extents) {
        let x = Matrices::new(x, [extents.inputs * plane, plane, 1]);
        weight.with_all(|weight| {
            let weight = Matrices::new(weight, [0, extents.inputs, 1]);
            product::add_products(&mut y, (outputs, plane, extents.inputs), weight, x)
        })?;
    } else if let Some(winograd) = Winograd::of(extents) {
        winograd.add(x, weight, &mut y)?;
    } else {
        for span in extents.spans() {
            let columns = extents.columns(x, span);
            let columns = Matrices::new(&columns, [0, span.length, 1]);
            weight.for_each_part(None, |part, weight| {
                let sizes = (part.len(), span.length, extents.depth());
                let weight = Matrices::new(weight, [0, extents.depth(), 1]);
                let product = product::multiply_for_a_moment(1, sizes, weight, columns)?;
                extents.scatter(&product, &part, &mut y, span);
                Ok(())
            })?;
        }
    }
    cpu::tensor(y, &shape)
}

impl SavedForBackward {
    /// The gradients of the input and of the weight.
    fn backward(self, gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let Self { extents, shapes, x, weight } = self;
        let x = x.as_ref().map(cpu::values);
        let gradient_values = cpu::values(gradient);
        let operands = Operands {
            x: x.as_ref().map(Values::get).transpose()?,
            weight: weight.as_ref(),
            gradient: gradient_values.get()?,
        };
        let [dx, dweight] = if is_product_of_planes(extents) {
            pointwise_backward(extents, &operands)?
        } else if let Some(winograd) = Winograd::of(extents) {
            winograd.backward(operands.x, operands.weight, operands.gradient)?
        } else {
            spans_backward(extents, &operands)?
        };
        let [x_shape, weight_shape] = &shapes;
        Ok(vec![
            dx.map(|dx| cpu::tensor(dx, x_shape)).transpose()?,
            dweight.map(|dweight| cpu::tensor(dweight, weight_shape)).transpose()?,
        ])
    }
}

/// The result's gradient; the weight where the input's is wanted, and the other way round.
#[derive(Debug, Clone, Copy)]
struct Operands<'a> {
    x: Option<&'a [f32]>,
    weight: Option<&'a Weight>,
    gradient: &'a [f32],
}

/// The gradients of a convolution with a kernel of one pixel, which needs no columns.
fn pointwise_backward(extents: Extents, operands: &Operands) -> Result<[Option<Vec<f32>>; 2]> {
    let Extents { batch, inputs, outputs, .. } = extents;
    let plane = extents.plane();
    let gradient = Matrices::new(operands.gradient, [outputs * plane, plane, 1]);
    let mut gradients = [None, None];
    if let Some(weight) = operands.weight {
        let dx = weight.with_all(|weight| {
            let weight = Matrices::new(weight, [0, 1, inputs]);
            product::multiply(batch, (inputs, plane, outputs), weight, gradient)
        });
        gradients[0] = Some(dx?);
    }
    if let Some(x) = operands.x {
        let x = Matrices::new(x, [inputs * plane, 1, plane]);
        let products = product::multiply(batch, (outputs, inputs, plane), gradient, x)?;
        gradients[1] = Some(cpu::column_sums(&products, outputs * inputs));
    }
    Ok(gradients)
}

/// The gradients of any convolution, a span of result pixels at a time.
fn spans_backward(extents: Extents, operands: &Operands) -> Result<[Option<Vec<f32>>; 2]> {
    let (outputs, depth) = (extents.outputs, extents.depth());
    let pixels = extents.size[0] * extents.size[1];
    let mut dx = operands.weight.map(|_| vec![0.0; extents.batch * extents.inputs * pixels]);
    let mut dweight: Option<Vec<f32>> = None;
    for span in extents.spans() {
        let Span { length, .. } = span;
        let gathered;
        let (gradient, stride) = if extents.batch == 1 {
            (&operands.gradient[span.first * extents.result[1]..], extents.plane())
        } else {
            gathered = extents.gather(operands.gradient, span);
            (&gathered[..], length)
        };
        if let (Some(dx), Some(weight)) = (&mut dx, operands.weight) {
            let mut columns = None;
            weight.for_each_part(None, |part, weight| {
                let weight = Matrices::new(weight, [0, 1, depth]);
                let gradient = Matrices::new(&gradient[part.start * stride..], [0, stride, 1]);
                let sizes = (depth, length, part.len());
                product::add_for_a_moment(&mut columns, 1, sizes, weight, gradient)
            })?;
            if let Some(columns) = columns {
                extents.add_columns(columns, dx, span);
            }
        }
        let gradient = Matrices::new(gradient, [0, stride, 1]);
        if let Some(x) = operands.x {
            let columns = extents.columns(x, span);
            let columns = Matrices::new(&columns, [0, 1, length]);
            let sizes = (outputs, depth, length);
            match &mut dweight {
                Some(sums) => product::add_products(sums, sizes, gradient, columns)?,
                None => dweight = Some(product::multiply(1, sizes, gradient, columns)?),
            }
        }
    }
    Ok([dx, dweight])
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::super::testing::{Case, assert_close, values, view};
    use super::*;

    /// All that can be added, in the order of the arguments after the weight.
    fn all(t: &[TapeTensor]) -> Addends<'_> {
        Addends { bias: Some(&t[2]), shift: Some(&t[3]), residual: Some(&t[4]) }
    }

    #[test]
    fn conv2d_agrees_with_its_reference() {
        for batch in [1, 3] {
            for (kernel, padding) in [(1, 0), (3, 1), (3, 0), (1, 1)] {
                for stride in [1, 2] {
                    for size in [[5, 7], [8, 8], [9, 8]] {
                        // The reference's backward pass pads both axes for the height's parity.
                        if stride == 2 && size == [9, 8] {
                            continue;
                        }
                        let geometry = Convolution { stride, padding };
                        let result = size.map(|size| (size + 2 * padding - kernel) / stride + 1);
                        let case = Case::new([
                            values(&[batch, 5, size[0], size[1]], 1),
                            values(&[7, 5, kernel, kernel], 2),
                            values(&[7], 3),
                            values(&[batch, 7], 4),
                            values(&[batch, 7, result[0], result[1]], 5),
                        ]);
                        case.check(
                            |t| conv2d(&t[0], &t[1], all(t), geometry),
                            |t| conv2d_reference(t, [true; 3], geometry),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn conv2d_of_views_without_addends() {
        let geometry = Convolution { stride: 1, padding: 1 };
        let case = Case::new([values(&[6, 4, 5, 3], 1), values(&[4, 7, 3, 3], 2)]);
        let turned = |t: &Tensor| t.transpose(1, 3)?.transpose(1, 2)?.narrow(1, 1, 4);
        let swapped = |t: &Tensor| t.transpose(0, 1);
        case.check(
            move |t| {
                let (x, weight) = (view(&t[0], turned)?, view(&t[1], swapped)?);
                conv2d(&x, &weight, Addends::default(), geometry)
            },
            |t| {
                let arguments = [turned(&t[0])?.contiguous()?, swapped(&t[1])?.contiguous()?];
                conv2d_reference(&arguments, [false; 3], geometry)
            },
        );
    }

    #[test]
    fn conv2d_by_winograd_agrees_with_its_reference() {
        let geometry = Convolution { stride: 1, padding: 1 };
        // The last by large tiles.
        for (batch, channels, size) in
            [(1, [16, 17], [9, 14]), (3, [20, 16], [8, 7]), (1, [16, 16], [33, 34])]
        {
            let case = Case::new([
                values(&[batch, channels[0], size[0], size[1]], 1),
                values(&[channels[1], channels[0], 3, 3], 2),
                values(&[channels[1]], 3),
                values(&[batch, channels[1]], 4),
                values(&[batch, channels[1], size[0], size[1]], 5),
            ]);
            let x = Shape::from((batch, channels[0], size[0], size[1]));
            let weight = Shape::from((channels[1], channels[0], 3, 3));
            assert!(Winograd::of(geometry.extents(&x, &weight).unwrap()).is_some());
            case.check(
                |t| conv2d(&t[0], &t[1], all(t), geometry),
                |t| conv2d_reference(t, [true; 3], geometry),
            );
        }
    }

    #[test]
    fn a_frozen_kernel_of_half_precision_is_widened() {
        let x = values(&[2, 60, 9, 8], 1);
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
            // More than is widened at a time.
            let weight = values(&[1_100, 60, kernel, kernel], 2).to_dtype(DType::BF16).unwrap();
            let wide = weight.to_dtype(DType::F32).unwrap();
            let geometry = Convolution { stride, padding: kernel / 2 };
            let run = |weight: &Tensor| {
                let variable = Var::from_tensor(&x).unwrap();
                let weight = TapeTensor::constant(weight);
                let x = TapeTensor::variable(&variable);
                let y = conv2d(&x, &weight, Addends::default(), geometry).unwrap();
                let result = y.tensor().clone();
                let gradient = values(result.dims(), 3);
                (result, y.backward(gradient).unwrap().take(&variable).unwrap())
            };
            let (got, expected) = (run(&weight), run(&wide));
            assert_close(&got.0, &expected.0, 1e-6);
            assert_close(&got.1, &expected.1, 1e-6);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let geometry = Convolution { stride: 1, padding: 1 };
        let traced = |shape: &[usize]| TapeTensor::constant(&values(shape, 1));
        let (x, weight) = (traced(&[2, 4, 5, 5]), traced(&[3, 4, 3, 3]));
        let fits = |addends: Addends| conv2d(&x, &weight, addends, geometry).is_ok();
        let [bias, shift, residual] =
            [&[3][..], &[2, 3], &[2, 3, 5, 5]].map(|shape: &[usize]| traced(shape));
        let right = Addends { bias: Some(&bias), shift: Some(&shift), residual: Some(&residual) };
        assert!(fits(right));
        assert!(!fits(Addends { bias: Some(&shift), ..right }));
        assert!(!fits(Addends { shift: Some(&bias), ..right }));
        assert!(!fits(Addends { residual: Some(&x), ..right }));
        assert!(conv2d(&x, &traced(&[3, 5, 3, 3]), Addends::default(), geometry).is_err());
    }
}
