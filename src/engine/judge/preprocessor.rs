//! `preprocessor_config.json`: how transformers' image processors fit a picture to a network.

use serde::Deserialize;

use super::pixels::{Fit, Normalisation};
use crate::{
    engine::{EngineError, checkpoint::read_text, python_json, resampling::Resampling},
    spec::ModelFiles,
};

/// Larger pictures are none that a judge's network was trained on.
const MAX_SIZE: usize = 4_096;
/// From here on, `ConvNextImageProcessor` stretches instead of cropping.
const STRETCHED_FROM: usize = 384;

/// Whose processor a file is of: they read the same fields differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processor {
    /// `CLIPImageProcessor`.
    Clip,
    /// `ViTImageProcessor`.
    Vit,
    /// `ConvNextImageProcessor`, which ResNets have.
    ConvNext,
}

/// What a file says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Preprocessor {
    pub(super) fit: Fit,
    pub(super) normalisation: Normalisation,
}

#[derive(Deserialize)]
struct File {
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    size: Option<Size>,
    crop_size: Option<Size>,
    crop_pct: Option<f64>,
    resample: Option<u64>,
    rescale_factor: Option<f64>,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    /// Of both sides, or of the shorter one, by the processor.
    Side(usize),
    Both {
        height: usize,
        width: usize,
    },
    Shorter {
        shortest_edge: usize,
    },
}

impl Preprocessor {
    /// Reads `folder`'s file for a network that reads pictures of `size` pixels a side, or of any
    /// size.
    pub(super) fn read(
        files: &dyn ModelFiles,
        folder: &str,
        processor: Processor,
        size: Option<usize>,
    ) -> Result<Self, EngineError> {
        let name = format!("{folder}/preprocessor_config.json");
        Self::parse(&read_text(files, &name)?, processor, size).map_err(|message| {
            EngineError::Config { file: format!("{}/{name}", files.location()), message }
        })
    }

    fn parse(json: &str, processor: Processor, expected: Option<usize>) -> Result<Self, String> {
        let file: File = python_json::read(json).map_err(|error| error.to_string())?;
        let steps = [
            ("do_resize", file.do_resize, true),
            ("do_rescale", file.do_rescale, true),
            ("do_normalize", file.do_normalize, true),
            ("do_center_crop", file.do_center_crop, processor == Processor::Clip),
        ];
        for (field, given, built) in steps {
            if given.is_some_and(|given| given != built) {
                return Err(format!("{field} is {}, only {built} is supported", !built));
            }
        }
        if file.rescale_factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
            return Err("rescale_factor must be 1/255".to_owned());
        }
        let finite = |values: [f32; 3]| values.iter().all(|value| value.is_finite());
        if !finite(file.image_mean) || !file.image_std.iter().all(|std| *std > 0.0) {
            return Err("image_mean must be numbers, and image_std above zero".to_owned());
        }
        let default = if processor == Processor::Vit { 2 } else { 3 };
        let number = file.resample.unwrap_or(default);
        let resampling = Resampling::numbered(number).ok_or_else(|| {
            format!("resample is {number}; it must be 1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
        })?;
        let (size, shortest_edge) = file.sides(processor, expected)?;
        if let Some(expected) = expected
            && size != expected
        {
            return Err(format!(
                "pictures come out with {size} pixels a side, image_size of the network is \
                 {expected}"
            ));
        }
        for side in [Some(size), shortest_edge].into_iter().flatten() {
            if !(1..=MAX_SIZE).contains(&side) {
                return Err(format!("a side has {side} pixels, outside 1 to {MAX_SIZE}"));
            }
        }
        if shortest_edge.is_some_and(|edge| edge < size) {
            return Err(format!("crop_size is {size}, more than the shorter edge has"));
        }
        let normalisation = Normalisation { mean: file.image_mean, std: file.image_std };
        Ok(Self { fit: Fit { size, shortest_edge, resampling }, normalisation })
    }
}

impl File {
    /// The size of the result, and what the shorter edge is resized to before the crop.
    fn sides(
        &self,
        processor: Processor,
        expected: Option<usize>,
    ) -> Result<(usize, Option<usize>), String> {
        let size = self.size.or(expected.map(Size::Side)).ok_or("lacks \"size\"")?;
        match (processor, size) {
            (Processor::Vit, Size::Side(side)) => Ok((side, None)),
            (Processor::Vit, Size::Both { height, width }) if height == width => Ok((height, None)),
            (Processor::Clip, Size::Side(edge) | Size::Shorter { shortest_edge: edge }) => {
                let crop = match self.crop_size {
                    None => edge,
                    Some(Size::Side(side)) => side,
                    Some(Size::Both { height, width }) if height == width => height,
                    Some(_) => {
                        return Err("crop_size must be one number, or equal sides".to_owned());
                    }
                };
                Ok((crop, Some(edge)))
            }
            (Processor::ConvNext, Size::Side(side) | Size::Shorter { shortest_edge: side }) => {
                if side >= STRETCHED_FROM {
                    return Ok((side, None));
                }
                let share = self.crop_pct.unwrap_or(224.0 / 256.0);
                if !(0.1..=1.0).contains(&share) {
                    return Err(format!("crop_pct is {share}, outside 0.1 to 1"));
                }
                Ok((side, Some((side as f64 / share) as usize)))
            }
            _ => Err("size must be equal sides for a ViT, and shortest_edge for CLIP and a ResNet"
                .to_owned()),
        }
    }
}
