//! Pillow's resizing of 8-bit pictures, to the bit: what diffusers fits a picture to an autoencoder
//! with, and what judges' networks were trained behind.
//!
//! As Pillow does up to version 12, whose order of rows and columns is always the same. Pillow 13 takes
//! columns first where a picture shrinks much more in height than in width; bytes then differ by one.

use std::f64::consts::PI;

use crate::outcome::Picture;

/// A filter of Pillow's (`PIL.Image.Resampling`), which blurs by as much as the picture shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resampling {
    /// `LANCZOS`, 1 in config files.
    Lanczos,
    /// `BILINEAR`, 2 in config files.
    Bilinear,
    /// `BICUBIC`, 3 in config files.
    Bicubic,
}

impl Resampling {
    /// By its number in a `preprocessor_config.json`.
    pub(super) fn numbered(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Lanczos),
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            _ => None,
        }
    }

    /// Half the width of the filter, in pixels of the smaller picture.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn filter(self, x: f64) -> f64 {
        /// Pillow's, which is Catmull and Rom's.
        const A: f64 = -0.5;
        let distance = x.abs();
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bilinear if distance < 1.0 => 1.0 - distance,
            Self::Bicubic if distance < 1.0 => {
                ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
            }
            Self::Bicubic if distance < 2.0 => {
                (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
            }
            _ => 0.0,
        }
    }
}

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
pub(super) fn resize(
    picture: Picture,
    width: usize,
    height: usize,
    resampling: Resampling,
) -> Picture {
    // Rows first, rounded to 8 bits in between, as Pillow goes.
    let picture = match picture.width {
        own if own == width => picture,
        own => narrowed(&picture, &windows(own, width, resampling)),
    };
    match picture.height {
        own if own == height => picture,
        own => flattened(&picture, &windows(own, height, resampling)),
    }
}

fn narrowed(picture: &Picture, windows: &[Window]) -> Picture {
    let width = windows.len();
    let mut rgb = Vec::with_capacity(width * picture.height * CHANNELS);
    for row in picture.rgb.chunks_exact(picture.width * CHANNELS) {
        for window in windows {
            for channel in 0..CHANNELS {
                let pixels = row[window.first * CHANNELS + channel..].iter().step_by(CHANNELS);
                rgb.push(weighed(pixels, &window.weights));
            }
        }
    }
    Picture { width, height: picture.height, rgb }
}

fn flattened(picture: &Picture, windows: &[Window]) -> Picture {
    let stride = picture.width * CHANNELS;
    let mut rgb = Vec::with_capacity(stride * windows.len());
    for window in windows {
        for column in 0..stride {
            let pixels = picture.rgb[window.first * stride + column..].iter().step_by(stride);
            rgb.push(weighed(pixels, &window.weights));
        }
    }
    Picture { width: picture.width, height: windows.len(), rgb }
}

/// Pillow: `ImagingResampleHorizontal_8bpc`, one value of it.
fn weighed<'a>(pixels: impl Iterator<Item = &'a u8>, weights: &[i32]) -> u8 {
    let half = 1 << (PRECISION - 1);
    let sum =
        pixels.zip(weights).fold(half, |sum, (&pixel, weight)| sum + i32::from(pixel) * weight);
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Pillow: `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn windows(from: usize, to: usize, resampling: Resampling) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    // Larger pictures are blurred less than smaller ones only down to the filter's own width.
    let (stretch, support) = (scale.max(1.0), resampling.support() * scale.max(1.0));
    let window = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let offsets = (first..end).map(|pixel| (pixel as f64 - center + 0.5) * (1.0 / stretch));
        let weights: Vec<f64> = offsets.map(|offset| resampling.filter(offset)).collect();
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
            let resized = resize(picture.clone(), width, height, Resampling::Lanczos);
            assert_eq!((resized.width, resized.height), (width, height));
            assert_eq!(resized.rgb, bytes(key), "{key}");
            sizes += 1;
        }
        assert!(sizes >= 6, "{sizes}");
    }
}
