//! Draws pictures: `__call__` of diffusers' `StableDiffusionPipeline`, and of
//! `StableDiffusionImg2ImgPipeline` where they begin with a picture.

use std::{collections::BTreeMap, num::NonZeroUsize};

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    CancelFlag, EngineError, Pipeline, RunContext,
    denoise::{EvaluationCounter, Guidance, ScheduledDenoiser, draw_each},
    family::Conditioning,
    finite,
    nn::MemoryPolicy,
    sampler,
    schedule::NoiseSource,
    start::Start,
};
use crate::{
    outcome::{Drawn, Phase, Picture},
    spec::GenerateSpec,
};

/// Pictures that are denoised side by side at the model's own size of 64 latent cells; smaller
/// latents go further for the same memory.
const CELLS_AT_ONCE: usize = 64 * 64 * 2;

/// Pictures that are decoded in a pass.
pub(super) const DECODED: usize = 4;

/// Longer side of a preview at most, in pixels.
const PREVIEW_PIXELS: usize = 128;

/// How pictures are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decode {
    /// Each in one piece, so many in a pass and so many passes side by side.
    Whole {
        /// Of a pass.
        pictures: usize,
        /// Side by side.
        passes: usize,
    },
    /// One after the other, each in tiles that overlap.
    Tiled,
}

/// How a drawing stays within its memory. But for tiles, the pictures are the same to the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DrawingPolicy {
    pub(super) decode: Decode,
    /// Most passes of the U-Net side by side; none where every thread may take one.
    pub(super) passes: Option<NonZeroUsize>,
}

/// Draws every picture of the spec; also says how many single-sample evaluations that took.
pub(super) fn generate(
    pipeline: &Pipeline,
    spec: &GenerateSpec,
    policy: DrawingPolicy,
    context: &mut RunContext<'_>,
) -> Result<(Vec<Picture>, u64), EngineError> {
    let mut pictures = Vec::with_capacity(spec.pictures.len());
    let mut keep = |drawn| {
        if let Drawn::Picture { picture, .. } = drawn {
            pictures.push(picture);
        }
    };
    let evaluations = generate_each(pipeline, (spec, policy), None, &mut keep, context)?;
    Ok((pictures, evaluations))
}

/// Draws every picture of the spec and hands each over once its group is done, in order; a preview
/// of each every so many steps, where they are asked for. Gives the evaluations that it took.
pub(super) fn generate_each(
    pipeline: &Pipeline,
    (spec, policy): (&GenerateSpec, DrawingPolicy),
    preview_every: Option<NonZeroUsize>,
    hand_over: &mut dyn FnMut(Drawn),
    context: &mut RunContext<'_>,
) -> Result<u64, EngineError> {
    spec.validate()?;
    let kind = pipeline.sampling.kind(spec.sampler);
    let open = || sampler::open(kind, &pipeline.sampling, &pipeline.scheduler, spec.steps);
    let evaluations = open()?.timesteps().len();
    context.check()?;
    let start = Start::of(pipeline, spec)?;
    let shape = start.shape()?;
    let steps = start.first_step()..evaluations;
    // The network's passes alone: the sampler steps.
    let schedule = pipeline.scheduler.schedule(1)?;
    let few_passes = match policy.passes {
        None => None,
        passes => {
            let policy = MemoryPolicy { passes, ..MemoryPolicy::default() };
            Some(pipeline.with_memory_policy(policy))
        }
    };
    let pipeline = few_passes.as_ref().unwrap_or(pipeline);
    let counter = EvaluationCounter::default();
    let cancel = context.cancel.clone();
    let denoiser = ScheduledDenoiser {
        network: &*pipeline.denoiser,
        schedule: &schedule,
        evaluations: &counter,
        resting: Some(&cancel),
    };
    let size = Some([shape[1], shape[2]].map(|side| side * pipeline.vae.factor()));
    let unconditional = pipeline.unconditional(&spec.negative_prompt, size)?;

    let at_once = group_size([shape[1], shape[2]]);
    let total = spec.pictures.len() * steps.len();
    let mut done = 0;
    let mut first = 0;
    context.advance(Phase::Draw, 0, total)?;
    for group in spec.pictures.chunks(at_once) {
        let prompts: Vec<&str> = group.iter().map(|(prompt, _)| prompt.as_str()).collect();
        let seeds: Vec<u64> = group.iter().map(|(_, seed)| *seed).collect();
        let encoded = encode_distinct(pipeline, &prompts, size)?;
        let guidance =
            Guidance::new(&*pipeline.denoiser, &encoded, &unconditional, spec.guidance_scale)?;
        let mut sources: Vec<_> = seeds.iter().map(|&seed| NoiseSource::new(seed)).collect();
        let mut sampler = open()?;
        let mut z = start.latents(sampler.as_ref(), &mut sources, &pipeline.device)?;
        for step in steps.clone() {
            let timestep = sampler.timesteps().get(step).copied().unwrap_or_default();
            let input = sampler.scale_input(step, &z)?;
            let output = denoiser.guided_output_at(&input, timestep, &guidance)?;
            // From the generators that the picture began with, as in diffusers.
            let noise = if sampler.takes_noise(step) {
                Some(draw_each(&mut sources, shape, &pipeline.device)?)
            } else {
                None
            };
            let stepped = sampler.step(step, &output, &z, noise.as_ref())?;
            let taken = step + 1 - steps.start;
            let shown = taken < steps.len()
                && preview_every.is_some_and(|every| taken.is_multiple_of(every.get()));
            if shown {
                let previews = preview(pipeline, &stepped.x0, policy.decode, &cancel)?;
                for (index, picture) in previews.into_iter().enumerate() {
                    hand_over(Drawn::Preview { index: first + index, picture });
                }
            }
            // Predictions that are numbers may still add up to more than one holds.
            finite::check(&pipeline.unet_tensors.location, "a latent", &stepped.latents)?;
            z = stepped.latents;
            done += group.len();
            context.advance(Phase::Draw, done, total)?;
        }
        let pictures = decode_resting(pipeline, &z, policy.decode, &cancel)?;
        for (index, picture) in pictures.into_iter().enumerate() {
            hand_over(Drawn::Picture { index: first + index, picture });
        }
        first += group.len();
    }
    Ok(counter.get())
}

/// Pictures that are denoised side by side, of latents of this height and width.
pub(super) fn group_size([height, width]: [usize; 2]) -> usize {
    (CELLS_AT_ONCE / (height * width).max(1)).clamp(1, 32)
}

/// Small pictures of clean latents. The latents are shrunk before they are decoded, so that a
/// preview costs little beside a step.
fn preview(
    pipeline: &Pipeline,
    latents: &Tensor,
    way: Decode,
    cancel: &CancelFlag,
) -> Result<Vec<Picture>, EngineError> {
    let (_, _, height, width) = latents.dims4()?;
    let pixels = height.max(width) * pipeline.vae.factor();
    let shrink = pixels.div_ceil(PREVIEW_PIXELS);
    // A thin picture cannot be shrunk below one cell.
    let shrink = shrink.min(height.min(width)).max(1);
    // Smaller than a tile.
    let way = match way {
        Decode::Whole { .. } => way,
        Decode::Tiled => Decode::Whole { pictures: 1, passes: 1 },
    };
    if shrink == 1 {
        return decode_resting(pipeline, latents, way, cancel);
    }
    decode_resting(pipeline, &latents.avg_pool2d(shrink)?, way, cancel)
}

/// Prompts often repeat within a group; each is encoded once.
pub(super) fn encode_distinct(
    pipeline: &Pipeline,
    prompts: &[&str],
    size: Option<[usize; 2]>,
) -> Result<Conditioning, EngineError> {
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
    Ok(pipeline.encode_prompts_at(&distinct, size)?.select(&index)?)
}

/// Latents to 8-bit pictures (diffusers `VaeImageProcessor.postprocess`).
pub(super) fn decode(pipeline: &Pipeline, latents: &Tensor) -> Result<Vec<Picture>, EngineError> {
    let whole = Decode::Whole { pictures: DECODED, passes: rayon::current_num_threads() };
    decode_resting(pipeline, latents, whole, &CancelFlag::default())
}

/// The same in the way that was planned, with a rest after each round.
pub(super) fn decode_resting(
    pipeline: &Pipeline,
    latents: &Tensor,
    way: Decode,
    cancel: &CancelFlag,
) -> Result<Vec<Picture>, EngineError> {
    let latents = (latents / pipeline.vae.config().scaling_factor)?;
    let batch = latents.dim(0)?;
    let (at_once, rounds) = match way {
        Decode::Whole { pictures, passes } => (pictures, passes),
        Decode::Tiled => (1, 1),
    };
    let starts: Vec<usize> = (0..batch).step_by(at_once).collect();
    let mut pictures = Vec::with_capacity(batch);
    for (round, starts) in starts.chunks(rounds).enumerate() {
        if round > 0 {
            cancel.rest()?;
        }
        let decode_pass = |start: &usize| {
            let latents = latents.narrow(0, *start, at_once.min(batch - start))?;
            to_pictures(&match way {
                Decode::Whole { .. } => pipeline.vae.decode(&latents)?,
                Decode::Tiled => pipeline.vae.decode_tiled(&latents)?,
            })
        };
        let parts = starts.par_iter().map(decode_pass).collect::<Result<Vec<_>, EngineError>>()?;
        pictures.extend(parts.into_iter().flatten());
    }
    Ok(pictures)
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
