//! Drawing pictures: diffusers' `StableDiffusionPipeline.__call__` with DDIM.

use std::collections::BTreeMap;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    EngineError, Pipeline, RunContext,
    denoise::{Denoiser, EvaluationCounter, Guidance, SAMPLES_A_PASS, initial_latents},
};
use crate::{
    outcome::{Phase, Picture},
    spec::{GenerateSpec, StepIndex},
};

/// Pictures that are denoised side by side at the model's own size of 64 latent cells; smaller
/// latents go further for the same memory.
const CELLS_AT_ONCE: usize = 64 * 64 * 2;

/// Draws every picture of the spec; also says how many single-sample evaluations that took.
pub(super) fn generate(
    pipeline: &Pipeline,
    spec: &GenerateSpec,
    context: &mut RunContext<'_>,
) -> Result<(Vec<Picture>, u64), EngineError> {
    spec.validate()?;
    let shape = pipeline.latent_shape(spec.size)?;
    let schedule = pipeline.scheduler.schedule(spec.steps)?;
    let counter = EvaluationCounter::default();
    let denoiser = Denoiser { unet: &pipeline.unet, schedule: &schedule, evaluations: &counter };
    let guidance = Guidance {
        unconditional: pipeline.encode_prompts(&[&spec.negative_prompt])?,
        scale: spec.guidance_scale,
    };

    let at_once = (CELLS_AT_ONCE / (shape[1] * shape[2])).clamp(1, 32);
    let total = spec.pictures.len() * spec.steps;
    let mut done = 0;
    let mut pictures = Vec::with_capacity(spec.pictures.len());
    context.advance(Phase::Draw, 0, total)?;
    for group in spec.pictures.chunks(at_once) {
        let prompts: Vec<&str> = group.iter().map(|(prompt, _)| prompt.as_str()).collect();
        let seeds: Vec<u64> = group.iter().map(|(_, seed)| *seed).collect();
        let text = encode_distinct(pipeline, &prompts)?;
        let mut z = initial_latents(&seeds, shape, &pipeline.device)?;
        for step in 0..schedule.len() {
            z = denoiser.guided_step(&z, StepIndex(step), &text, &guidance)?;
            done += group.len();
            context.advance(Phase::Draw, done, total)?;
        }
        pictures.extend(decode(pipeline, &z)?);
    }
    Ok((pictures, counter.get()))
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
    let starts: Vec<usize> = (0..batch).step_by(SAMPLES_A_PASS).collect();
    let parts = starts
        .into_par_iter()
        .map(|start| {
            let count = SAMPLES_A_PASS.min(batch - start);
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
