//! Activations.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use candle_core::{D, Result, Shape, Tensor};

use super::cuda;
use super::parameters::Activation;
use crate::engine::kernels::buffer::Buffer;
use crate::engine::kernels::cpu;
use crate::engine::kernels::exponential::{normal, normal_density, sigmoid};
use crate::engine::kernels::fresh;
use crate::engine::tape::TapeTensor;
use crate::engine::tape::dry_run::Footprint;

/// `x · sigmoid(x)`.
pub fn silu(x: &TapeTensor) -> Result<TapeTensor> {
    apply(x, Activation::Silu)
}

/// `x · Φ(x)` with the exact error function, as Stable Diffusion needs it.
pub fn gelu_erf(x: &TapeTensor) -> Result<TapeTensor> {
    apply(x, Activation::GeluErf)
}

/// `x · sigmoid(1.702 x)`, CLIP's activation.
pub fn quick_gelu(x: &TapeTensor) -> Result<TapeTensor> {
    apply(x, Activation::QuickGelu)
}

/// `a · gelu_erf(b)` where `a` and `b` are the halves of the last axis (diffusers `GEGLU`).
///
/// # Shapes
/// `[…, 2 n]` to `[…, n]`.
pub fn geglu(x: &TapeTensor) -> Result<TapeTensor> {
    let half = x.tensor().dim(D::Minus1)? / 2;
    let footprint = || {
        let mut shape = x.tensor().dims().to_vec();
        shape.pop();
        shape.push(half);
        Ok(Footprint { keeps: vec![0], ..Footprint::of(shape) })
    };
    if let Some(y) = TapeTensor::sized(&[x], footprint)? {
        return Ok(y);
    }
    if cuda::is_fast(&[x.tensor()]) {
        return cuda::geglu(x);
    }
    if !cpu::is_fast(&[x.tensor()]) || half * 2 != x.tensor().dim(D::Minus1)? {
        return TapeTensor::via_candle_autograd(&[x], |t| geglu_reference(&t[0]));
    }
    let values = x.tensor().contiguous()?;
    let mut dims = values.dims().to_vec();
    dims.pop();
    dims.push(half);
    let y = cpu::tensor(geglu_forward(cpu::values(&values).get()?, half)?, &Shape::from(dims))?;
    Ok(TapeTensor::result(y, &[x], move |gradient| {
        let (x, g) = (cpu::values(&values), cpu::values(gradient));
        Ok(vec![Some(cpu::tensor(geglu_backward(x.get()?, g.get()?, half)?, values.shape())?)])
    }))
}

fn apply(x: &TapeTensor, activation: Activation) -> Result<TapeTensor> {
    let footprint = || Ok(Footprint { keeps: vec![0], ..Footprint::of(x.tensor().shape()) });
    if let Some(y) = TapeTensor::sized(&[x], footprint)? {
        return Ok(y);
    }
    if cuda::is_fast(&[x.tensor()]) {
        return cuda::activation(x, activation);
    }
    if !cpu::is_fast(&[x.tensor()]) {
        return TapeTensor::via_candle_autograd(&[x], move |t| activation.reference(&t[0]));
    }
    let values = x.tensor().contiguous()?;
    let y = cpu::tensor(activation.forward(cpu::values(&values).get()?)?, values.shape())?;
    Ok(TapeTensor::result(y, &[x], move |gradient| {
        let (x, g) = (cpu::values(&values), cpu::values(gradient));
        Ok(vec![Some(cpu::tensor(activation.backward(x.get()?, g.get()?)?, values.shape())?)])
    }))
}

pub(super) fn geglu_reference(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * halves[1].gelu_erf()?
}

/// CLIP's constant.
const QUICK: f32 = 1.702;

impl Activation {
    pub(super) fn reference(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => x.silu(),
            Self::GeluErf => x.gelu_erf(),
            Self::QuickGelu => x * ((x * f64::from(-QUICK))?.exp()? + 1.0)?.recip()?,
        }
    }

    fn forward(self, x: &[f32]) -> Result<Vec<f32>> {
        match self {
            Self::Silu => cpu::map(
                x,
                #[inline(always)]
                |x| x * sigmoid(x),
            ),
            Self::GeluErf => cpu::map(
                x,
                #[inline(always)]
                |x| x * normal(x),
            ),
            Self::QuickGelu => cpu::map(
                x,
                #[inline(always)]
                |x| x * sigmoid(QUICK * x),
            ),
        }
    }

    fn backward(self, x: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
        match self {
            Self::Silu => cpu::map_pairs(
                x,
                gradient,
                #[inline(always)]
                |x, g| g * silu_slope(x),
            ),
            Self::GeluErf => cpu::map_pairs(
                x,
                gradient,
                #[inline(always)]
                |x, g| g * gelu_slope(x),
            ),
            Self::QuickGelu => cpu::map_pairs(
                x,
                gradient,
                #[inline(always)]
                |x, g| {
                    let s = sigmoid(QUICK * x);
                    g * s * (QUICK * x).mul_add(1.0 - s, 1.0)
                },
            ),
        }
    }
}

/// The derivative of `SiLU`.
#[inline(always)]
pub(super) fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * x.mul_add(1.0 - s, 1.0)
}

/// The derivative of the exact GELU.
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    x.mul_add(normal_density(x), normal(x))
}

fn geglu_forward(x: &[f32], half: usize) -> Result<Vec<f32>> {
    let chunk = half * cpu::rows_per_task(half);
    fresh::written(x.len() / 2, chunk, |task, y| {
        let x = &x[2 * task * chunk..];
        cpu::vectorised(
            #[inline(always)]
            || {
                for x in x[..2 * y.room()].chunks_exact(2 * half) {
                    let (a, b) = x.split_at(half);
                    y.extend(a.iter().zip(b).map(
                        #[inline(always)]
                        |(&a, &b)| a * b * normal(b),
                    ));
                }
            },
        );
    })
}

fn geglu_backward(x: &[f32], gradient: &[f32], half: usize) -> Result<Vec<f32>> {
    let chunk = half * cpu::rows_per_task(half);
    fresh::written(x.len(), 2 * chunk, |task, dx| {
        let (x, gradient) = (&x[2 * task * chunk..], &gradient[task * chunk..]);
        let mut phi = Buffer::new(half);
        cpu::vectorised(
            #[inline(always)]
            || {
                let rows = x[..dx.room()].chunks_exact(2 * half);
                for (x, gradient) in rows.zip(gradient.chunks_exact(half)) {
                    let (a, b) = x.split_at(half);
                    for (phi, &b) in phi.iter_mut().zip(b) {
                        *phi = normal(b);
                    }
                    let terms = gradient.iter().zip(b).zip(phi.iter());
                    dx.extend(terms.map(
                        #[inline(always)]
                        |((&g, &b), &phi)| g * b * phi,
                    ));
                    let terms = gradient.iter().zip(a).zip(b).zip(phi.iter());
                    dx.extend(terms.map(
                        #[inline(always)]
                        |(((&g, &a), &b), &phi)| g * a * b.mul_add(normal_density(b), phi),
                    ));
                }
            },
        );
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values, view};
    use super::*;

    #[test]
    fn activations_agree_with_their_references() {
        for activation in [Activation::Silu, Activation::GeluErf, Activation::QuickGelu] {
            for shape in [vec![1, 3], vec![3, 5, 7], vec![2, 16_400]] {
                let case = Case::new([(values(&shape, 1) * 4.0).unwrap()]);
                case.check(|t| apply(&t[0], activation), |t| activation.reference(&t[0]));
            }
            let case = Case::new([values(&[4, 5], 1)]);
            case.check(
                |t| apply(&view(&t[0], Tensor::t)?, activation),
                |t| activation.reference(&t[0].t()?),
            );
        }
    }

    #[test]
    fn geglu_agrees_with_its_reference() {
        for shape in [vec![1, 2], vec![3, 5, 26], vec![2, 257, 66]] {
            let case = Case::new([(values(&shape, 1) * 2.0).unwrap()]);
            case.check(|t| geglu(&t[0]), |t| geglu_reference(&t[0]));
        }
        let case = Case::new([values(&[6, 5], 1)]);
        case.check(|t| geglu(&view(&t[0], Tensor::t)?), |t| geglu_reference(&t[0].t()?));
    }
}
