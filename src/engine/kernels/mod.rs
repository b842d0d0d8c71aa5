//! Arithmetic on slices of `f32` in host memory, with the memory that it works in. Knows no graph.
//!
//! One environment variable matters to speed, and to no result: with `CANDLE_NUM_THREADS=1` candle,
//! which does what is left over, adds and multiplies large tensors on the calling thread; otherwise
//! it hands them to a pool that spins, and that concurrent callers wait for.

pub(in crate::engine) mod buffer;
pub(in crate::engine) mod columns;
pub(in crate::engine) mod cpu;
pub(in crate::engine) mod exponential;
mod filtering;
pub(in crate::engine) mod fresh;
mod heap;
pub(in crate::engine) mod product;
pub(in crate::engine) mod softmax;
pub(in crate::engine) mod sums;
#[cfg(test)]
pub(in crate::engine) mod testing;
mod tiles;
pub(in crate::engine) mod weight;
pub(in crate::engine) mod winograd;

pub use heap::{give_freed_memory_back, keep_freed_memory};
pub use sums::total;

/// Runs `work` on a thread of the pool that the operations share. Each of them would otherwise be
/// handed over to it alone, and waited for: that takes longer than a small one.
pub fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
