//! `GenerateSpec`: which pictures to draw, and how.

use serde::{Deserialize, Serialize};

use super::{
    Field, InitImage, SamplerKind, SpecError, prompt_rules::check_drawn, violation::Violations,
};

/// Pictures to draw: one for each pair of prompt and seed, with a generator of its own, so that a
/// picture does not depend on what else is drawn with it (diffusers: a list of `torch.Generator`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateSpec {
    /// Prompt and seed of each picture. A prompt may be empty.
    pub pictures: Vec<(String, u64)>,
    /// What to steer away from; the empty prompt by default.
    #[serde(default)]
    pub negative_prompt: String,
    /// Denoising steps, 1 to 1000.
    pub steps: usize,
    /// Classifier-free guidance; 1 or less turns it off, as in diffusers.
    pub guidance_scale: f64,
    /// Width and height in pixels; the model's own size when absent, or that of `init_image`.
    #[serde(default)]
    pub size: Option<(usize, usize)>,
    /// What the pictures are drawn with; the sampler of the class that the folder's
    /// `scheduler_config.json` names when absent, and DDIM where Keystep has none of that class.
    #[serde(default)]
    pub sampler: Option<SamplerKind>,
    /// What every picture begins with, in place of noise alone; their size is its own, down to
    /// multiples of what the model's autoencoder shrinks by.
    #[serde(default)]
    pub init_image: Option<InitImage>,
}

impl GenerateSpec {
    /// Most pictures of one call.
    pub const MAX_PICTURES: usize = 4_096;

    /// Pictures of the model's own size by its own sampler, from noise alone.
    pub fn new(pictures: Vec<(String, u64)>, steps: usize, guidance_scale: f64) -> Self {
        Self {
            pictures,
            negative_prompt: String::new(),
            steps,
            guidance_scale,
            size: None,
            sampler: None,
            init_image: None,
        }
    }

    /// Checks every field.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut found = Violations::default();
        found.within(Field::Pictures, self.pictures.len(), 1..=Self::MAX_PICTURES);
        for (index, (prompt, _)) in self.pictures.iter().enumerate() {
            found.absorb(check_drawn(Field::PicturesPrompt.at(index), prompt));
        }
        found.absorb(check_drawn(Field::NegativePrompt, &self.negative_prompt));
        found.within(Field::Steps, self.steps, 1..=1_000);
        found.within(Field::GuidanceScale, self.guidance_scale, 0.0..=100.0);
        if let Some((width, height)) = self.size {
            for (field, pixels) in [(Field::Width, width), (Field::Height, height)] {
                found.within(field, pixels, 8..=2_048);
                if pixels % 8 != 0 {
                    found.add(field, format!("{pixels} is not a multiple of 8"));
                }
            }
        }
        if let Some(image) = &self.init_image {
            found.absorb(image.validate(self.steps));
            if self.size.is_some() {
                let message = "is given beside init_image, whose size the pictures have; leave out \
                               width and height";
                found.add(Field::Width, message);
            }
        }
        found.finish()
    }
}
