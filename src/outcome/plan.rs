//! What a job is expected to cost, before it begins.

use serde::{Deserialize, Serialize};

/// The expected cost of an erasure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Updates at most; `keystep` may stop earlier.
    pub updates: usize,
    /// Single-sample U-Net evaluations of the method, as `TrainingLog::unet_evaluations` counts
    /// them: exact unless the run stops early or `window_assumed` is set.
    pub unet_evaluations: u64,
    /// Those of scoring, where the run measures its window itself.
    pub score_evaluations: u64,
    /// Those spent on checking the run against held-out latents.
    pub check_evaluations: u64,
    /// Whether the window is yet to be measured: the evaluations, and the bank's size, are then
    /// those of a window as wide as the schedule, which is the most that they can be.
    pub window_assumed: bool,
    /// Tensors in scope.
    pub trainable_tensors: usize,
    /// Numbers in them.
    pub trainable_parameters: u64,
    /// What the run holds in memory.
    pub memory_bytes: MemoryPlan,
    /// What it does to hold no more.
    pub saving: MemorySavings,
}

/// What a run does to stay within a memory limit, at the cost of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemorySavings {
    /// Segments of the U-Net that keep nothing and are done again in the backward pass.
    pub recomputed_segments: usize,
    /// Segments in all.
    pub segments: usize,
    /// Work that is done twice, as a share of a training pass's.
    pub repeated_work: f64,
    /// Most passes of a batch that run side by side; none where every thread may take one.
    pub passes: Option<usize>,
}

/// Bytes that a run's process holds at once on the CPU, by what they are for.
///
/// The total is meant to be no less than the peak resident set: without its margin it stands within
/// 15 %, and `tests/memory.rs` holds it to both on the built-in model with two threads. What passes
/// hold is exact to 5 % there; the rest is what the allocator does with it. Of Stable Diffusion 1.4 single training steps were measured, not
/// whole runs. A device of another kind runs composed operations, which keep more: the attention's
/// scores above all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// The program and its tables, and the buffers that its threads keep at hand.
    pub program: u64,
    /// The whole model as loaded, judges included.
    pub weights: u64,
    /// The trained copies of the tensors in scope.
    pub trainable: u64,
    /// The optimiser's moments.
    pub optimiser: u64,
    /// Gradients of every pass of an update, which are kept to be summed in a fixed order.
    pub gradients: u64,
    /// What forward passes keep for their backward passes, as many as run side by side, and what
    /// prompts are projected to where that is kept.
    pub activations: u64,
    /// Walked trajectories: the training's and the probe's.
    pub bank: u64,
    /// What the parts but the weights may be off by.
    #[serde(default)]
    pub margin: u64,
    /// All of them.
    pub total: u64,
}
