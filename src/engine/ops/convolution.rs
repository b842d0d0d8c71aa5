//! Two-dimensional convolution: columns of pixels, and one product of matrices; or, of 3 × 3 kernels,
//! [`super::winograd`].

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::columns::{Extents, Span};
use super::cpu::{self, Values};
use super::cuda;
use super::product::{self, Matrices};
use super::traced::Traced;
use super::winograd::Winograd;

/// A convolution's geometry; dilation and groups are 1 throughout Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

/// `weight ∗ x + bias`.
///
/// # Shapes
/// `x: [batch, in, height, width]`, `weight: [out, in, kernel, kernel]`, `bias: [out]`.
pub fn conv2d(
    x: &Traced,
    weight: &Traced,
    bias: Option<&Traced>,
    geometry: Convolution,
) -> Result<Traced> {
    let arguments: Vec<&Traced> = [x, weight].into_iter().chain(bias).collect();
    let tensors: Vec<&Tensor> = arguments.iter().map(|argument| argument.tensor()).collect();
    if cuda::is_fast(&tensors) {
        return cuda::conv2d(x, weight, bias, geometry);
    }
    if !cpu::is_fast(&tensors) {
        let reference = move |t: &[Tensor]| conv2d_reference(&t[0], &t[1], t.get(2), geometry);
        return Traced::by_candle(&arguments, reference);
    }
    let extents = geometry.extents(x.tensor().shape(), weight.tensor().shape())?;
    let (x, weight) = (x.tensor().contiguous()?, weight.tensor().contiguous()?);
    let y = forward(extents, &x, &weight, bias.map(Traced::tensor))?;
    let followed: Vec<bool> = arguments.iter().map(|argument| argument.is_followed()).collect();
    // A frozen kernel's layer does not keep its input.
    let kept = Kept {
        extents,
        shapes: [x.shape().clone(), weight.shape().clone()],
        x: followed[1].then_some(x),
        weight: followed[0].then_some(weight),
    };
    Ok(Traced::result(y, &arguments, move |gradient| kept.backward(gradient, &followed)))
}

/// What the gradients need of a convolution, and no more.
#[derive(Debug)]
struct Kept {
    extents: Extents,
    shapes: [Shape; 2],
    /// For the gradient of the weight.
    x: Option<Tensor>,
    /// For the gradient of the input.
    weight: Option<Tensor>,
}

pub(super) fn conv2d_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Convolution,
) -> Result<Tensor> {
    let y = x.conv2d(weight, geometry.padding, geometry.stride, 1, 1)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
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

fn forward(extents: Extents, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, plane) = (extents.outputs, extents.plane());
    let bias = bias.map(Tensor::contiguous).transpose()?;
    if bias.as_ref().is_some_and(|bias| bias.dims() != [outputs]) {
        bail!("conv2d: the bias is not of {outputs} channels");
    }
    let bias = bias.as_ref().map(cpu::values);
    let bias = bias.as_ref().map(Values::get).transpose()?;
    let (x, weight) = (cpu::values(x), cpu::values(weight));
    let (x, weight) = (x.get()?, weight.get()?);
    let rows = Matrices::new(weight, [0, extents.depth(), 1]);
    let y = if is_product_of_planes(extents) {
        let x = Matrices::new(x, [extents.inputs * plane, plane, 1]);
        let mut y = product::multiply(extents.batch, (outputs, plane, extents.inputs), rows, x)?;
        if let Some(bias) = bias {
            y.par_chunks_mut(plane).enumerate().for_each(|(index, y)| {
                let bias = bias[index % outputs];
                for y in y {
                    *y += bias;
                }
            });
        }
        y
    } else if let Some(winograd) = Winograd::of(extents) {
        winograd.forward(x, weight, bias)?
    } else {
        let mut y = vec![0.0; extents.batch * outputs * plane];
        for span in extents.spans() {
            let columns = extents.columns(x, span);
            let columns = Matrices::new(&columns, [0, span.length, 1]);
            let sizes = (outputs, span.length, extents.depth());
            let product = product::multiply_for_a_moment(1, sizes, rows, columns)?;
            extents.scatter(&product, bias, &mut y, span);
        }
        y
    };
    cpu::tensor(y, &Shape::from((extents.batch, outputs, extents.result[0], extents.result[1])))
}

impl Kept {
    fn backward(self, gradient: &Tensor, followed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let Self { extents, shapes, x, weight } = self;
        let (x, weight) = (x.as_ref().map(cpu::values), weight.as_ref().map(cpu::values));
        let gradient_values = cpu::values(gradient);
        let operands = Operands {
            x: x.as_ref().map(Values::get).transpose()?,
            weight: weight.as_ref().map(Values::get).transpose()?,
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
        let mut gradients = vec![
            dx.map(|dx| cpu::tensor(dx, x_shape)).transpose()?,
            dweight.map(|dweight| cpu::tensor(dweight, weight_shape)).transpose()?,
        ];
        if let Some(bias) = followed.get(2) {
            let sums = || {
                let planes = cpu::row_sums(operands.gradient, extents.plane());
                let sums = cpu::column_sums(&planes, extents.outputs);
                cpu::tensor(sums, &Shape::from(extents.outputs))
            };
            gradients.push(bias.then(sums).transpose()?);
        }
        Ok(gradients)
    }
}

/// The result's gradient; the weight where the input's is wanted, and the other way round.
#[derive(Debug, Clone, Copy)]
struct Operands<'a> {
    x: Option<&'a [f32]>,
    weight: Option<&'a [f32]>,
    gradient: &'a [f32],
}

/// The gradients of a convolution with a kernel of one pixel, which needs no columns.
fn pointwise_backward(extents: Extents, operands: &Operands) -> Result<[Option<Vec<f32>>; 2]> {
    let Extents { batch, inputs, outputs, .. } = extents;
    let plane = extents.plane();
    let gradient = Matrices::new(operands.gradient, [outputs * plane, plane, 1]);
    let mut gradients = [None, None];
    if let Some(weight) = operands.weight {
        let weight = Matrices::new(weight, [0, 1, inputs]);
        gradients[0] = Some(product::multiply(batch, (inputs, plane, outputs), weight, gradient)?);
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
    let mut dweight = operands.x.map(|_| vec![0.0; outputs * depth]);
    for span in extents.spans() {
        let Span { length, .. } = span;
        let gathered;
        let (gradient, stride) = if extents.batch == 1 {
            (&operands.gradient[span.first * extents.result[1]..], extents.plane())
        } else {
            gathered = extents.gather(operands.gradient, span);
            (&gathered[..], length)
        };
        let gradient = Matrices::new(gradient, [0, stride, 1]);
        if let (Some(dx), Some(weight)) = (&mut dx, operands.weight) {
            let weight = Matrices::new(weight, [0, 1, depth]);
            let sizes = (depth, length, outputs);
            let columns = product::multiply_for_a_moment(1, sizes, weight, gradient)?;
            extents.add_columns(columns, dx, span);
        }
        if let (Some(dweight), Some(x)) = (&mut dweight, operands.x) {
            let columns = extents.columns(x, span);
            let columns = Matrices::new(&columns, [0, 1, length]);
            product::add_products(dweight, (outputs, depth, length), gradient, columns)?;
        }
    }
    Ok([dx, dweight])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
    use super::*;

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
                        let case = Case::new([
                            values(&[batch, 5, size[0], size[1]], 1),
                            values(&[7, 5, kernel, kernel], 2),
                            values(&[7], 3),
                        ]);
                        case.check(
                            |t| conv2d(&t[0], &t[1], Some(&t[2]), geometry),
                            |t| conv2d_reference(&t[0], &t[1], Some(&t[2]), geometry),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn conv2d_of_views_without_bias() {
        let geometry = Convolution { stride: 1, padding: 1 };
        let case = Case::new([values(&[6, 4, 5, 3], 1), values(&[4, 7, 3, 3], 2)]);
        let turned = |t: &Tensor| t.transpose(1, 3)?.transpose(1, 2)?.narrow(1, 1, 4);
        let swapped = |t: &Tensor| t.transpose(0, 1);
        case.check(
            move |t| conv2d(&view(&t[0], turned)?, &view(&t[1], swapped)?, None, geometry),
            |t| {
                let x = turned(&t[0])?.contiguous()?;
                conv2d_reference(&x, &swapped(&t[1])?.contiguous()?, None, geometry)
            },
        );
    }

    #[test]
    fn conv2d_by_winograd_agrees_with_its_reference() {
        let geometry = Convolution { stride: 1, padding: 1 };
        for (batch, channels, size) in [(1, [16, 17], [9, 14]), (3, [20, 16], [8, 7])] {
            let case = Case::new([
                values(&[batch, channels[0], size[0], size[1]], 1),
                values(&[channels[1], channels[0], 3, 3], 2),
                values(&[channels[1]], 3),
            ]);
            let x = Shape::from((batch, channels[0], size[0], size[1]));
            let weight = Shape::from((channels[1], channels[0], 3, 3));
            assert!(Winograd::of(geometry.extents(&x, &weight).unwrap()).is_some());
            case.check(
                |t| conv2d(&t[0], &t[1], Some(&t[2]), geometry),
                |t| conv2d_reference(&t[0], &t[1], Some(&t[2]), geometry),
            );
        }
    }
}
