//! Converts `GenerateRequest` into a spec of pictures, and drawn pictures into responses.

use std::num::NonZeroUsize;

use super::{
    Limits,
    fields::{check_name, read_sampler},
    small,
};
use crate::{
    api::{ApiResult, violations::Violations},
    proto::keystep::v1::{GenerateRequest, GenerateResponse, generate_response::Update},
    report::{PictureLimits, PictureNotes, read_png},
    spec::{Field, GenerateSpec, InitImage},
};

/// The wire's own default, which is what most users of diffusers know.
const GUIDANCE_SCALE: f64 = 7.5;
const STEPS: usize = 25;

/// A drawing whose every field was checked.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::api) struct DrawingDraft {
    pub(in crate::api) model: String,
    pub(in crate::api) spec: GenerateSpec,
    pub(in crate::api) preview_every: Option<NonZeroUsize>,
}

impl DrawingDraft {
    /// Checks every field and gives every violation at once.
    pub(in crate::api) fn read(request: GenerateRequest, limits: Limits<'_>) -> ApiResult<Self> {
        let GenerateRequest {
            model,
            prompt,
            negative_prompt,
            steps,
            guidance_scale,
            width,
            height,
            seeds,
            count,
            sampler,
            preview_every_steps,
            init_image,
            strength,
        } = request;
        let mut found = Violations::default();
        check_name(Field::Model, &model, &mut found);
        let most = limits.settings.prompt_characters;
        found.prompt(Field::Prompt, &prompt, most);
        found.prompt(Field::NegativePrompt, &negative_prompt, most);
        let sampler = read_sampler(Field::Sampler, sampler, &mut found);
        let seeds = read_seeds(seeds, count, limits, &mut found);
        let init_image = read_init_image(&init_image, strength, limits, &mut found);
        let spec = GenerateSpec {
            pictures: seeds.into_iter().map(|seed| (prompt.clone(), seed)).collect(),
            negative_prompt,
            steps: steps.map_or(STEPS, |steps| steps as usize),
            guidance_scale: guidance_scale.unwrap_or(GUIDANCE_SCALE),
            size: read_size(width, height, limits, &mut found),
            sampler,
            init_image,
        };
        found.absorb(spec.validate());
        let of_image = spec.init_image.as_ref().map(|image| (image.width, image.height));
        if let Some(size) = of_image.or(spec.size) {
            // Where the model decides, the device checks.
            found.absorb(limits.settings.calls.check_drawing(&spec, size));
        }
        found.finish()?;
        let preview_every = NonZeroUsize::new(preview_every_steps as usize);
        Ok(Self { model, spec, preview_every })
    }

    /// What a picture's file says of itself, as `keystep generate` writes it.
    pub(in crate::api) fn notes(&self, index: usize) -> PictureNotes {
        let (prompt, seed) = self.spec.pictures.get(index).cloned().unwrap_or_default();
        let mut notes = PictureNotes::drawn(&prompt, seed);
        if !self.spec.negative_prompt.is_empty() {
            notes.entries.push(("negative prompt", self.spec.negative_prompt.clone()));
        }
        notes.entries.push(("steps", self.spec.steps.to_string()));
        notes.entries.push(("guidance scale", self.spec.guidance_scale.to_string()));
        if let Some(sampler) = self.spec.sampler {
            notes.entries.push(("sampler", sampler.name().to_owned()));
        }
        if let Some(image) = &self.spec.init_image {
            notes.entries.push(("strength", image.strength.to_string()));
        }
        notes
    }

    pub(in crate::api) fn seed(&self, index: usize) -> u64 {
        self.spec.pictures.get(index).map_or(0, |(_, seed)| *seed)
    }
}

/// One seed a picture; one seed alone counts up.
fn read_seeds(
    mut seeds: Vec<u64>,
    count: Option<u32>,
    limits: Limits<'_>,
    found: &mut Violations,
) -> Vec<u64> {
    let most = limits.settings.images_per_call;
    let several = seeds.len() > 1;
    if several {
        if count.is_some_and(|count| count as usize != seeds.len()) {
            found.add(Field::Count, "differs from the number of seeds; leave it out");
        }
        found.at_most(Field::Seeds, &mut seeds, most);
        return seeds;
    }
    let first = seeds.first().copied().unwrap_or(0);
    let count = count.map_or(1, |count| count as usize);
    found.within(Field::Count, count, 1..=most.max(1));
    (0..count.clamp(1, most.max(1)) as u64).map(|index| first.wrapping_add(index)).collect()
}

fn read_size(
    width: Option<u32>,
    height: Option<u32>,
    limits: Limits<'_>,
    found: &mut Violations,
) -> Option<(usize, usize)> {
    let (width, height) = match (width, height) {
        (Some(width), Some(height)) => (width as usize, height as usize),
        (None, None) => return None,
        (Some(_), None) => {
            found.add(Field::Height, "is unset beside width; give both or neither");
            return None;
        }
        (None, Some(_)) => {
            found.add(Field::Width, "is unset beside height; give both or neither");
            return None;
        }
    };
    let (pixels, most) = (width.saturating_mul(height), limits.settings.pixels_per_image);
    if pixels > most {
        let message = format!("{width} by {height} is {pixels} pixels, the limit is {most}");
        found.add(Field::Width, message);
    }
    Some((width, height))
}

/// A picture that cannot be read is left out, so that the other fields are checked.
fn read_init_image(
    png: &[u8],
    strength: Option<f64>,
    limits: Limits<'_>,
    found: &mut Violations,
) -> Option<InitImage> {
    if png.is_empty() {
        if strength.is_some() {
            found.add(
                Field::Strength,
                "is given without init_image; give a picture, or leave it out",
            );
        }
        return None;
    }
    let allowed =
        PictureLimits { sides: InitImage::SIDES, pixels: limits.settings.pixels_per_image };
    match read_png(png, &allowed) {
        Ok(picture) => Some(InitImage {
            width: picture.width,
            height: picture.height,
            rgb: picture.rgb,
            strength: strength.unwrap_or(InitImage::STRENGTH),
        }),
        Err(error) => {
            found.add(Field::InitImage, error.to_string());
            None
        }
    }
}

/// A finished picture.
pub(in crate::api) fn finished(index: usize, seed: u64, png: Vec<u8>) -> GenerateResponse {
    response(Update::ImagePng(png.into()), index, seed)
}

/// An unfinished picture.
pub(in crate::api) fn previewed(index: usize, seed: u64, png: Vec<u8>) -> GenerateResponse {
    response(Update::PreviewPng(png.into()), index, seed)
}

fn response(update: Update, index: usize, seed: u64) -> GenerateResponse {
    GenerateResponse { update: Some(update), steps_total: 0, image_index: small(index), seed }
}
