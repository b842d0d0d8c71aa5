//! Drawing pictures: diffusers' `StableDiffusionPipeline.__call__` with DDIM.

use std::{collections::BTreeMap, num::NonZeroUsize};

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    EngineError, Pipeline, RunContext,
    denoise::{Denoiser, EvaluationCounter, Guidance, initial_latents},
};
use crate::{
    outcome::{Phase, Picture},
    spec::{GenerateSpec, StepIndex},
};

/// Pictures that are denoised side by side at the model's own size of 64 latent cells; smaller
/// latents go further for the same memory.
const CELLS_AT_ONCE: usize = 64 * 64 * 2;

/// Pictures that are decoded in a pass.
const DECODED: usize = 4;

/// Longer side of a preview at most, in pixels.
const PREVIEW_PIXELS: usize = 128;

/// What a caller is handed while its pictures are drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Drawn {
    /// An unfinished picture, small: what the latents so far point to.
    Preview {
        /// Which picture of the spec, from 0.
        index: usize,
        /// It.
        picture: Picture,
    },
    /// A finished picture.
    Picture {
        /// Which picture of the spec, from 0.
        index: usize,
        /// It.
        picture: Picture,
    },
}

/// Draws every picture of the spec; also says how many single-sample evaluations that took.
pub(super) fn generate(
    pipeline: &Pipeline,
    spec: &GenerateSpec,
    context: &mut RunContext<'_>,
) -> Result<(Vec<Picture>, u64), EngineError> {
    let mut pictures = Vec::with_capacity(spec.pictures.len());
    let mut keep = |drawn| {
        if let Drawn::Picture { picture, .. } = drawn {
            pictures.push(picture);
        }
    };
    let evaluations = generate_each(pipeline, spec, None, &mut keep, context)?;
    Ok((pictures, evaluations))
}

/// Draws every picture of the spec and hands each over once its group is done, in order; a preview
/// of each every so many steps, where they are asked for. Gives the evaluations that it took.
pub(super) fn generate_each(
    pipeline: &Pipeline,
    spec: &GenerateSpec,
    preview_every: Option<NonZeroUsize>,
    hand_over: &mut dyn FnMut(Drawn),
    context: &mut RunContext<'_>,
) -> Result<u64, EngineError> {
    spec.validate()?;
    let shape = pipeline.latent_shape(spec.size)?;
    let schedule = pipeline.scheduler.schedule(spec.steps)?;
    let counter = EvaluationCounter::default();
    let denoiser = Denoiser { unet: &pipeline.unet, schedule: &schedule, evaluations: &counter };
    let unconditional = pipeline.encode_prompts(&[&spec.negative_prompt])?;

    let at_once = (CELLS_AT_ONCE / (shape[1] * shape[2])).clamp(1, 32);
    let total = spec.pictures.len() * spec.steps;
    let mut done = 0;
    let mut first = 0;
    context.advance(Phase::Draw, 0, total)?;
    for group in spec.pictures.chunks(at_once) {
        let prompts: Vec<&str> = group.iter().map(|(prompt, _)| prompt.as_str()).collect();
        let seeds: Vec<u64> = group.iter().map(|(_, seed)| *seed).collect();
        let text = encode_distinct(pipeline, &prompts)?;
        let guidance = Guidance::new(&pipeline.unet, &text, &unconditional, spec.guidance_scale)?;
        let mut z = initial_latents(&seeds, shape, &pipeline.device)?;
        for step in 0..schedule.len() {
            let at = StepIndex(step);
            let output = denoiser.guided_output(&z, at, &guidance)?;
            let shown = step + 1 < schedule.len()
                && preview_every.is_some_and(|every| (step + 1).is_multiple_of(every.get()));
            if shown {
                let x0 = schedule.predict_x0(at, &output, &z)?;
                for (index, picture) in preview(pipeline, &x0)?.into_iter().enumerate() {
                    hand_over(Drawn::Preview { index: first + index, picture });
                }
            }
            z = schedule.step(at, &output, &z)?;
            done += group.len();
            context.advance(Phase::Draw, done, total)?;
        }
        for (index, picture) in decode(pipeline, &z)?.into_iter().enumerate() {
            hand_over(Drawn::Picture { index: first + index, picture });
        }
        first += group.len();
    }
    Ok(counter.get())
}

/// Small pictures of clean latents. The latents are shrunk before they are decoded, so that a
/// preview costs little beside a step.
fn preview(pipeline: &Pipeline, latents: &Tensor) -> Result<Vec<Picture>, EngineError> {
    let (_, _, height, width) = latents.dims4()?;
    let pixels = height.max(width) * pipeline.vae.factor();
    let shrink = pixels.div_ceil(PREVIEW_PIXELS);
    // A thin picture cannot be shrunk below one cell.
    let shrink = shrink.min(height.min(width)).max(1);
    if shrink == 1 {
        return decode(pipeline, latents);
    }
    decode(pipeline, &latents.avg_pool2d(shrink)?)
}

/// Prompts often repeat within a group; each is encoded once.
fn encode_distinct(pipeline: &Pipeline, prompts: &[&str]) -> Result<Tensor, EngineError> {
    let mut rows = BTreeMap::new();
    let mut distinct = Vec::new();
    let index: Vec<u32> = prompts
        .iter()
        .map(|prompt| {
            *rows.entry(*prompt).or_insert_with(|| {
                distinct.push(*prompt);
                distinct.len() as u32 - 1
            })
        })
        .collect();
    let encoded = pipeline.encode_prompts(&distinct)?;
    let index = Tensor::from_vec(index, prompts.len(), &pipeline.device)?;
    Ok(encoded.index_select(&index, 0)?)
}

/// Latents to 8-bit pictures (diffusers `VaeImageProcessor.postprocess`).
pub(super) fn decode(pipeline: &Pipeline, latents: &Tensor) -> Result<Vec<Picture>, EngineError> {
    let latents = (latents / pipeline.vae.config().scaling_factor)?;
    let batch = latents.dim(0)?;
    let starts: Vec<usize> = (0..batch).step_by(DECODED).collect();
    let parts = starts
        .into_par_iter()
        .map(|start| {
            let count = DECODED.min(batch - start);
            let decoded = pipeline.vae.decode(&latents.narrow(0, start, count)?)?;
            to_pictures(&decoded)
        })
        .collect::<Result<Vec<_>, EngineError>>()?;
    Ok(parts.concat())
}

/// −1 … 1, `[batch, 3, H, W]`, to 8 bits.
fn to_pictures(decoded: &Tensor) -> Result<Vec<Picture>, EngineError> {
    let (batch, channels, height, width) = decoded.dims4()?;
    let values = decoded.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1::<f32>()?;
    let bytes = |value: &f32| {
        let unit = (value / 2.0 + 0.5).clamp(0.0, 1.0);
        // NumPy rounds halves to even, and diffusers rounds with NumPy.
        (unit * 255.0).round_ties_even() as u8
    };
    Ok(values
        .chunks(height * width * channels)
        .take(batch)
        .map(|values| Picture { width, height, rgb: values.iter().map(bytes).collect() })
        .collect())
}
