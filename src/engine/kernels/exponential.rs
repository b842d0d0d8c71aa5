//! Exponentials and sums in plain loops that the compiler can vectorise.
//!
//! To be called within [`super::cpu::vectorised`]: there the fused multiply-adds are single
//! instructions and the functions are inlined into loops over whole vectors.

#![allow(
    clippy::inline_always,
    reason = "a call within a loop would keep the loop from being vectorised"
)]

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// The smallest argument whose exponential is a normal number; below it the result is zero.
const LOWEST: f32 = -87.336_54;
/// The largest argument; above it the result stays at `2.4e38`, finite.
const HIGHEST: f32 = 88.37;
/// `1.5 · 2^23`: adding it rounds a number of moderate size to an integer in the low bits.
const ROUND: f32 = 12_582_912.0;
/// `1 / √(2π)`.
const GAUSS: f32 = 0.398_942_3;

/// `eˣ`, good to two units in the last place (Cephes `expf`); zero below -87.3, NaN for NaN.
#[inline(always)]
pub(in crate::engine) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(LOWEST, HIGHEST);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let whole = shifted - ROUND;
    // ln 2 in two parts, so that the remainder is exact.
    let rest = whole.mul_add(-0.693_359_4, clamped);
    let rest = whole.mul_add(2.121_944_4e-4, rest);
    let series = 1.987_569_2e-4_f32
        .mul_add(rest, 1.398_199_9e-3)
        .mul_add(rest, 8.333_452e-3)
        .mul_add(rest, 4.166_579_6e-2)
        .mul_add(rest, 1.666_666_6e-1)
        .mul_add(rest, 0.5)
        .mul_add(rest * rest, rest)
        + 1.0;
    // The exponent bits of 2^whole; what overflows to the left is the rounding constant.
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let y = series * power;
    if x < LOWEST { 0.0 } else { y }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(in crate::engine) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The magnitude from which on [`tail`] serves the error function, and below it [`middle`].
const TAIL: f32 = 0.927_734_4;

/// `1 - erf(t)` for `t` above [`TAIL`], with a small relative error as long as it is normal
/// (Juffa's single-precision `erff`).
#[inline(always)]
fn tail(t: f32) -> f32 {
    let square = t * t;
    let low = (-3.883_964_4e-3_f32).mul_add(t, 2.425_462_2e-2);
    exp((-1.728_534_7e-5_f32)
        .mul_add(t, 3.831_971_3e-4)
        .mul_add(square, low)
        .mul_add(t, -0.106_777_88)
        .mul_add(t, -0.634_846_7)
        .mul_add(t, -0.128_717_51)
        .mul_add(t, -t))
}

/// The error function of magnitudes up to [`TAIL`].
#[inline(always)]
fn middle(x: f32) -> f32 {
    let square = x * x;
    (-5.967_617e-4_f32)
        .mul_add(square, 4.991_194_2e-3)
        .mul_add(square, -2.676_813_5e-2)
        .mul_add(square, 0.112_819_925)
        .mul_add(square, -0.376_125_34)
        .mul_add(square, 0.128_379_17)
        .mul_add(x, x)
}

/// `Φ(x)`, the normal distribution function, with an absolute error below `1e-7`; the tails have a
/// small relative error.
#[inline(always)]
pub(in crate::engine) fn normal(x: f32) -> f32 {
    let x = x * FRAC_1_SQRT_2;
    let (tail, middle) = (0.5 * tail(x.abs()), middle(x).mul_add(0.5, 0.5));
    let outer = if x < 0.0 { tail } else { 1.0 - tail };
    if x.abs() > TAIL { outer } else { middle }
}

/// `Φ'(x)`, the normal density.
#[inline(always)]
pub(in crate::engine) fn normal_density(x: f32) -> f32 {
    GAUSS * exp(-0.5 * x * x)
}

/// Partial sums kept side by side, as many as the widest vector register holds.
const LANES: usize = 16;
/// Values whose sum is taken in `f32` before it joins the `f64` total.
const BLOCK: usize = 4_096;

/// `Σ term(aᵢ, bᵢ)`, in an order that depends on the length alone.
#[inline(always)]
pub(in crate::engine) fn sum_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut total = 0.0_f64;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut lanes = [0.0_f32; LANES];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let rest = a.remainder().iter().zip(b.remainder());
        for (a, b) in a.zip(b) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += term(a, b);
            }
        }
        for (lane, (&a, &b)) in lanes.iter_mut().zip(rest) {
            *lane += term(a, b);
        }
        total += f64::from(lanes.iter().sum::<f32>());
    }
    total as f32
}

/// `Σ term(xᵢ)`, in an order that depends on the length alone.
#[inline(always)]
pub(in crate::engine) fn sum(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    sum_pairs(x, x, |x, _| term(x))
}

/// The largest value; a NaN may go unnoticed here, so the caller must let it show elsewhere.
#[inline(always)]
pub(in crate::engine) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &x| if x > most { x } else { most })
}

/// The mean, and one over the root of the variance plus `eps`.
#[inline(always)]
pub(in crate::engine) fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "these results are exact")]

    use super::*;

    #[test]
    fn exp_is_good_to_a_few_units_in_the_last_place() {
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) / right - 1.0).abs() < 2.5e-7, "{x}");
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NAN).is_nan());
        assert!(normal(f32::NAN).is_nan());
        assert_eq!(normal(f32::INFINITY), 1.0);
        assert_eq!(normal(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn the_normal_distribution_is_within_1e_7() {
        for step in -100_000..=100_000 {
            let x = step as f32 * 1e-4;
            let half = -f64::from(x) * std::f64::consts::FRAC_1_SQRT_2;
            let right = 0.5 * candle_core::cpu::erf::erfc_f64(half);
            assert!((f64::from(normal(x)) - right).abs() < 1e-7, "{x}: {} {right}", normal(x));
            if x > -4.0 {
                assert!(
                    (f64::from(normal(x)) / right - 1.0).abs() < 5e-5,
                    "{x}: {} {right}",
                    normal(x)
                );
            }
        }
    }

    #[test]
    fn sums_of_any_length() {
        for length in [0, 1, 15, 16, 17, 4_095, 4_096, 4_097, 10_000] {
            let x: Vec<f32> = (0..length).map(|i| (i % 7) as f32 - 2.0).collect();
            let right: f64 = x.iter().map(|&x| f64::from(x * x)).sum();
            assert_eq!(sum(&x, |x| x * x), right as f32);
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&x), most);
        }
    }
}
