//! What drawing and scoring hold in memory, and how a drawing holds less.

use std::{collections::BTreeSet, num::NonZeroUsize};

use super::{
    memory::{NUMBER, Walked, margin, program},
    passes::{Pass, decode, encode, encode_text},
    sizes::Sizes,
};
use crate::{
    engine::{
        EngineError, Pipeline,
        denoise::samples_a_pass,
        family::{PROMPTS_AT_ONCE, vae_tiles::TILE_PIXELS},
        generate::{DECODED, Decode, DrawingPolicy, group_size},
        ops,
        score::{GRADIENT_TRAJECTORIES, MOST_BRANCHES},
    },
    spec::{GenerateSpec, ScoreSpec},
};

/// Latents that a step of a drawing holds for a moment: of the sampler's history, the noise, and what
/// goes into the network and comes out of it.
const LATENTS: u64 = 16;

/// What some work holds at its peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkMemory {
    /// Bytes that the program holds, whatever it works on.
    pub program: u64,
    /// Bytes that the work takes beside the program and the models that are loaded.
    pub work: u64,
}

/// How pictures of a size are decoded and steered, whatever their number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canvas {
    /// Height and width of a latent.
    pub(super) size: [usize; 2],
    pub(super) guides: bool,
    pub(super) encodes: bool,
}

/// How a drawing is done within a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Drawing {
    pub(in crate::engine) policy: DrawingPolicy,
    pub(in crate::engine) memory: WorkMemory,
}

/// A model that work is done with, and how much the process may take.
pub(super) struct Worker<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) sizes: Sizes,
    pub(super) threads: usize,
    /// Numbers of the largest buffer that a thread keeps at hand.
    buffer: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, sizes: Sizes) -> Result<Self, EngineError> {
        let threads = rayon::current_num_threads();
        let worker = Self { pipeline, sizes, threads, buffer: 0 };
        let size = worker.sizes.size;
        let predicting = worker.pass(size, 1).predict()?.largest_buffer;
        let buffer = decode(&pipeline.vae, 1, size)?.largest_buffer.max(predicting);
        Ok(Self { buffer, ..worker })
    }

    pub(super) fn memory(&self, numbers: u64, bytes: u64) -> WorkMemory {
        let work = numbers.saturating_mul(NUMBER).saturating_add(bytes);
        WorkMemory::with_margin(program(self.threads, self.buffer), work)
    }

    fn prediction(
        &self,
        size: [usize; 2],
        samples: usize,
        passes: Option<NonZeroUsize>,
    ) -> Result<u64, EngineError> {
        let a_pass = samples_a_pass(samples, size.iter().product());
        let at_once = passes.map_or(self.threads, NonZeroUsize::get).min(self.threads);
        let side_by_side = at_once.min(samples.div_ceil(a_pass)) as u64;
        Ok(side_by_side * self.pass(size, a_pass).predict()?.peak)
    }

    pub(super) fn pass(&self, size: [usize; 2], samples: usize) -> Pass<'_> {
        let Sizes { denoiser, prompt, .. } = &self.sizes;
        Pass { denoiser: &**denoiser, latent: self.sizes.latent_shape(size), prompt, samples }
    }

    /// Numbers that so many prompts take: encoded, and as the denoiser projects them.
    pub(super) fn prompts(&self, size: [usize; 2], prompts: usize) -> u64 {
        prompts as u64 * (2 * self.sizes.text() + self.pass(size, 1).projected())
    }

    /// Numbers that the text encoders hold for a moment, one after the other.
    pub(super) fn encoding(&self, prompts: usize) -> Result<u64, EngineError> {
        let prompts = prompts.min(PROMPTS_AT_ONCE);
        let towers = self.pipeline.towers.iter();
        let peaks = towers.map(|tower| Ok(encode_text(&tower.encoder, prompts)?.peak));
        Ok(peaks.collect::<Result<Vec<_>, EngineError>>()?.into_iter().max().unwrap_or(0))
    }

    /// Numbers that decoding so many latents holds.
    fn decoding(&self, size: [usize; 2], pictures: usize, way: Decode) -> Result<u64, EngineError> {
        let vae = &self.pipeline.vae;
        let picture = self.picture(size);
        Ok(match way {
            Decode::Whole { pictures: a_pass, passes } => {
                let samples = a_pass.min(pictures);
                let at_once = passes.min(pictures.div_ceil(a_pass)) as u64;
                // As the decoder gives it, and twice on its way to bytes.
                let peak = decode(vae, samples, size)?.peak;
                at_once * peak.max(3 * samples as u64 * picture)
            }
            Decode::Tiled => {
                let size = size.map(|side| side.min(TILE_PIXELS / vae.factor()));
                // The tiles of two rows, and what they are joined to.
                4 * picture + decode(vae, 1, size)?.peak
            }
        })
    }

    /// Numbers of a picture.
    pub(super) fn picture(&self, size: [usize; 2]) -> u64 {
        let factor = self.pipeline.vae.factor();
        size.map(|side| (side * factor) as u64).into_iter().product::<u64>() * 3
    }

    fn limited(&self, memory: WorkMemory) -> Option<u64> {
        let needed = memory.total(self.sizes.weights);
        self.pipeline.memory_limit.filter(|limit| needed > *limit)
    }
}

impl WorkMemory {
    /// What a plan may be off by is added: to all but the weights, whose size is known.
    fn with_margin(program: u64, work: u64) -> Self {
        Self { program: program + margin(program), work: work.saturating_add(margin(work)) }
    }

    /// Beside models of so many bytes.
    pub fn total(self, weights: u64) -> u64 {
        self.program.saturating_add(self.work).saturating_add(weights)
    }
}

impl Worker<'_> {
    /// What drawing a group of pictures in a way holds, the group of so many finished ones.
    pub(super) fn drawn(
        &self,
        canvas: Canvas,
        (group, count): (usize, usize),
        (decode, passes): (Decode, Option<NonZeroUsize>),
    ) -> Result<WorkMemory, EngineError> {
        let Canvas { size, guides, encodes } = canvas;
        let samples = if guides { 2 * group } else { group };
        let held =
            LATENTS * group as u64 * self.sizes.latent_of(size) + self.prompts(size, group + 1);
        let parts = [
            self.encoding(group)?,
            self.prediction(size, samples, passes)?,
            self.decoding(size, group, decode)?,
            if encodes { encode(&self.pipeline.vae, size)?.peak } else { 0 },
        ];
        let most = parts.into_iter().max().unwrap_or(0);
        Ok(self.memory(held + most, count as u64 * self.picture(size)))
    }

    /// Ways to draw, the fastest first. Pictures larger than a tile are decoded in tiles where not
    /// even one of them fits otherwise: that shows, and so it depends on nothing but their size, the
    /// model and the limit, and not on how many there are.
    fn ways(&self, canvas: Canvas) -> Result<Vec<(Decode, Option<NonZeroUsize>)>, EngineError> {
        let whole = |pictures, passes| Decode::Whole { pictures, passes };
        let tile = TILE_PIXELS / self.pipeline.vae.factor();
        let slowest = (whole(1, 1), NonZeroUsize::new(1));
        let is_large = canvas.size.iter().any(|side| *side > tile);
        let fits = |memory| self.limited(memory).is_none();
        let decodes: Vec<Decode> = if is_large && !fits(self.drawn(canvas, (1, 1), slowest)?) {
            vec![Decode::Tiled]
        } else {
            let fewer = (1..=self.threads).rev().map(|passes| whole(DECODED, passes));
            fewer.chain([whole(2, 1), whole(1, 1)]).collect()
        };
        let passes = [self.threads, 1].map(NonZeroUsize::new);
        let passes = passes.map(|passes| passes.filter(|passes| passes.get() < self.threads));
        let ways =
            passes.into_iter().flat_map(|passes| decodes.iter().map(move |way| (*way, passes)));
        Ok(ways.collect())
    }
}

/// The fastest way to draw that stays within the pipeline's limit. It depends on the spec and the
/// limit alone, so that the same request gives the same bytes.
pub(in crate::engine) fn drawing(
    pipeline: &Pipeline,
    spec: &GenerateSpec,
) -> Result<Drawing, EngineError> {
    let factor = pipeline.vae.factor();
    let size = if let Some(image) = &spec.init_image {
        [image.height / factor, image.width / factor]
    } else {
        let [_, height, width] = pipeline.latent_shape(spec.size)?;
        [height, width]
    };
    let worker = Worker::new(pipeline, Sizes::at(pipeline, size))?;
    let canvas =
        Canvas { size, guides: spec.guidance_scale > 1.0, encodes: spec.init_image.is_some() };
    let count = spec.pictures.len();
    let group = group_size(size).min(count);
    let mut leanest: Option<Drawing> = None;
    for (decode, passes) in worker.ways(canvas)? {
        let memory = worker.drawn(canvas, (group, count), (decode, passes))?;
        let way = Drawing { policy: DrawingPolicy { decode, passes }, memory };
        if worker.limited(memory).is_none() {
            return Ok(way);
        }
        if leanest.is_none_or(|lean| memory.work < lean.memory.work) {
            leanest = Some(way);
        }
    }
    let need = leanest.map_or(0, |way| way.memory.total(worker.sizes.weights));
    Err(EngineError::MemoryLimit {
        work: "the drawing",
        need,
        limit: pipeline.memory_limit.unwrap_or(0),
        remedy: "ask for smaller or fewer pictures",
    })
}

/// What a measurement of steps holds; refused where it is more than the pipeline's limit.
pub(in crate::engine) fn scoring(
    pipeline: &Pipeline,
    spec: &ScoreSpec,
) -> Result<WorkMemory, EngineError> {
    let worker = Worker::new(pipeline, Sizes::of(pipeline)?)?;
    let sizes = &worker.sizes;
    let (size, count) = (sizes.size, spec.trajectories);
    let mut walks = vec![Walked { trajectories: count, prompts: 3 }];
    if spec.gradient_share {
        walks.push(Walked { trajectories: count, prompts: 2 });
    }
    let kept: u64 = walks.iter().map(|walk| walk.kept(sizes, spec.steps)).sum();
    // The states of all prompts, of which a walk projects its own.
    let held = kept + 3 * count as u64 * sizes.text();
    let walking = worker.prediction(size, 3 * count, None)?
        + worker.prompts(size, 2 * count + 1)
        + 4 * 3 * count as u64 * sizes.latent();
    let mut most = walking.max(worker.encoding(count)?);
    if spec.gradient_share {
        let trained = sizes.scoped_by(&spec.scope)?;
        let parameters: u64 = trained.values().sum();
        let rows = GRADIENT_TRAJECTORIES.min(count);
        let denoiser = sizes.trained_denoiser(&trained)?;
        let pass = Pass { denoiser: &*denoiser, ..worker.pass(size, 1) };
        let peak = pass.train(&BTreeSet::new())?.peak;
        // Each trajectory has weights of its own, as they were and moved, and two gradients.
        let at_once = rows.min(worker.threads) as u64;
        let gradients = rows as u64 * parameters + at_once * (4 * parameters + peak.total());
        most = most.max(gradients);
    }
    if spec.switch_curve {
        let batch = MOST_BRANCHES + 1;
        let curve = worker.prediction(size, 2 * batch, None)?
            + LATENTS * batch as u64 * sizes.latent()
            + worker.prompts(size, 2);
        let whole = Decode::Whole { pictures: DECODED, passes: worker.threads };
        let judged = pipeline.judges.working_numbers();
        most = most.max(curve).max(worker.decoding(size, DECODED, whole)?.max(judged));
    }
    let memory = worker.memory(held + most, 0);
    worker.refuse(memory, "the measurement", "ask for fewer trajectories, steps or measures")
}

/// Has the allocator keep nothing where the limit is near: what it keeps for one phase lies beside
/// what the next one takes.
pub(in crate::engine) fn spare(pipeline: &Pipeline, memory: WorkMemory) {
    let needed = memory.total(pipeline.weight_bytes);
    if pipeline.memory_limit.is_some_and(|limit| needed > limit / 2) {
        ops::give_freed_memory_back();
    }
}

impl Worker<'_> {
    pub(super) fn refuse(
        &self,
        memory: WorkMemory,
        work: &'static str,
        remedy: &'static str,
    ) -> Result<WorkMemory, EngineError> {
        match self.limited(memory) {
            None => Ok(memory),
            Some(limit) => {
                let need = memory.total(self.sizes.weights);
                Err(EngineError::MemoryLimit { work, need, limit, remedy })
            }
        }
    }
}
