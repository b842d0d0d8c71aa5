//! What an erasure holds in memory, and how it can hold less.

use std::{collections::BTreeSet, num::NonZeroUsize};

use super::passes::{MemoryEstimate, Pass};
use crate::{
    engine::{
        EngineError,
        denoise::samples_a_pass,
        family::{Conditioning, Denoiser},
        nn::MemoryPolicy,
        unlearn::PROBE_SAMPLES,
    },
    outcome::MemoryPlan,
};

/// Bytes of a number: everything is computed in f32, however a file stores it.
pub(super) const NUMBER: u64 = 4;

/// What a process holds that has loaded the built-in model, less its weights, with what its
/// allocator keeps between phases: measured, and much the same for every model.
const PROGRAM_BYTES: u64 = 60 << 20;
/// Buffers that a thread keeps at hand, and numbers that the largest of them has as a rule: of those
/// that it may keep (`src/engine/kernels/buffer.rs`), no network fills all.
const BUFFERS: u64 = 8;
const LARGEST_BUFFER: u64 = 1 << 22;

/// What a process holds whatever it works on, with the buffers that so many threads keep at hand.
pub(super) fn program(threads: usize, largest_buffer: u64) -> u64 {
    let buffers = BUFFERS * largest_buffer.min(LARGEST_BUFFER);
    PROGRAM_BYTES + (threads as u64).saturating_mul(buffers.saturating_mul(NUMBER))
}

/// By how much a plan may be wrong. The allocator gives memory back ten milliseconds after it was
/// freed, and later where other work keeps the processors busy: a run that held 175 to 185 MB
/// alone held 191 beside a build. To give it back at once holds a sixth less and takes half as long again.
pub(super) fn margin(bytes: u64) -> u64 {
    bytes / 5
}

/// Trajectories that are walked side by side, and the prompts of each, the empty one among them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walked {
    pub(super) trajectories: usize,
    pub(super) prompts: usize,
}

impl Walked {
    fn samples(self) -> usize {
        self.trajectories * self.prompts
    }

    /// Prompts that are projected, at most: the empty one is the same for all.
    fn projected(self) -> u64 {
        (self.trajectories * (self.prompts - 1) + 1) as u64
    }
}

/// What decides how much memory an erasure takes.
#[derive(Debug)]
pub(super) struct Demand<'a> {
    /// With the tensors of the scope in training.
    pub(super) denoiser: &'a dyn Denoiser,
    /// `[channels, height, width]`.
    pub(super) latent: [usize; 3],
    /// The shape of a prompt.
    pub(super) prompt: &'a Conditioning<Vec<usize>>,
    /// Numbers of all tensors in scope.
    pub(super) parameters: u64,
    /// Samples of an update.
    pub(super) batch: usize,
    /// Bytes of all weights as loaded.
    pub(super) weights: u64,
    /// Numbers of all walked trajectories that are kept.
    pub(super) bank: u64,
    /// Walks by the frozen model before training.
    pub(super) walks: &'a [Walked],
    /// Prompts that stay projected while the edited model is trained.
    pub(super) projected: usize,
    pub(super) threads: usize,
}

/// A way to run the erasure, and what it holds then.
#[derive(Debug, Clone)]
pub(super) struct Arrangement {
    pub(super) memory_policy: MemoryPolicy,
    pub(super) memory: MemoryPlan,
    /// Segments in all.
    pub(super) segments: usize,
    /// Share of a training pass's multiplications that is done twice.
    pub(super) repeated: f64,
}

impl Demand<'_> {
    /// The fastest way that fits: with the fewest segments done again, those first that save the
    /// most for their work; and only where that does not do, with fewer passes side by side.
    pub(super) fn arrange(&self, limit: Option<u64>) -> Result<Arrangement, EngineError> {
        let plain = self.arrangement(None, &BTreeSet::new())?;
        let Some(limit) = limit else { return Ok(plain) };
        if plain.memory.total <= limit {
            return Ok(plain);
        }
        let order = self.order()?;
        let mut leanest = plain.memory.total;
        for passes in (1..=self.threads).rev() {
            let passes = NonZeroUsize::new(passes);
            for count in 0..=order.len() {
                let arrangement =
                    self.arrangement(passes, &order[..count].iter().copied().collect())?;
                if arrangement.memory.total <= limit {
                    return Ok(arrangement);
                }
                leanest = leanest.min(arrangement.memory.total);
            }
        }
        Err(EngineError::MemoryLimit {
            work: "the erasure",
            need: leanest,
            limit,
            remedy: "choose a narrower scope or a smaller batch, or compute with fewer threads",
        })
    }

    /// Segments that save memory, the most for their work first.
    fn order(&self) -> Result<Vec<usize>, EngineError> {
        let pass = self.pass();
        let MemoryEstimate { kept, multiplications, .. } = pass.train(&BTreeSet::new())?;
        let mut savings = Vec::new();
        for segment in 0..self.denoiser.segment_count() {
            let lean = pass.train(&BTreeSet::from([segment]))?;
            let saved = kept.saturating_sub(lean.kept);
            let again = lean.multiplications.saturating_sub(multiplications);
            if saved > 0 {
                savings.push((segment, saved as f64 / again.max(1) as f64));
            }
        }
        savings.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Ok(savings.into_iter().map(|(segment, _)| segment).collect())
    }

    /// A pass of as many samples as the largest has.
    fn pass(&self) -> Pass<'_> {
        let samples = self.samples_of(self.batch);
        Pass { denoiser: self.denoiser, latent: self.latent, prompt: self.prompt, samples }
    }

    fn samples_of(&self, batch: usize) -> usize {
        let [_, height, width] = self.latent;
        samples_a_pass(batch, height * width)
    }

    /// Passes of a batch that run side by side, of those that may, with the samples of each.
    fn side_by_side(&self, batch: usize, at_once: usize) -> (u64, usize) {
        let samples = self.samples_of(batch);
        (at_once.min(batch.div_ceil(samples)) as u64, samples)
    }

    fn arrangement(
        &self,
        passes: Option<NonZeroUsize>,
        recomputed: &BTreeSet<usize>,
    ) -> Result<Arrangement, EngineError> {
        let parameters = self.parameters;
        let at_once = passes.map_or(self.threads, NonZeroUsize::get).min(self.threads);
        let of_update = self.batch.div_ceil(self.samples_of(self.batch));
        let training = at_once.min(of_update) as u64;
        let estimate = self.pass().train(recomputed)?;
        // What a pass keeps is gone when it ends, but for its gradients, which are kept to be summed
        // in a fixed order.
        let finished = (of_update as u64).saturating_sub(training) * parameters;
        let gradients = finished + training * estimate.peak.gradients;
        let prompt = self.pass().projected();
        let prediction = |batch: usize| {
            let (passes, samples) = self.side_by_side(batch, at_once);
            Ok::<_, EngineError>(passes * Pass { samples, ..self.pass() }.predict()?.peak)
        };
        let trained = training * estimate.peak.activations + self.projected as u64 * prompt;
        // The probe's predictions come with the trainer in memory, but with no gradients.
        let predicted = prediction(PROBE_SAMPLES)?;
        // Walks come before both.
        let mut walked = 0;
        for walk in self.walks {
            walked = walked.max(prediction(walk.samples())? + walk.projected() * prompt);
        }
        let walked = walked.saturating_sub(3 * parameters);
        let activations = trained.max(predicted.max(walked).saturating_sub(gradients));

        let bytes = |numbers: u64| numbers.saturating_mul(NUMBER);
        let program = program(self.threads, estimate.largest_buffer);
        let weights = self.weights;
        let parts = [parameters, 2 * parameters, gradients, activations, self.bank].map(bytes);
        let [trainable, optimiser, gradients, activations, bank] = parts;
        let needed = parts.into_iter().fold(program, u64::saturating_add);
        let margin = margin(needed);
        let memory = MemoryPlan {
            program,
            weights,
            trainable,
            optimiser,
            gradients,
            activations,
            bank,
            margin,
            total: needed.saturating_add(margin).saturating_add(weights),
        };
        let once = self.pass().predict()?.multiplications;
        let again = estimate.multiplications.saturating_sub(once);
        Ok(Arrangement {
            memory_policy: MemoryPolicy {
                recomputed: recomputed.clone(),
                passes: passes.filter(|_| at_once < self.threads),
            },
            memory,
            segments: self.denoiser.segment_count(),
            // Backward takes twice as much as forward.
            repeated: again as f64 / (3 * once).max(1) as f64,
        })
    }
}
