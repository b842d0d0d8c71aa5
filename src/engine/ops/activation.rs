//! Activations.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{self, Dense};
use super::exponential::{normal, normal_density, sigmoid};

/// `x · sigmoid(x)`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    apply(x, Activation::Silu)
}

/// `x · Φ(x)` with the exact error function, as Stable Diffusion needs it.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    apply(x, Activation::GeluErf)
}

/// `x · sigmoid(1.702 x)`, CLIP's activation.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    apply(x, Activation::QuickGelu)
}

/// `a · gelu_erf(b)` where `a` and `b` are the halves of the last axis (diffusers `GEGLU`).
///
/// # Shapes
/// `[…, 2 n]` to `[…, n]`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    if !cpu::applies(&[x]) || x.dim(D::Minus1)? % 2 != 0 {
        return geglu_reference(x);
    }
    x.contiguous()?.apply_op1(Geglu)
}

fn apply(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if !cpu::applies(&[x]) {
        return activation.reference(x);
    }
    x.contiguous()?.apply_op1(activation)
}

pub(super) fn geglu_reference(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0] * halves[1].gelu_erf()?
}

/// CLIP's constant.
const QUICK: f32 = 1.702;

/// An activation of each value on its own.
#[derive(Debug, Clone, Copy)]
enum Activation {
    Silu,
    GeluErf,
    QuickGelu,
}

impl Activation {
    fn reference(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => x.silu(),
            Self::GeluErf => x.gelu_erf(),
            Self::QuickGelu => x * ((x * f64::from(-QUICK))?.exp()? + 1.0)?.recip()?,
        }
    }

    fn forward(self, x: &[f32]) -> Vec<f32> {
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

    fn backward(self, x: &[f32], gradient: &[f32]) -> Vec<f32> {
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

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluErf => "gelu_erf",
            Self::QuickGelu => "quick_gelu",
        }
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(Dense::new(storage, layout)?.values);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (guard, layout) = gradient.storage_and_layout();
        let values = Dense::locked(&x_guard, x_layout)?.values;
        let dx = self.backward(values, Dense::locked(&guard, layout)?.values);
        Ok(Some(cpu::tensor(dx, x.shape())?))
    }
}

/// See [`geglu`].
#[derive(Debug, Clone, Copy)]
struct Geglu;

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Dense::new(storage, layout)?.values;
        let mut dims = layout.dims().to_vec();
        let half = dims.pop().unwrap_or(0) / 2;
        dims.push(half);
        let mut y = vec![0.0; x.len() / 2];
        if half > 0 {
            let rows = cpu::rows_per_task(half);
            y.par_chunks_mut(rows * half).zip(x.par_chunks(rows * half * 2)).for_each(|(y, x)| {
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        for (y, x) in y.chunks_exact_mut(half).zip(x.chunks_exact(2 * half)) {
                            let (a, b) = x.split_at(half);
                            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                                *y = a * b * normal(b);
                            }
                        }
                    },
                );
            });
        }
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (x_guard, x_layout) = x.storage_and_layout();
        let (guard, layout) = gradient.storage_and_layout();
        let values = Dense::locked(&x_guard, x_layout)?.values;
        let gradient = Dense::locked(&guard, layout)?.values;
        let half = x.dim(D::Minus1)? / 2;
        let mut dx = vec![0.0; values.len()];
        if half > 0 {
            let rows = cpu::rows_per_task(half);
            let inputs = values.par_chunks(rows * half * 2).zip(gradient.par_chunks(rows * half));
            dx.par_chunks_mut(rows * half * 2).zip(inputs).for_each(|(dx, (x, g))| {
                cpu::vectorised(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half));
                        for ((dx, x), g) in rows.zip(g.chunks_exact(half)) {
                            geglu_row_backward(dx, x, g);
                        }
                    },
                );
            });
        }
        Ok(Some(cpu::tensor(dx, x.shape())?))
    }
}

#[inline(always)]
fn geglu_row_backward(dx: &mut [f32], x: &[f32], gradient: &[f32]) {
    let half = gradient.len();
    let (da, db) = dx.split_at_mut(half);
    let (a, b) = x.split_at(half);
    let inputs = a.iter().zip(b).zip(gradient);
    for ((da, db), ((&a, &b), &g)) in da.iter_mut().zip(db).zip(inputs) {
        let phi = normal(b);
        *da = g * b * phi;
        *db = g * a * b.mul_add(normal_density(b), phi);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, values};
    use super::*;

    #[test]
    fn activations_agree_with_their_references() {
        for activation in [Activation::Silu, Activation::GeluErf, Activation::QuickGelu] {
            for shape in [vec![1, 3], vec![3, 5, 7], vec![2, 16_400]] {
                let case = Case::new([(values(&shape, 1) * 4.0).unwrap()]);
                case.check(|t| apply(&t[0], activation), |t| activation.reference(&t[0]));
            }
            let case = Case::new([values(&[4, 5], 1)]);
            case.check(|t| apply(&t[0].t()?, activation), |t| activation.reference(&t[0].t()?));
        }
    }

    #[test]
    fn geglu_agrees_with_its_reference() {
        for shape in [vec![1, 2], vec![3, 5, 26], vec![2, 257, 66]] {
            let case = Case::new([(values(&shape, 1) * 2.0).unwrap()]);
            case.check(|t| geglu(&t[0]), |t| geglu_reference(&t[0]));
        }
        let case = Case::new([values(&[6, 5], 1)]);
        case.check(|t| geglu(&t[0].t()?), |t| geglu_reference(&t[0].t()?));
    }
}
