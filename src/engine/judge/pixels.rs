//! Pictures as a judge's network reads them.

use candle_core::{Device, Tensor};
use image::{RgbImage, imageops};

use crate::{engine::EngineError, outcome::Picture};

/// How 8-bit pixels become a network's input (transformers `CLIPImageProcessor`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Normalisation {
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
}

impl Normalisation {
    /// To −1 … 1.
    pub(super) const UNIT: Self = Self { mean: [0.5; 3], std: [0.5; 3] };
}

/// Resizes the shorter edge to `size` (bicubic), crops the centre, normalises.
///
/// # Shapes
/// `[pictures, 3, size, size]`.
pub(super) fn pixels(
    pictures: &[Picture],
    size: usize,
    normalisation: Normalisation,
    device: &Device,
) -> Result<Tensor, EngineError> {
    let plane = size * size;
    let mut values = vec![0.0_f32; pictures.len() * 3 * plane];
    for (picture, values) in pictures.iter().zip(values.chunks_mut(3 * plane)) {
        let fitted = fit(picture, size);
        let rgb = fitted.as_ref().map_or(picture.rgb.as_slice(), |image| image.as_raw().as_slice());
        for (pixel, rgb) in rgb.chunks(3).enumerate() {
            for (channel, byte) in rgb.iter().enumerate() {
                let unit = f32::from(*byte) / 255.0;
                values[channel * plane + pixel] =
                    (unit - normalisation.mean[channel]) / normalisation.std[channel];
            }
        }
    }
    Ok(Tensor::from_vec(values, (pictures.len(), 3, size, size), device)?)
}

/// None where the picture fits as it is.
fn fit(picture: &Picture, size: usize) -> Option<RgbImage> {
    if picture.width == size && picture.height == size {
        return None;
    }
    let (width, height) = (picture.width as u32, picture.height as u32);
    let image = RgbImage::from_raw(width, height, picture.rgb.clone())?;
    let size = size as u32;
    let scale = |edge: u32| (edge * size).div_euclid(width.min(height)).max(size);
    let resized =
        imageops::resize(&image, scale(width), scale(height), imageops::FilterType::CatmullRom);
    let (left, top) = ((resized.width() - size) / 2, (resized.height() - size) / 2);
    Some(imageops::crop_imm(&resized, left, top, size, size).to_image())
}
