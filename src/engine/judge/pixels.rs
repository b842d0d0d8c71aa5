//! Pictures as a judge's network reads them.

use candle_core::{Device, Tensor};

use crate::{
    engine::{
        EngineError,
        resampling::{Resampling, resize},
    },
    outcome::Picture,
};

/// How 8-bit pixels become a network's input (transformers `CLIPImageProcessor`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Normalisation {
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
}

impl Normalisation {
    /// To −1 … 1.
    pub(super) const UNIT: Self = Self { mean: [0.5; 3], std: [0.5; 3] };
}

/// How a picture is made as large as a network reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// Pixels a side of the result.
    pub(super) size: usize,
    /// Pixels of the shorter edge before the centre is cut out; none where both sides are stretched
    /// to the size.
    pub(super) shortest_edge: Option<usize>,
    pub(super) resampling: Resampling,
}

impl Fit {
    /// The shorter edge to the size, then the centre (CLIP).
    pub(super) fn centre(size: usize) -> Self {
        Self { size, shortest_edge: Some(size), resampling: Resampling::Bicubic }
    }

    /// None where the picture fits as it is.
    fn fitted(self, picture: &Picture) -> Option<Picture> {
        let Self { size, shortest_edge, resampling } = self;
        let (width, height) = (picture.width, picture.height);
        let shorter = width.min(height).max(1);
        let (to_width, to_height) = match shortest_edge {
            None => (size, size),
            Some(edge) => {
                // transformers `get_resize_output_image_size`: the longer side is rounded down.
                let scaled = |side: usize| (edge.saturating_mul(side) / shorter).max(size);
                (scaled(width), scaled(height))
            }
        };
        if [width, height, to_width, to_height] == [size; 4] {
            return None;
        }
        Some(centre(&resize(picture.clone(), to_width, to_height, resampling), size))
    }
}

/// The centre of a picture whose sides are no shorter than `size`.
fn centre(picture: &Picture, size: usize) -> Picture {
    let (left, top) = ((picture.width - size) / 2, (picture.height - size) / 2);
    let rows = picture.rgb.chunks_exact(3 * picture.width).skip(top).take(size);
    let rgb = rows.flat_map(|row| row.iter().skip(3 * left).take(3 * size).copied()).collect();
    Picture { width: size, height: size, rgb }
}

/// Fits and normalises.
///
/// # Shapes
/// `[pictures, 3, size, size]`.
pub(super) fn pixels(
    pictures: &[Picture],
    fit: Fit,
    normalisation: Normalisation,
    device: &Device,
) -> Result<Tensor, EngineError> {
    let size = fit.size;
    let plane = size * size;
    let mut values = vec![0.0_f32; pictures.len() * 3 * plane];
    for (picture, values) in pictures.iter().zip(values.chunks_mut(3 * plane)) {
        let fitted = fit.fitted(picture);
        let rgb = &fitted.as_ref().unwrap_or(picture).rgb;
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
