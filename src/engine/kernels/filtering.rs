//! Winograd's minimal filtering F(M × M, 3 × 3) along one axis, and the adjoint of each step.
//!
//! `M` result pixels see `E = M + 2` input pixels; transformed, both they and the three elements of a
//! kernel are `E` elements, whose products [`Output`] makes into result pixels (Lavin and Gray, "Fast
//! Algorithms for Convolutional Neural Networks", 2016, section 4).
//!
//! F(2, 3) is theirs. F(4, 3) interpolates at 0, ±5/8, ±3/2 and infinity: by theirs, ±1 and ±2,
//! rounding errors are twice as large. Both pairs and the squares of both are exact in `f32`.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined is compiled for the least of machines"
)]

use std::ops::{Add, Mul, Sub};

use pulp::Simd;

/// As many values as the machine has lanes, and its leave to compute with them.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Vector<S: Simd>(
    pub(in crate::engine) S,
    pub(in crate::engine) S::f32s,
);

impl<S: Simd> Vector<S> {
    /// `self + factor · other`.
    #[inline(always)]
    fn plus(self, factor: f32, other: Self) -> Self {
        let simd = self.0;
        Self(simd, simd.mul_add_e_f32s(simd.splat_f32s(factor), other.1, self.1))
    }
}

impl<S: Simd> Add for Vector<S> {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0, self.0.add_f32s(self.1, other.1))
    }
}

impl<S: Simd> Sub for Vector<S> {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0, self.0.sub_f32s(self.1, other.1))
    }
}

impl<S: Simd> Mul<Vector<S>> for f32 {
    type Output = Vector<S>;

    #[inline(always)]
    fn mul(self, vector: Vector<S>) -> Vector<S> {
        let simd = vector.0;
        Vector(simd, simd.mul_f32s(simd.splat_f32s(self), vector.1))
    }
}

/// A linear map of `A` elements of a row, or a column, to `B`.
pub(in crate::engine) trait Step<const A: usize, const B: usize>:
    Copy + Sync
{
    fn apply<S: Simd>(self, from: [Vector<S>; A]) -> [Vector<S>; B];
}

/// Three elements of a kernel to those of a product.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Kernel;
/// From the gradients of [`Kernel`]'s results to those of the elements.
#[derive(Clone, Copy)]
pub(in crate::engine) struct KernelAdjoint;
/// The input pixels that a tile sees to the elements of a product.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Input;
/// From the gradients of [`Input`]'s results to those of the pixels.
#[derive(Clone, Copy)]
pub(in crate::engine) struct InputAdjoint;
/// The elements of a product to result pixels.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Output;
/// From the gradients of [`Output`]'s pixels to those of the elements.
#[derive(Clone, Copy)]
pub(in crate::engine) struct OutputAdjoint;

impl Step<3, 4> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c]: [Vector<S>; 3]) -> [Vector<S>; 4] {
        let ends = a + c;
        [a, 0.5 * (ends + b), 0.5 * (ends - b), c]
    }
}

impl Step<4, 3> for KernelAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c, d]: [Vector<S>; 4]) -> [Vector<S>; 3] {
        let sum = b + c;
        [a.plus(0.5, sum), 0.5 * (b - c), d.plus(0.5, sum)]
    }
}

impl Step<4, 4> for Input {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c, d]: [Vector<S>; 4]) -> [Vector<S>; 4] {
        [a - c, b + c, c - b, b - d]
    }
}

impl Step<4, 4> for InputAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c, d]: [Vector<S>; 4]) -> [Vector<S>; 4] {
        [a, (b - c) + d, (b + c) - a, -1.0 * d]
    }
}

impl Step<4, 2> for Output {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c, d]: [Vector<S>; 4]) -> [Vector<S>; 2] {
        [a + b + c, b - c - d]
    }
}

impl Step<2, 4> for OutputAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b]: [Vector<S>; 2]) -> [Vector<S>; 4] {
        [a, a + b, a - b, -1.0 * b]
    }
}

/// The points of F(4, 3), in pairs of both signs.
const NEAR: f32 = 5.0 / 8.0;
const FAR: f32 = 3.0 / 2.0;
/// Their squares.
const NEAR_2: f32 = NEAR * NEAR;
const FAR_2: f32 = FAR * FAR;
/// The other coefficients of x⁴ - (near² + far²) x² + near² far².
const SUM: f32 = NEAR_2 + FAR_2;
const PRODUCT: f32 = NEAR_2 * FAR_2;
/// One over the product of a point's distances from the others.
const AT_ZERO: f32 = 1.0 / PRODUCT;
const AT_NEAR: f32 = 1.0 / (2.0 * NEAR_2 * (NEAR_2 - FAR_2));
const AT_FAR: f32 = 1.0 / (2.0 * FAR_2 * (FAR_2 - NEAR_2));

impl Step<3, 6> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c]: [Vector<S>; 3]) -> [Vector<S>; 6] {
        let (near, far) = (AT_NEAR * a.plus(NEAR_2, c), AT_FAR * a.plus(FAR_2, c));
        [
            AT_ZERO * a,
            near.plus(AT_NEAR * NEAR, b),
            near.plus(-AT_NEAR * NEAR, b),
            far.plus(AT_FAR * FAR, b),
            far.plus(-AT_FAR * FAR, b),
            c,
        ]
    }
}

impl Step<6, 3> for KernelAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(self, [p, q, r, s, t, u]: [Vector<S>; 6]) -> [Vector<S>; 3] {
        let (near, far) = (AT_NEAR * (q + r), AT_FAR * (s + t));
        [
            (near + far).plus(AT_ZERO, p),
            (AT_NEAR * NEAR * (q - r)).plus(AT_FAR * FAR, s - t),
            u.plus(NEAR_2, near).plus(FAR_2, far),
        ]
    }
}

impl Step<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c, d, e, f]: [Vector<S>; 6]) -> [Vector<S>; 6] {
        let (near, near_odd) = (e.plus(-FAR_2, c), d.plus(-FAR_2, b));
        let (far, far_odd) = (e.plus(-NEAR_2, c), d.plus(-NEAR_2, b));
        [
            e.plus(-SUM, c).plus(PRODUCT, a),
            near.plus(NEAR, near_odd),
            near.plus(-NEAR, near_odd),
            far.plus(FAR, far_odd),
            far.plus(-FAR, far_odd),
            f.plus(-SUM, d).plus(PRODUCT, b),
        ]
    }
}

impl Step<6, 6> for InputAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(self, [p, q, r, s, t, u]: [Vector<S>; 6]) -> [Vector<S>; 6] {
        let (near, near_odd) = (q + r, NEAR * (q - r));
        let (far, far_odd) = (s + t, FAR * (s - t));
        [
            PRODUCT * p,
            (PRODUCT * u).plus(-FAR_2, near_odd).plus(-NEAR_2, far_odd),
            (-SUM * p).plus(-FAR_2, near).plus(-NEAR_2, far),
            (near_odd + far_odd).plus(-SUM, u),
            near + far + p,
            u,
        ]
    }
}

impl Step<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(self, [p, q, r, s, t, u]: [Vector<S>; 6]) -> [Vector<S>; 4] {
        let (near, near_odd) = (q + r, NEAR * (q - r));
        let (far, far_odd) = (s + t, FAR * (s - t));
        [
            near + far + p,
            near_odd + far_odd,
            (NEAR_2 * near).plus(FAR_2, far),
            u.plus(NEAR_2, near_odd).plus(FAR_2, far_odd),
        ]
    }
}

impl Step<4, 6> for OutputAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(self, [a, b, c, d]: [Vector<S>; 4]) -> [Vector<S>; 6] {
        let (near, near_odd) = (a.plus(NEAR_2, c), NEAR * b.plus(NEAR_2, d));
        let (far, far_odd) = (a.plus(FAR_2, c), FAR * b.plus(FAR_2, d));
        [a, near + near_odd, near - near_odd, far + far_odd, far - far_odd, d]
    }
}

#[cfg(test)]
mod tests {
    use pulp::Scalar;

    use super::*;

    fn apply<const A: usize, const B: usize>(step: impl Step<A, B>, from: [f32; A]) -> [f32; B] {
        step.apply(from.map(|value| Vector(Scalar, value))).map(|vector| vector.1)
    }

    fn numbers<const N: usize>(seed: usize) -> [f32; N] {
        std::array::from_fn(|index| ((index + seed) * 7 % 13) as f32 - 6.0)
    }

    fn dot<const N: usize>(a: [f32; N], b: [f32; N]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[track_caller]
    fn assert_close(got: f32, expected: f32) {
        assert!((got - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{got} {expected}");
    }

    /// A step's adjoint is its transpose: the products of results with gradients are those of
    /// arguments with the adjoint's.
    fn transposed<const A: usize, const B: usize>(step: impl Step<A, B>, adjoint: impl Step<B, A>) {
        for seed in 0..13 {
            let (from, gradient) = (numbers(seed), numbers(seed + 5));
            assert_close(dot(apply(step, from), gradient), dot(from, apply(adjoint, gradient)));
        }
    }

    fn filters<const M: usize, const E: usize>()
    where
        Kernel: Step<3, E>,
        Input: Step<E, E>,
        Output: Step<E, M>,
    {
        for seed in 0..13 {
            let (kernel, pixels): ([f32; 3], [f32; E]) = (numbers(seed), numbers(seed + 3));
            let (elements, seen) = (apply(Kernel, kernel), apply(Input, pixels));
            let products = std::array::from_fn(|index| elements[index] * seen[index]);
            let got: [f32; M] = apply(Output, products);
            for (first, got) in got.into_iter().enumerate() {
                assert_close(got, (0..3).map(|i| kernel[i] * pixels[first + i]).sum());
            }
        }
    }

    #[test]
    fn products_of_elements_make_the_filtered_pixels() {
        filters::<2, 4>();
        filters::<4, 6>();
    }

    #[test]
    fn adjoints_are_transposed() {
        transposed::<3, 4>(Kernel, KernelAdjoint);
        transposed::<4, 4>(Input, InputAdjoint);
        transposed::<4, 2>(Output, OutputAdjoint);
        transposed::<3, 6>(Kernel, KernelAdjoint);
        transposed::<6, 6>(Input, InputAdjoint);
        transposed::<6, 4>(Output, OutputAdjoint);
    }
}
