//! What the trajectories of a drawing start from: noise, or a picture with noise added to it
//! (diffusers: `StableDiffusionImg2ImgPipeline.prepare_latents`).

use candle_core::{Device, Tensor};

use super::{
    EngineError, Pipeline,
    denoise::draw_each,
    family::LatentDistribution,
    resampling::{Resampling, resize},
    sampler::Sampler,
    schedule::NoiseSource,
};
use crate::{
    outcome::Picture,
    spec::{Field, GenerateSpec, InitImage, SpecError},
};

/// Where trajectories start.
#[derive(Debug)]
pub(super) enum Start {
    /// At the first step, from noise alone.
    Noise {
        /// `[channels, height, width]` of the latents.
        shape: [usize; 3],
    },
    /// At a later step, from a picture.
    Picture(PictureStart),
}

/// A picture, and where on the denoising path it is put.
#[derive(Debug)]
pub(super) struct PictureStart {
    /// What the picture is encoded to: one sample.
    pub(super) latents: LatentDistribution,
    /// What latents are multiplied by for the U-Net.
    pub(super) scaling_factor: f64,
    /// The step that takes the noised latents, an index into [`Sampler::timesteps`].
    pub(super) first_step: usize,
}

impl Start {
    /// What a spec asks for; encodes its picture.
    pub(super) fn of(pipeline: &Pipeline, spec: &GenerateSpec) -> Result<Self, EngineError> {
        let Some(image) = &spec.init_image else {
            return Ok(Self::Noise { shape: pipeline.latent_shape(spec.size)? });
        };
        Ok(Self::Picture(PictureStart {
            latents: encode(pipeline, image)?,
            scaling_factor: pipeline.vae.config().scaling_factor,
            first_step: image.first_step(spec.steps),
        }))
    }

    /// `[channels, height, width]` of the latents.
    pub(super) fn shape(&self) -> Result<[usize; 3], EngineError> {
        match self {
            Self::Noise { shape } => Ok(*shape),
            Self::Picture(start) => {
                let (_, channels, height, width) = start.latents.mean.dims4()?;
                Ok([channels, height, width])
            }
        }
    }

    /// The first step that is taken, an index into [`Sampler::timesteps`].
    pub(super) fn first_step(&self) -> usize {
        match self {
            Self::Noise { .. } => 0,
            Self::Picture(start) => start.first_step,
        }
    }

    /// The latents that the first step takes, one sample a generator, which draws what diffusers
    /// draws with it: of a picture first a sample of what it is encoded to, then the noise.
    ///
    /// # Shapes
    /// `[sources, channels, height, width]`.
    pub(super) fn latents(
        &self,
        sampler: &dyn Sampler,
        sources: &mut [NoiseSource],
        device: &Device,
    ) -> Result<Tensor, EngineError> {
        let shape = self.shape()?;
        match self {
            Self::Noise { .. } => {
                Ok((draw_each(sources, shape, device)? * sampler.initial_scale())?)
            }
            Self::Picture(start) => {
                let clean = start.latents.sample(&draw_each(sources, shape, device)?)?;
                let clean = (clean * start.scaling_factor)?;
                let noise = draw_each(sources, shape, device)?;
                Ok(sampler.add_noise(start.first_step, &clean, &noise)?)
            }
        }
    }
}

/// What the picture of a spec is encoded to, shrunk to what the autoencoder takes.
fn encode(pipeline: &Pipeline, image: &InitImage) -> Result<LatentDistribution, EngineError> {
    let factor = pipeline.vae.factor();
    let fitting = |pixels: usize| pixels - pixels % factor;
    let (width, height) = (fitting(image.width), fitting(image.height));
    if width == 0 || height == 0 {
        let message = format!(
            "{} by {} pixels are fewer than the {factor} a side by which this model's autoencoder \
             shrinks a picture; give a larger one",
            image.width, image.height
        );
        return Err(SpecError::one(Field::InitImage, message).into());
    }
    let picture = Picture { width: image.width, height: image.height, rgb: image.rgb.clone() };
    let picture = resize(picture, width, height, Resampling::Lanczos);
    pipeline.vae.encode(&pixels(&picture, &pipeline.device)?)
}

/// 8 bits to −1 … 1 (diffusers: `VaeImageProcessor.preprocess`).
///
/// # Shapes
/// `[1, 3, height, width]`.
fn pixels(picture: &Picture, device: &Device) -> Result<Tensor, EngineError> {
    let values = picture.rgb.iter().map(|&byte| 2.0 * (f32::from(byte) / 255.0) - 1.0);
    let shape = (1, picture.height, picture.width, 3);
    let rows = Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)?;
    Ok(rows.permute((0, 3, 1, 2))?.contiguous()?.to_device(device)?)
}
