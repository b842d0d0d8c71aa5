//! Predictions in batches, and walks down the denoising path.

use std::{
    num::NonZeroUsize,
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering},
};

use candle_core::{D, Tensor};
use rayon::prelude::*;

use super::{
    CancelFlag, EngineError,
    family::{Conditioning, Denoiser, ProjectedConditioning},
    schedule::{NoiseSource, Schedule},
};
use crate::spec::StepIndex;

/// Cells of a pass of small latents: many enough for its products to be fast.
const CELLS_A_PASS: usize = 8 * 16 * 16;
/// Samples of a pass of large latents, and the most of any.
const SAMPLES: RangeInclusive<usize> = 4..=8;

/// Samples of each pass that a batch of latents of so many cells is split into, but for the last.
///
/// By these sizes alone, so that results do not depend on the number of threads; few, so that passes
/// run side by side and their activations stay in cache; equally many, so that threads share them
/// evenly.
pub(super) fn samples_a_pass(batch: usize, cells: usize) -> usize {
    let most = (CELLS_A_PASS / cells.max(1)).clamp(*SAMPLES.start(), *SAMPLES.end());
    batch.div_ceil(batch.div_ceil(most).max(1)).max(1)
}

/// Cells of a latent, `[…, h, w]`.
pub(super) fn cells(latent: &Tensor) -> Result<usize, EngineError> {
    Ok(latent.dim(D::Minus2)? * latent.dim(D::Minus1)?)
}

/// The results of passes by a denoiser, in their order: as many side by side as its memory policy
/// allows.
pub(super) fn side_by_side<P: Sync, R: Send>(
    denoiser: &dyn Denoiser,
    passes: &[P],
    pass: impl Fn(&P) -> Result<R, EngineError> + Sync,
) -> Result<Vec<R>, EngineError> {
    in_rounds(denoiser, passes, None, pass)
}

/// The same, no more side by side than there are threads, with a rest after each round where there
/// is a flag to rest by.
fn in_rounds<P: Sync, R: Send>(
    denoiser: &dyn Denoiser,
    passes: &[P],
    resting: Option<&CancelFlag>,
    pass: impl Fn(&P) -> Result<R, EngineError> + Sync,
) -> Result<Vec<R>, EngineError> {
    let threads = if resting.is_some() { rayon::current_num_threads() } else { usize::MAX };
    let at_once =
        denoiser.memory_policy().passes.map_or(usize::MAX, NonZeroUsize::get).min(threads);
    let mut results = Vec::with_capacity(passes.len());
    for (round, passes) in passes.chunks(at_once).enumerate() {
        if let Some(flag) = resting.filter(|_| round > 0) {
            flag.rest()?;
        }
        let of_these = passes.par_iter().map(&pass).collect::<Result<Vec<_>, _>>()?;
        results.extend(of_these);
    }
    Ok(results)
}

/// Counts single-sample U-Net evaluations; a guided pair counts two.
#[derive(Debug, Default)]
pub(super) struct EvaluationCounter(AtomicU64);

impl EvaluationCounter {
    pub(super) fn add(&self, samples: usize) {
        self.0.fetch_add(samples as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Goes on from a count, when a run is resumed.
    pub(super) fn set(&self, samples: u64) {
        self.0.store(samples, Ordering::Relaxed);
    }
}

/// A denoiser with the schedule that it is sampled on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScheduledDenoiser<'a> {
    pub(super) network: &'a dyn Denoiser,
    pub(super) schedule: &'a Schedule,
    pub(super) evaluations: &'a EvaluationCounter,
    /// Looked at between the passes of a large batch, where there is one.
    pub(super) resting: Option<&'a CancelFlag>,
}

impl ScheduledDenoiser<'_> {
    /// The network's output for a whole batch at one step, untracked, under prompts that it has
    /// projected, a row a sample.
    ///
    /// # Shapes
    /// `z: [batch, channels, h, w]`.
    pub(super) fn predict(
        &self,
        z: &Tensor,
        step: StepIndex,
        prompts: &ProjectedConditioning,
    ) -> Result<Tensor, EngineError> {
        self.predict_at(z, self.schedule.timestep(step).0 as f64, prompts)
    }

    /// [`ScheduledDenoiser::predict`] at a timestep that may lie between the trained ones.
    fn predict_at(
        &self,
        z: &Tensor,
        timestep: f64,
        prompts: &ProjectedConditioning,
    ) -> Result<Tensor, EngineError> {
        let batch = z.dim(0)?;
        self.evaluations.add(batch);
        let samples = samples_a_pass(batch, cells(z)?);
        let starts: Vec<usize> = (0..batch).step_by(samples).collect();
        let parts = in_rounds(self.network, &starts, self.resting, |&start| {
            let count = samples.min(batch - start);
            self.network.forward_projected(
                &z.narrow(0, start, count)?,
                &vec![timestep; count],
                &prompts.narrow(start, count)?,
            )
        })?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Both halves of classifier-free guidance in one batch: `(conditional, unconditional)`, under
    /// the prompts of `z`, and as many others after them.
    pub(super) fn predict_pair(
        &self,
        z: &Tensor,
        step: StepIndex,
        prompts: &ProjectedConditioning,
    ) -> Result<(Tensor, Tensor), EngineError> {
        self.predict_pair_at(z, self.schedule.timestep(step).0 as f64, prompts)
    }

    fn predict_pair_at(
        &self,
        z: &Tensor,
        timestep: f64,
        prompts: &ProjectedConditioning,
    ) -> Result<(Tensor, Tensor), EngineError> {
        let batch = z.dim(0)?;
        let both = self.predict_at(&Tensor::cat(&[z, z], 0)?, timestep, prompts)?;
        Ok((both.narrow(0, 0, batch)?, both.narrow(0, batch, batch)?))
    }

    /// One guided step down.
    pub(super) fn guided_step(
        &self,
        z: &Tensor,
        step: StepIndex,
        guidance: &Guidance,
    ) -> Result<Tensor, EngineError> {
        let output = self.guided_output(z, step, guidance)?;
        Ok(self.schedule.step(step, &output, z)?)
    }

    /// What a guided step is taken with.
    pub(super) fn guided_output(
        &self,
        z: &Tensor,
        step: StepIndex,
        guidance: &Guidance,
    ) -> Result<Tensor, EngineError> {
        self.guided_output_at(z, self.schedule.timestep(step).0 as f64, guidance)
    }

    /// [`ScheduledDenoiser::guided_output`] at a timestep that may lie between the trained ones.
    pub(super) fn guided_output_at(
        &self,
        z: &Tensor,
        timestep: f64,
        guidance: &Guidance,
    ) -> Result<Tensor, EngineError> {
        if !guides(guidance.scale) {
            return self.predict_at(z, timestep, &guidance.prompts);
        }
        let (conditional, unconditional) = self.predict_pair_at(z, timestep, &guidance.prompts)?;
        guide(&conditional, &unconditional, guidance.scale)
    }
}

/// Prompts that classifier-free guidance steers a batch by, and how hard.
#[derive(Debug, Clone)]
pub(super) struct Guidance {
    /// What each sample is steered towards; then, where the scale guides, away from.
    prompts: ProjectedConditioning,
    scale: f64,
}

impl Guidance {
    /// By a denoiser, with the weights that it has now, from as many prompts as samples and one
    /// that all are steered away from.
    pub(super) fn new(
        denoiser: &dyn Denoiser,
        prompts: &Conditioning,
        unconditional: &Conditioning,
        scale: f64,
    ) -> Result<Self, EngineError> {
        let batch = prompts.rows()?;
        let projected = denoiser.project(&Conditioning::cat(&[prompts, unconditional])?)?;
        Self::select(&projected, &(0..batch).collect::<Vec<_>>(), batch, scale)
    }

    /// Of these rows of projected prompts, a row a sample, and one that all are steered away from.
    pub(super) fn select(
        prompts: &ProjectedConditioning,
        towards: &[usize],
        away: usize,
        scale: f64,
    ) -> Result<Self, EngineError> {
        let unconditional = if guides(scale) { towards.len() } else { 0 };
        let rows = [towards, &vec![away; unconditional]].concat();
        Ok(Self { prompts: prompts.select(&rows)?, scale })
    }
}

/// A scale of 1 or less needs no unconditional pass, as in diffusers.
fn guides(scale: f64) -> bool {
    scale > 1.0
}

/// `unconditional + scale · (conditional − unconditional)`.
pub(super) fn guide(
    conditional: &Tensor,
    unconditional: &Tensor,
    scale: f64,
) -> Result<Tensor, EngineError> {
    Ok((unconditional + ((conditional - unconditional)? * scale)?)?)
}

/// Noise for one trajectory a seed, each from a generator of its own, as diffusers does with a
/// list of generators.
///
/// # Shapes
/// `[seeds, channels, h, w]`.
pub(super) fn initial_latents(
    seeds: &[u64],
    shape: [usize; 3],
    device: &candle_core::Device,
) -> Result<Tensor, EngineError> {
    let mut sources: Vec<_> = seeds.iter().map(|&seed| NoiseSource::new(seed)).collect();
    draw_each(&mut sources, shape, device)
}

/// The next noise of each generator, one sample each.
///
/// # Shapes
/// `[sources, channels, h, w]`.
pub(super) fn draw_each(
    sources: &mut [NoiseSource],
    shape: [usize; 3],
    device: &candle_core::Device,
) -> Result<Tensor, EngineError> {
    let [channels, height, width] = shape;
    let each = sources
        .iter_mut()
        .map(|source| source.randn_tensor(&[1, channels, height, width], device))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&each, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_split_evenly() {
        for (batch, cells, samples) in [
            (16, 16 * 16, 8),
            (12, 16 * 16, 6),
            (9, 16 * 16, 5),
            (1, 16 * 16, 1),
            (0, 16 * 16, 1),
            (12, 64 * 64, 4),
            (6, 64 * 64, 3),
            (40, 32 * 32, 4),
            (8, 0, 8),
        ] {
            assert_eq!(samples_a_pass(batch, cells), samples, "{batch} of {cells}");
        }
    }
}
