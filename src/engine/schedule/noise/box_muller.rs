//! From uniform to normal values with the single precision functions that torch uses on AVX2.
//!
//! Torch takes logarithm, sine and cosine from `ATen/native/cpu/avx_mathfun.h`: the polynomials of
//! the Cephes library, with products and sums fused where its compiler fuses them. Written out here
//! with the same fusing, they give torch's values bit for bit, and the same ones on every platform.

/// Values of one block: eight pairs.
pub(super) const BLOCK: usize = 16;

/// Turns 16 uniform values of `[0, 1)` into 16 normal ones (`at::native::NormalFill16<float>`):
/// the first eight give the radii, the last eight the angles.
pub(super) fn box_muller(block: &mut [f32]) {
    let (cosines, sines) = block.split_at_mut(BLOCK / 2);
    for (cosine, sine) in cosines.iter_mut().zip(sines) {
        // From [0, 1) to (0, 1]: the logarithm stays finite.
        let radius = (-2.0 * ln(1.0 - *cosine)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *sine);
        *cosine = radius * cos;
        *sine = radius * sin;
    }
}

/// Natural logarithm of a positive normal number (`log256_ps`).
fn ln(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 9] = [
        7.037_683_6e-2, -1.151_461e-1, 1.167_699_84e-1, -1.242_014_1e-1, 1.424_932_3e-1,
        -1.666_805_8e-1, 2.000_071_4e-1, -2.499_999_4e-1, 3.333_333e-1,
    ];
    /// ln 2 in two parts, the first exact in few bits.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let bits = x.to_bits();
    let mut exponent = ((bits >> 23) as f32) - 126.0;
    let mut mantissa = f32::from_bits(bits & 0x007F_FFFF | 0x3F00_0000);
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        mantissa = (mantissa - 1.0) + mantissa;
    } else {
        mantissa -= 1.0;
    }
    let square = mantissa * mantissa;
    let series = horner(&COEFFICIENTS, mantissa) * mantissa;
    let series = series.mul_add(square, exponent * LN_2.1);
    let series = (-square).mul_add(0.5, series);
    exponent.mul_add(LN_2.0, mantissa + series)
}

/// Sine and cosine of an angle from zero to a full turn (`sincos256_ps`).
fn sin_cos(angle: f32) -> (f32, f32) {
    /// A quarter of pi in three parts, negative.
    const QUARTER: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
    const SINE: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    const COSINE: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
    let octant = ((angle * (4.0 / std::f32::consts::PI)) as u32 + 1) & !1;
    let rest = QUARTER.iter().fold(angle, |rest, part| (octant as f32).mul_add(*part, rest));
    let square = rest * rest;
    let cosine = (horner(&COSINE, square) * square).mul_add(square, -(square * 0.5)) + 1.0;
    let sine = (horner(&SINE, square) * square).mul_add(rest, rest);
    let (sine, cosine) = if octant & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let signed = |value: f32, negative: bool| if negative { -value } else { value };
    (signed(sine, octant & 4 != 0), signed(cosine, octant.wrapping_sub(2) & 4 == 0))
}

/// A polynomial from its highest coefficient down.
fn horner(coefficients: &[f32], x: f32) -> f32 {
    coefficients.iter().copied().reduce(|sum, next| sum.mul_add(x, next)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_are_those_of_double_precision_up_to_rounding() {
        for step in 0..=10_000_u16 {
            let share = f32::from(step) / 10_000.0;
            let angle = std::f32::consts::TAU * share;
            let (sine, cosine) = sin_cos(angle);
            assert!((f64::from(sine) - f64::from(angle).sin()).abs() < 1.2e-7, "sin {angle}");
            assert!((f64::from(cosine) - f64::from(angle).cos()).abs() < 1.2e-7, "cos {angle}");
            let x = (f32::from(step) + 1.0) * (-24_f32).exp2();
            let want = f64::from(x).ln();
            assert!((f64::from(ln(x)) / want - 1.0).abs() < 1.2e-7, "ln {x}");
        }
        assert!(ln(1.0).abs() < f32::MIN_POSITIVE);
    }
}
