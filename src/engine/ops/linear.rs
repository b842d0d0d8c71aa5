//! Affine maps of the last axis.

use candle_core::{Result, Shape, Tensor, bail};

use super::product::{self, Matrices};
use super::traced::Traced;
use super::{cpu, cuda};

/// `x · weightᵀ + bias`.
///
/// # Shapes
/// `x: […, in]`, `weight: [out, in]`, `bias: [out]`, result `[…, out]`.
pub fn linear(x: &Traced, weight: &Traced, bias: Option<&Traced>) -> Result<Traced> {
    let arguments: Vec<&Traced> = [x, weight].into_iter().chain(bias).collect();
    let tensors: Vec<&Tensor> = arguments.iter().map(|argument| argument.tensor()).collect();
    if cuda::is_fast(&tensors) {
        return cuda::linear(x, weight, bias);
    }
    if !cpu::is_fast(&tensors) {
        let reference = |t: &[Tensor]| linear_reference(&t[0], &t[1], t.get(2));
        return Traced::by_candle(&arguments, reference);
    }
    let operation = Linear { x: x.tensor().contiguous()?, weight: weight.tensor().contiguous()? };
    let y = operation.forward(bias.map(Traced::tensor))?;
    let followed: Vec<bool> = arguments.iter().map(|argument| argument.is_followed()).collect();
    let kept = operation.keep(&followed);
    Ok(Traced::result(y, &arguments, move |gradient| kept.backward(gradient, &followed)))
}

pub(super) fn linear_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let y = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    shape.push(weight.dim(0)?);
    y.reshape(shape)
}

/// See [`linear`].
#[derive(Debug)]
struct Linear {
    x: Tensor,
    weight: Tensor,
}

/// What the gradients need, and no more: a frozen weight's layer does not keep its input.
#[derive(Debug)]
struct Kept {
    x: Option<Tensor>,
    weight: Option<Tensor>,
    shapes: [Shape; 2],
}

impl Linear {
    fn forward(&self, bias: Option<&Tensor>) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut shape = self.x.dims().to_vec();
        if shape.pop() != Some(inputs) {
            bail!("linear: x {:?} does not fit weight {:?}", self.x.shape(), self.weight.shape());
        }
        let rows = shape.iter().product();
        shape.push(outputs);
        let (x, weight) = (cpu::values(&self.x), cpu::values(&self.weight));
        let x = Matrices::new(x.get()?, [0, inputs, 1]);
        let weight = Matrices::new(weight.get()?, [0, 1, inputs]);
        let mut y = product::multiply(1, (rows, outputs, inputs), x, weight)?;
        if let Some(bias) = bias {
            if bias.dims() != [outputs] {
                bail!("linear: bias {:?} does not fit {outputs} outputs", bias.shape());
            }
            let bias = bias.contiguous()?;
            let bias = cpu::values(&bias);
            cpu::add_to_rows(&mut y, bias.get()?);
        }
        cpu::tensor(y, &Shape::from(shape))
    }

    fn keep(self, followed: &[bool]) -> Kept {
        let shapes = [self.x.shape().clone(), self.weight.shape().clone()];
        Kept {
            x: followed[1].then_some(self.x),
            weight: followed[0].then_some(self.weight),
            shapes,
        }
    }
}

impl Kept {
    fn backward(self, gradient: &Tensor, followed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let [x_shape, weight_shape] = &self.shapes;
        let (outputs, inputs) = weight_shape.dims2()?;
        let rows = gradient.elem_count() / outputs.max(1);
        let gradient = cpu::values(gradient);
        let gradient = gradient.get()?;
        let mut gradients = vec![None; followed.len()];
        if let Some(weight) = &self.weight {
            let weight = cpu::values(weight);
            let weight = Matrices::new(weight.get()?, [0, inputs, 1]);
            let gradient = Matrices::new(gradient, [0, outputs, 1]);
            let dx = product::multiply(1, (rows, inputs, outputs), gradient, weight)?;
            gradients[0] = Some(cpu::tensor(dx, x_shape)?);
        }
        if let Some(x) = &self.x {
            let x = cpu::values(x);
            let x = Matrices::new(x.get()?, [0, inputs, 1]);
            let gradient = Matrices::new(gradient, [0, 1, outputs]);
            let dweight = product::multiply(1, (outputs, inputs, rows), gradient, x)?;
            gradients[1] = Some(cpu::tensor(dweight, weight_shape)?);
        }
        if followed.get(2) == Some(&true) {
            let sums = cpu::column_sums(gradient, outputs);
            gradients[2] = Some(cpu::tensor(sums, &Shape::from(outputs))?);
        }
        Ok(gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
    use super::*;

    #[test]
    fn linear_agrees_with_its_reference() {
        for (shape, inputs, outputs) in [(vec![1, 5], 5, 7), (vec![3, 11, 13], 13, 9)] {
            let case = Case::new([
                values(&shape, 1),
                values(&[outputs, inputs], 2),
                values(&[outputs], 3),
            ]);
            case.check(
                |t| linear(&t[0], &t[1], Some(&t[2])),
                |t| linear_reference(&t[0], &t[1], Some(&t[2])),
            );
            let case = Case::new([values(&shape, 1), values(&[outputs, inputs], 2)]);
            case.check(|t| linear(&t[0], &t[1], None), |t| linear_reference(&t[0], &t[1], None));
        }
    }

    #[test]
    fn linear_of_views() {
        let case = Case::new([values(&[6, 4, 3], 1), values(&[6, 5], 2), values(&[5], 3)]);
        case.check(
            |t| linear(&view(&t[0], |t| t.transpose(0, 2))?, &view(&t[1], Tensor::t)?, Some(&t[2])),
            |t| linear_reference(&t[0].transpose(0, 2)?, &t[1].t()?, Some(&t[2])),
        );
    }
}
