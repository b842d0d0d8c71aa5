//! What an erasure will cost, from a model's configs and headers alone: no weight is read.

mod attacking;
mod erasing;
mod evaluations;
mod judging;
mod memory;
mod passes;
mod sizes;
mod work;

pub(super) use erasing::{erasure, memory_policy};
pub(super) use judging::judgement;
pub use work::WorkMemory;
pub(super) use work::{Drawing, drawing, scoring, spare};

use super::{EngineError, wording};
use crate::{
    outcome::{MemorySavings, Plan},
    spec::{ModelFiles, UnlearnSpec},
};
use erasing::{arrange, updates_and_batch};
use memory::Arrangement;
use sizes::Sizes;

/// What an erasure on a model will cost, in a process that may take `memory_limit` bytes where there
/// is a limit.
///
/// Evaluations are exact, for all methods, where the window is given and the run does not stop
/// early: the draws that decide them are drawn here too. Memory is the process's peak on the CPU,
/// with as many threads as this process has; [`crate::outcome::MemoryPlan`] says how close that
/// comes. Where it would exceed the limit, the run saves memory at the cost of time, with the same
/// result; where it cannot save enough, this fails with [`EngineError::MemoryLimit`].
pub fn plan(
    files: &dyn ModelFiles,
    spec: &UnlearnSpec,
    memory_limit: Option<u64>,
) -> Result<Plan, EngineError> {
    let spec = &spec.canonical();
    wording::check_erasure_words(files, spec)?;
    let sizes = Sizes::read(files)?;
    let trained = sizes.scoped(spec)?;
    let costs = evaluations::count(&sizes, spec)?;
    let arrangement = arrange(&sizes, spec, &trained, &costs, memory_limit)?;
    let Arrangement { memory_policy, memory, segments, repeated } = arrangement;
    Ok(Plan {
        updates: updates_and_batch(spec).0,
        unet_evaluations: costs.method,
        score_evaluations: costs.scores,
        check_evaluations: costs.checks,
        window_assumed: costs.window_assumed,
        trainable_tensors: trained.len(),
        trainable_parameters: trained.values().sum(),
        memory_bytes: memory,
        saving: MemorySavings {
            recomputed_segments: memory_policy.recomputed.len(),
            segments,
            repeated_work: repeated,
            passes: memory_policy.passes.map(std::num::NonZeroUsize::get),
        },
    })
}

/// Bytes of a model's weights once it is loaded, from its headers.
pub fn weight_bytes(files: &dyn ModelFiles) -> Result<u64, EngineError> {
    Ok(Sizes::read(files)?.weights)
}
