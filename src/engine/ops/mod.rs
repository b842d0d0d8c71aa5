//! The differentiable operations that the models are made of, each with a forward, a backward and
//! a finite-difference test.
//!
//! Arguments and results are [`TapeTensor`]: tensors that know which variables had a part in them. For
//! `f32` in host memory, and for `f32`, `f16` and `bf16` on CUDA devices (`cuda`), each operation has
//! a fast form, whose gradients are computed for the arguments that are followed and no others;
//! elsewhere it is composed of tensor operations that candle differentiates, against which the fast
//! forms are tested. In host memory, weights that no gradient is wanted for may lie in half precision.
//!
//! One environment variable matters to speed, and to no result: with `CANDLE_NUM_THREADS=1` candle,
//! which does what is left over, adds and multiplies large tensors on the calling thread; otherwise
//! it hands them to a pool that spins, and that concurrent callers wait for.

mod activation;
mod adam;
mod addends;
mod arrangement;
mod attention;
mod buffer;
mod checkpointed;
mod columns;
mod convolution;
mod cpu;
mod cuda;
mod dry_run;
mod exponential;
mod filtering;
mod fresh;
mod heap;
mod layer_norm;
mod linear;
mod norm;
mod planes;
mod product;
mod softmax;
mod tape;
#[cfg(test)]
mod testing;
mod tiles;
mod upsample;
mod weight;
mod winograd;

pub use activation::{geglu, gelu_erf, quick_gelu, silu};
pub use adam::{Adam, AdamSettings, Moments};
pub use addends::Addends;
pub use arrangement::{
    add_constant, cast, concatenate_channels, pad_right_and_bottom, reshape, sum_of_squares, sums_of_squares, total,
    transpose,
};
pub use attention::attention;
pub use checkpointed::checkpointed;
pub use convolution::{Convolution, conv2d};
pub use dry_run::{Memory, Meter, Peak};
pub use heap::{give_freed_memory_back, keep_freed_memory};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use norm::{GroupNorm, group_norm};
pub use planes::{linear_from_planes, linear_to_planes};
pub use tape::{Gradients, TapeTensor};
pub use upsample::upsample_nearest;

/// Runs `work` on a thread of the pool that the operations share. Each of them would otherwise be
/// handed over to it alone, and waited for: that takes longer than a small one.
pub fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
