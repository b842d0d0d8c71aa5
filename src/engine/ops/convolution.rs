//! Two-dimensional convolution: columns of pixels, and one product of matrices.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::columns::{Extents, Span};
use super::cpu::{self, Dense, Matrices};

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
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Convolution,
) -> Result<Tensor> {
    match bias {
        None if cpu::applies(&[x, weight]) => {
            x.contiguous()?.apply_op2(&weight.contiguous()?, geometry)
        }
        Some(bias) if cpu::applies(&[x, weight, bias]) => {
            x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, geometry)
        }
        bias => conv2d_reference(x, weight, bias, geometry),
    }
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

    fn forward(
        self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let extents = self.extents(x_layout.shape(), weight_layout.shape())?;
        let x = Dense::new(x, x_layout)?;
        let weight = Dense::new(weight, weight_layout)?.matrices(0, [0, extents.depth(), 1]);
        let bias = bias.map(|(bias, layout)| Dense::new(bias, layout)).transpose()?;
        let bias = bias.map(|bias| bias.values);
        let (outputs, plane) = (extents.outputs, extents.plane());
        if bias.is_some_and(|bias| bias.len() != outputs) {
            bail!("conv2d: the bias is not of {outputs} channels");
        }
        let y = if extents.is_pointwise() && (plane >= PLANE || extents.batch == 1) {
            let x = x.matrices(0, [extents.inputs * plane, plane, 1]);
            let sizes = (outputs, plane, extents.inputs);
            let mut y = cpu::multiply(extents.batch, sizes, weight, x)?;
            if let Some(bias) = bias {
                y.par_chunks_mut(plane).enumerate().for_each(|(index, y)| {
                    let bias = bias[index % outputs];
                    for y in y {
                        *y += bias;
                    }
                });
            }
            y
        } else {
            let mut y = vec![0.0; extents.batch * outputs * plane];
            for span in extents.spans() {
                let columns = CpuStorage::F32(extents.columns(x.values, span));
                let columns = Dense::whole(&columns)?.matrices(0, [0, span.length, 1]);
                let sizes = (outputs, span.length, extents.depth());
                let product = cpu::multiply(1, sizes, weight, columns)?;
                extents.scatter(&product, bias, &mut y, span);
            }
            y
        };
        let shape = (extents.batch, outputs, extents.result[0], extents.result[1]);
        Ok((CpuStorage::F32(y), Shape::from(shape)))
    }

    fn backward(
        self,
        x: &Tensor,
        weight: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let extents = self.extents(x.shape(), weight.shape())?;
        let gradient = gradient.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (weight_guard, weight_layout) = weight.storage_and_layout();
        let (guard, layout) = gradient.storage_and_layout();
        let values = Dense::locked(&x_guard, x_layout)?;
        let weights = Dense::locked(&weight_guard, weight_layout)?;
        let gradient = Dense::locked(&guard, layout)?;
        let wanted = [x.track_op(), weight.track_op()];
        let transposed = weights.matrices(0, [0, 1, extents.depth()]);
        let [dx, dweight] =
            if extents.is_pointwise() && (extents.plane() >= PLANE || extents.batch == 1) {
                pointwise_backward(extents, values, transposed, gradient, wanted)?
            } else {
                spans_backward(extents, values.values, transposed, gradient, wanted)?
            };
        Ok([
            dx.map(|dx| cpu::tensor(dx, x.shape())).transpose()?,
            dweight.map(|dweight| cpu::tensor(dweight, weight.shape())).transpose()?,
        ])
    }
}

/// The gradients of a convolution with a kernel of one pixel, which needs no columns.
fn pointwise_backward(
    extents: Extents,
    x: Dense,
    transposed: Matrices,
    gradient: Dense,
    wanted: [bool; 2],
) -> Result<[Option<Vec<f32>>; 2]> {
    let Extents { batch, inputs, outputs, .. } = extents;
    let plane = extents.plane();
    let gradient = gradient.matrices(0, [outputs * plane, plane, 1]);
    let dx = if wanted[0] {
        Some(cpu::multiply(batch, (inputs, plane, outputs), transposed, gradient)?)
    } else {
        None
    };
    let dweight = if wanted[1] {
        let x = x.matrices(0, [inputs * plane, 1, plane]);
        let products = cpu::multiply(batch, (outputs, inputs, plane), gradient, x)?;
        Some(cpu::column_sums(&products, outputs * inputs))
    } else {
        None
    };
    Ok([dx, dweight])
}

/// The gradients of any convolution, a span of result pixels at a time.
fn spans_backward(
    extents: Extents,
    x: &[f32],
    transposed: Matrices,
    gradient: Dense,
    wanted: [bool; 2],
) -> Result<[Option<Vec<f32>>; 2]> {
    let (outputs, depth) = (extents.outputs, extents.depth());
    let mut dx = wanted[0].then(|| vec![0.0; x.len()]);
    let mut dweight: Option<Vec<f32>> = None;
    for span in extents.spans() {
        let Span { length, .. } = span;
        let gathered;
        let (gradient, start, stride) = if extents.batch == 1 {
            (gradient, span.first * extents.result[1], extents.plane())
        } else {
            gathered = CpuStorage::F32(extents.gather(gradient.values, span));
            (Dense::whole(&gathered)?, 0, length)
        };
        if let Some(dx) = &mut dx {
            let gradient = gradient.matrices(start, [0, stride, 1]);
            let columns = cpu::multiply(1, (depth, length, outputs), transposed, gradient)?;
            extents.add_columns(columns, dx, span);
        }
        if wanted[1] {
            let columns = CpuStorage::F32(extents.columns(x, span));
            let columns = Dense::whole(&columns)?.matrices(0, [0, 1, length]);
            let gradient = gradient.matrices(start, [0, stride, 1]);
            let product = cpu::multiply(1, (outputs, depth, length), gradient, columns)?;
            match &mut dweight {
                Some(sum) => cpu::add(sum, &product),
                None => dweight = Some(product),
            }
        }
    }
    Ok([dx, dweight])
}

/// The sums of each channel over all images and pixels.
fn channel_sums(gradient: &Tensor) -> Result<Vec<f32>> {
    let gradient = gradient.contiguous()?;
    let (_, channels, height, width) = gradient.dims4()?;
    let (guard, layout) = gradient.storage_and_layout();
    let values = Dense::locked(&guard, layout)?.values;
    let sums: Vec<f32> = values
        .par_chunks(height * width)
        .map(|plane| {
            cpu::vectorised(
                #[inline(always)]
                || super::exponential::sum(plane, |g| g),
            )
        })
        .collect();
    Ok(cpu::column_sums(&sums, channels))
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dweight] = self.backward(x, weight, gradient)?;
        Ok((dx, dweight))
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dweight] = self.backward(x, weight, gradient)?;
        let dbias = if bias.track_op() {
            Some(cpu::tensor(channel_sums(gradient)?, bias.shape())?)
        } else {
            None
        };
        Ok((dx, dweight, dbias))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
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
        case.check(
            |t| {
                conv2d(
                    &t[0].transpose(1, 3)?.transpose(1, 2)?.narrow(1, 1, 4)?,
                    &t[1].transpose(0, 1)?,
                    None,
                    geometry,
                )
            },
            |t| {
                let x = t[0].transpose(1, 3)?.transpose(1, 2)?.narrow(1, 1, 4)?.contiguous()?;
                conv2d_reference(&x, &t[1].transpose(0, 1)?.contiguous()?, None, geometry)
            },
        );
    }
}
