//! Pillow's resizing of 8-bit pictures with `Resampling.LANCZOS`, to the bit: what diffusers fits a
//! picture to an autoencoder with.

use std::f64::consts::PI;

use crate::outcome::Picture;

/// Half the width of the filter, in pixels of the smaller picture.
const SUPPORT: f64 = 3.0;
/// Bits behind the point of a weight (Pillow: `PRECISION_BITS`).
const PRECISION: u32 = 22;
const CHANNELS: usize = 3;

/// The pixels that one pixel of the result is made of.
#[derive(Debug)]
struct Window {
    first: usize,
    /// In fixed point, as [`PRECISION`] has it.
    weights: Vec<i32>,
}

/// A picture of another size. Sides of 1 and more, of which the picture's own are left alone.
pub(super) fn lanczos(picture: Picture, width: usize, height: usize) -> Picture {
    // Rows first, rounded to 8 bits in between, as Pillow goes.
    let picture = if picture.width == width { picture } else { narrowed(&picture, width) };
    if picture.height == height { picture } else { flattened(&picture, height) }
}

fn narrowed(picture: &Picture, width: usize) -> Picture {
    let windows = windows(picture.width, width);
    let mut rgb = Vec::with_capacity(width * picture.height * CHANNELS);
    for row in picture.rgb.chunks_exact(picture.width * CHANNELS) {
        for window in &windows {
            for channel in 0..CHANNELS {
                let pixels = row[window.first * CHANNELS + channel..].iter().step_by(CHANNELS);
                rgb.push(weighed(pixels, &window.weights));
            }
        }
    }
    Picture { width, height: picture.height, rgb }
}

fn flattened(picture: &Picture, height: usize) -> Picture {
    let stride = picture.width * CHANNELS;
    let mut rgb = Vec::with_capacity(stride * height);
    for window in windows(picture.height, height) {
        for column in 0..stride {
            let pixels = picture.rgb[window.first * stride + column..].iter().step_by(stride);
            rgb.push(weighed(pixels, &window.weights));
        }
    }
    Picture { width: picture.width, height, rgb }
}

/// Pillow: `ImagingResampleHorizontal_8bpc`, one value of it.
fn weighed<'a>(pixels: impl Iterator<Item = &'a u8>, weights: &[i32]) -> u8 {
    let half = 1 << (PRECISION - 1);
    let sum =
        pixels.zip(weights).fold(half, |sum, (&pixel, weight)| sum + i32::from(pixel) * weight);
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Pillow: `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    // Larger pictures are blurred less than smaller ones only down to the filter's own width.
    let (stretch, support) = (scale.max(1.0), SUPPORT * scale.max(1.0));
    let window = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let offsets = (first..end).map(|pixel| (pixel as f64 - center + 0.5) * (1.0 / stretch));
        let weights: Vec<f64> = offsets.map(filter).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| {
            let scaled = weight / sum * f64::from(1_u32 << PRECISION);
            // Truncated after a half was added away from zero.
            (scaled + 0.5_f64.copysign(scaled)) as i32
        };
        Window { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

fn filter(x: f64) -> f64 {
    if (-SUPPORT..SUPPORT).contains(&x) { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use super::*;

    #[test]
    fn every_byte_is_pillows() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/image_to_image");
        let golden = folder.join("expected.safetensors");
        let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
        let bytes = |key: &str| golden[key].flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let picture = Picture { width: 42, height: 35, rgb: bytes("resized.42x35") };
        let mut sizes = 0;
        for key in golden.keys().filter(|key| key.starts_with("resized.")) {
            let (width, height) = key.trim_start_matches("resized.").split_once('x').unwrap();
            let (width, height) = (width.parse().unwrap(), height.parse().unwrap());
            let resized = lanczos(picture.clone(), width, height);
            assert_eq!((resized.width, resized.height), (width, height));
            assert_eq!(resized.rgb, bytes(key), "{key}");
            sizes += 1;
        }
        assert!(sizes >= 6, "{sizes}");
    }
}
